"""The coordinator's process: `python -m tacit.coordinator --home DIR --plan FILE`."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tacit.codec.errors import CodecError
from tacit.coordinator.admin import admin_app
from tacit.coordinator.alive import process_name
from tacit.coordinator.desk import Desk, open_operators
from tacit.coordinator.judged import check_judges, judged_by, newest_values
from tacit.coordinator.keyholders import HttpKeyholder
from tacit.coordinator.keys import CoordinatorKeys, load_or_make
from tacit.coordinator.opener import Opener, OpenerThread, Trouble
from tacit.coordinator.operators import AdminDoor
from tacit.coordinator.published import Pace, Rule
from tacit.coordinator.publishing import take_judged
from tacit.coordinator.records import Records
from tacit.coordinator.roll import Door
from tacit.coordinator.server import Coordinator, IntakeThread, make_app
from tacit.coordinator.sql_store import SqlStore
from tacit.coordinator.store import Store
from tacit.coordinator.succession import begin_after, chain_of, check_start
from tacit.coordinator.tidying import KEEP, Keep, tidied
from tacit.coordinator.verdicts import Checking, Verdicts
from tacit.coordinator.watching import WHO_READS, WhoReads
from tacit.errors import InputError, TacitError
from tacit.logs import FORMS, Form, begin_log
from tacit.plan.bundle import Plan, PlanRefused, read_plan
from tacit.plan.evaluated import Judged
from tacit.plan.manifest import KeyholderCard
from tacit.rates import Share
from tacit.serving import Beside, Tls, serve
from tacit.wire.codes import Code
from tacit.wire.ids import DeviceKey

Role = Literal["api", "opener", "all"]

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 60.0
ADDRESS_RATE = 50  # a second: two hundred devices behind one address that look every five seconds need 40


@dataclass(frozen=True)
class AdminAddress:
    """An address for operators alone; with `clients`, authorities, only certificates of theirs are let in."""

    host: str
    port: int
    tls: Tls | None = None
    clients: Path | None = None


@dataclass(frozen=True)
class Settings:
    """What a coordinator is started with.

    | setting | example | |
    |---|---|---|
    | home | `~/coordinator` | its keys, and a folder of records for each Plan |
    | plan | `digits.tacit` | the Plan it serves, with those before and after it that it has served |
    | evaluation | `digits.eval.tacit` | the Plan by which its Snapshots are judged, if they are |
    | keyholders | `("http://127.0.0.1:9000",)` | where they are, in the Plan's order; what the Plan says if empty |
    | embedded | `""` | where the keyholder beside it is, for Plans of the chain that name one |
    | host | `127.0.0.1` | where it listens |
    | port | `8080` | 0 takes any free one |
    | deadline_s | `600` | a batch closes then if its threshold is met |
    | store | `postgresql://db/tacit` | the database; an SQLite file for each Plan in `home` if empty |
    | blobs | `s3://bucket/tacit` | where Updates and Snapshots are; in `home` if empty |
    | admin | `AdminAddress("127.0.0.1", 8081)` | where operators are let in; with the devices if it is None |
    | checking | `Checking("check")` | by what Snapshots are checked before people get them; None: as it was before |
    | keep | `Keep(updates_days=90)` | what becomes of Updates and Snapshots that have served: see `tidying` |
    | role | `api` | `api` takes Updates, `opener` opens batches, `all` does both |
    | door | `invited` | whom it enrols (`tacit.coordinator.roll`) |
    | tls | `Tls(cert.pem, key.pem)` | None where it is reached without, or a proxy ends it |
    | rate | `50` | requests a second of one address; 0 for any number; None: 50 where others can reach it |
    | public | `https://fl.example` | where devices reach it, if not where it listens |
    | metrics | `local` | who may read `/metrics`: this machine alone, everybody (`open`), nobody (`off`) |
    | log | `json` | the form of what is written to stderr |
    """

    home: Path
    plan: Path
    keyholders: tuple[str, ...]
    embedded: str
    host: str
    port: int
    deadline_s: int
    evaluation: Path | None = None
    store: str = field(default="", repr=False)  # there may be a password in it
    blobs: str = ""
    role: Role = "all"
    door: Door = Door.OPEN
    tls: Tls | None = None
    rate: float | None = None
    public: str = ""
    metrics: WhoReads = "local"
    log: Form = "text"
    admin: "AdminAddress | None" = None
    checking: Checking | None = None
    keep: Keep = KEEP

    @property
    def records(self) -> Records:
        return Records(self.home, self.store, self.blobs)


def parse(arguments: list[str]) -> Settings:
    """The settings in a command line.

    >>> parse(["--home", "c", "--plan", "digits.tacit"]).deadline_s
    600
    """
    parser = argparse.ArgumentParser(prog="python -m tacit.coordinator", description="Collects Updates in batches.")
    parser.add_argument("--home", type=Path, required=True, help="folder of its keys and records")
    parser.add_argument("--plan", type=Path, required=True, help="the Plan's file")
    parser.add_argument(
        "--keyholder",
        action="extend",
        nargs="+",
        default=[],
        metavar="URL",
        help="the keyholders' addresses, in the Plan's order (default: as the Plan says)",
    )
    parser.add_argument("--embedded", default="", metavar="URL", help="the one beside it, for cards without an address")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0 takes any free port")
    parser.add_argument("--deadline", type=int, default=600, metavar="SECONDS", help="default 600")
    parser.add_argument("--evaluation", type=Path, metavar="FILE", help="a Plan that judges the Snapshots of --plan")
    parser.add_argument(
        "--store", default=os.environ.get("TACIT_STORE", ""), metavar="URL", help="postgresql://… (or TACIT_STORE)"
    )
    parser.add_argument(
        "--blobs",
        default=os.environ.get("TACIT_BLOBS", ""),
        metavar="PLACE",
        help="s3://… or a folder (or TACIT_BLOBS)",
    )
    parser.add_argument(
        "--enrol", type=Door, choices=list(Door), default=Door.OPEN, help="whom it enrols (default: open)"
    )
    parser.add_argument("--tls", type=Path, nargs=2, metavar=("CERT", "KEY"), help="a certificate and its key, PEM")
    parser.add_argument(
        "--rate",
        type=float,
        metavar="N",
        help="requests a second that one address may make, 0 for any number (default: 50; any where it listens on this "
        "machine alone)",
    )
    parser.add_argument("--public-url", default="", metavar="URL", help="where devices reach it, for the page it shows")
    parser.add_argument("--role", choices=("api", "opener", "all"), default="all")
    parser.add_argument("--metrics", choices=WHO_READS, default="local", help="who may read /metrics (default: local)")
    parser.add_argument("--log", choices=FORMS, default="text", help="the form of its log, on stderr (default: text)")
    gate = parser.add_argument_group("checks", "what a Snapshot must pass before people get it")
    gate.add_argument(
        "--gate", choices=("off", "check", "evaluation"), help="by `tacit judge --report`, or by --evaluation"
    )
    gate.add_argument("--fall", type=float, default=Rule().fall, metavar="POINTS", help="that are allowed (default 2)")
    gate.add_argument("--ahead", type=int, default=Pace().ahead, metavar="BATCHES", help="before a check (default 2)")
    gate.add_argument("--silent", type=int, default=30, metavar="MINUTES", help="without a check: alarm (default 30)")
    gate.add_argument("--go-on", action="store_true", help="and train on then, unchecked")
    admin = parser.add_argument_group("operators", "by default where the devices are, for whoever has a token")
    admin.add_argument("--admin-host", default="127.0.0.1", metavar="HOST", help="with --admin-port")
    admin.add_argument("--admin-port", type=int, metavar="PORT", help="an address of their own; 0 takes any free port")
    admin.add_argument("--admin-tls", type=Path, nargs=2, metavar=("CERT", "KEY"), help="its certificate, PEM")
    admin.add_argument("--admin-ca", type=Path, metavar="FILE", help="only client certificates of these authorities")
    keep = parser.add_argument_group("what is kept", "an Update's payload goes once it has served, in any case")
    keep.add_argument("--keep-updates", type=int, default=Keep.updates_days, metavar="DAYS", help="0: for ever")
    keep.add_argument("--keep-snapshots", type=int, default=Keep.snapshots, metavar="N", help="the newest; 0: all")
    keep.add_argument("--keep-every", type=int, default=Keep.every, metavar="K", help="one in K of the older; 0: none")
    given = parser.parse_args(arguments)
    return Settings(
        home=given.home,
        plan=given.plan,
        keyholders=tuple(given.keyholder),
        embedded=given.embedded,
        host=given.host,
        port=given.port,
        deadline_s=given.deadline,
        evaluation=given.evaluation,
        store=given.store,
        blobs=given.blobs,
        role=given.role,
        door=given.enrol,
        tls=None if given.tls is None else Tls(*given.tls),
        rate=given.rate,
        public=given.public_url.rstrip("/"),
        metrics=given.metrics,
        log=given.log,
        admin=_admin(given),
        checking=_checking(given),
        keep=_keep(given),
    )


def _checking(given: argparse.Namespace) -> Checking | None:
    if given.gate is None:
        return None
    if not given.fall > 0 or given.ahead < 1 or given.silent < 1:
        raise InputError("--fall must be above 0, --ahead and --silent at least 1")
    if given.gate == "evaluation" and given.evaluation is None:
        raise InputError("--gate evaluation needs --evaluation: a Plan by which devices judge")
    return Checking(given.gate, Rule(fall=given.fall), Pace(given.ahead, 60 * given.silent, given.go_on))


def _keep(given: argparse.Namespace) -> Keep:
    keep = Keep(given.keep_updates, given.keep_snapshots, given.keep_every)
    if min(keep.updates_days, keep.snapshots, keep.every) < 0:
        raise InputError("--keep-updates, --keep-snapshots and --keep-every are no numbers below 0")
    return keep


def _admin(given: argparse.Namespace) -> AdminAddress | None:
    if given.admin_port is None:
        if given.admin_tls or given.admin_ca:
            raise InputError("--admin-tls and --admin-ca need --admin-port: an address for operators alone")
        return None
    if given.admin_ca is not None and given.admin_tls is None:
        raise InputError("--admin-ca needs --admin-tls: certificates are shown over TLS only")
    tls = None if given.admin_tls is None else Tls(*given.admin_tls)
    return AdminAddress(given.admin_host, given.admin_port, tls, given.admin_ca)


def coordinators_of(settings: Settings) -> list[Coordinator]:
    """Everything that serves a Plan and the chain it belongs to, the newest last, and then the Plan that judges it.

    Nothing of it is started.
    """
    keys = load_or_make(settings.home, os.urandom)
    plan = _plan(settings.plan)
    found = _chain(settings, settings.plan, plan, keys)
    if settings.checking is not None:
        Verdicts(found[-1].store.database).check_by(settings.checking, int(time.time()))
    if settings.evaluation is not None:
        evaluation = _plan(settings.evaluation)
        check_judges(evaluation, plan)
        found = [replace(one, evaluation=evaluation) for one in found]
        found += _chain(settings, settings.evaluation, evaluation, keys)
    return found


def _chain(settings: Settings, path: Path, plan: Plan, keys: CoordinatorKeys) -> list[Coordinator]:
    if plan.manifest.coordinator != keys.sig.public:
        raise InputError(
            f"{path} was made for the coordinator {plan.manifest.coordinator.hex()[:16]}… and the key in "
            f"{settings.home} is {keys.sig.public.hex()[:16]}…; compile the Task with this home's keys"
        )
    cards = plan.manifest.keyholders
    if settings.keyholders and len(settings.keyholders) != len(cards):
        given = len(settings.keyholders)
        raise InputError(f"the Plan has {len(cards)} keyholders and {given} addresses were given")
    known_at = {card.sig_pk: url for card, url in zip(cards, settings.keyholders, strict=False)}

    def address(card: KeyholderCard) -> str:
        return known_at.get(card.sig_pk) or (card.url == "embedded:" and settings.embedded) or card.url

    records = settings.records
    known = records.plans()
    # What does not continue what was served here is refused before it is kept: a home follows one successor.
    chain_of(plan, known)
    continues = plan.manifest.continues
    if continues is not None and continues.plan_id in known:
        before = records.open(known[continues.plan_id], keys.sig)
        try:
            check_start(before, plan)
        finally:
            before.close()
    chain = chain_of(records.keep_plan(plan), known)
    pairs = zip([None, *chain], chain, [*chain[1:], None], strict=False)

    def judged_next(before: bytes) -> bytes:
        judged = judged_by(plan, records.plans().values())  # a Plan may have been taken in since
        return newest_values(judged, lambda one: records.open(one, keys.sig), before)

    def tell_judged(said: Judged, version: int) -> None:
        for one in judged_by(plan, records.plans().values()):
            store = records.open(one, keys.sig)
            try:
                if take_judged(version, said, one, store, int(time.time())):
                    return
            finally:
                store.close()

    return [_coordinator(settings, keys, records, address, judged_next, tell_judged, *three) for three in pairs]


def _coordinator(
    settings: Settings,
    keys: CoordinatorKeys,
    records: Records,
    address: Callable[[KeyholderCard], str],
    judged_next: Callable[[bytes], bytes],
    tell_judged: Callable[[Judged, int], None],
    before: Plan | None,
    plan: Plan,
    successor: Plan | None,
) -> Coordinator:
    """`address` says where the keyholder of a card is."""
    urls = tuple(map(address, plan.manifest.keyholders))

    def open_store() -> SqlStore:
        return records.open(plan, keys.sig)

    def begins(store: Store) -> bool:
        if before is None or plan.manifest.continues is None:
            return True
        older = records.open(before, keys.sig)
        try:
            return begin_after(older, store, plan.manifest.continues.version)
        finally:
            older.close()

    def tidy(store: Store) -> None:
        tidied(store, plan, records.plans().values(), settings.keep, time.time())

    cards = plan.manifest.keyholders
    keyholders = [
        HttpKeyholder(url, card.sig_pk, keys.sig)
        for url, card in zip(urls, cards, strict=True)
        if settings.role != "api"  # which asks none, and need not know where they are
    ]
    deadline_s = settings.deadline_s
    opening = records.roll(settings.door)  # its own: the opener is a thread of its own

    def barred(devices: Collection[DeviceKey]) -> Mapping[DeviceKey, Code]:
        return opening.barred(plan.lineage, devices)

    trouble = Trouble([None] * len(urls))
    opener = Opener(plan, keys.sig, keyholders, deadline_s, trouble, successor, judged_next, tell_judged, barred=barred)
    thread = OpenerThread(opener, open_store, process_name(os.urandom(8)), time.time, _pause, begins, tidy)
    return Coordinator(
        plan=plan,
        plan_file=records.plan_file(plan),
        keys=keys,
        store=open_store(),
        roll=records.roll(settings.door),
        intake=IntakeThread(open_store, thread.arrived.set) if settings.role != "opener" else None,
        opener=thread if settings.role != "api" else None,
        urls=urls,
        deadline_s=deadline_s,
        successor=successor,
        public=settings.public,
        continued_by=lambda after: _coordinator(
            settings, keys, records, address, judged_next, tell_judged, plan, after, None
        ),
    )


def address_share(settings: Settings) -> Share | None:
    """What one address may ask for; None where that is not limited.

    Whoever listens on this machine alone is behind a proxy, whose address all requests have, or in a test.

    >>> settings = parse(["--home", "c", "--plan", "digits.tacit"])
    >>> address_share(settings), address_share(replace(settings, host="0.0.0.0"))
    (None, Share(burst=200, a_second=50))
    """
    rate = settings.rate
    if rate is None:
        rate = 0 if settings.host in ("localhost", "127.0.0.1", "::1") else ADDRESS_RATE
    return Share(4 * rate, rate) if rate > 0 else None


def _plan(path: Path) -> Plan:
    try:
        return read_plan(path)
    except (CodecError, ValueError, ArithmeticError) as error:  # numbers that nobody foresaw
        raise PlanRefused(f"{path}: this is not a Plan that may be used: {error}") from error


def _pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubling, and spread over the upper half."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 30))
    return longest * (0.5 + int.from_bytes(os.urandom(4), "big") / 2**33)


def main() -> int:
    try:
        settings = parse(sys.argv[1:])
        begin_log(settings.log)
        coordinators, records = coordinators_of(settings), settings.records
        door, desk = AdminDoor(open_operators(records)), Desk(records, coordinators[0].keys, keep=settings.keep)
        share, beside = address_share(settings), None
        if settings.admin is not None:
            apart = settings.admin
            beside = Beside(admin_app(door, desk), apart.host, apart.port, apart.tls, apart.clients)
        here = desk if settings.admin is None else None
        app = make_app(*coordinators, door=door, desk=here, share=share, metrics=settings.metrics, records=records)
        serve(app, settings.host, settings.port, settings.tls, beside)
    except TacitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
