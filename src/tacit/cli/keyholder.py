"""`tacit keyholder`: this machine holds a key for the coordinators of others."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tacit.errors import InputError

if TYPE_CHECKING:
    from tacit.keyholder.approvals import Shown
    from tacit.keyholder.operator import Operator
    from tacit.keyholder.store import PlanRecord
    from tacit.plan.bundle import Plan
    from tacit.plan.manifest import Charter

EXAMPLE = """\
example:
  tacit keyholder init --operator 'a university' --url https://keys.uni.example
  tacit keyholder run --port 9100
  tacit keyholder approve mine.tacit
  tacit keyholder status

A keyholder opens sums of Updates and never one of them. What it is worth rests on who runs it: somebody other than
whoever runs the coordinator. `approve`, `status`, `card` and `rekey` work while `run` is running.
"""
APPROVE_EXAMPLE = """\
example:
  tacit keyholder approve mine.tacit
  tacit keyholder approve mine.charter --yes

A charter is what a Task may do, over all of its Plans; it comes inside every Plan, or by itself from
`tacit inspect PLAN --charter`. Once it is approved, Plans inside it are taken without asking again.
"""
REKEY_EXAMPLE = """\
example:
  tacit keyholder rekey 3f2a91c0

Where the records or the cards of a Plan are lost, this keyholder halts as soon as a coordinator shows it a HEAD with
its own signature. Then a new card goes on: Updates that wait are lost, and nobody's privacy is. Never restore a backup
instead. Leave `run` and the coordinator running; training goes on by itself within two batches.
"""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    whats = parser.add_subparsers(dest="what", metavar="WHAT", required=True)

    def what(name: str, purpose: str, epilog: str = "") -> argparse.ArgumentParser:
        one = whats.add_parser(
            name,
            help=purpose,
            description=purpose,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.add_argument("--home", type=Path, help="folder of its keys and records (default: ~/.tacit/keyholder)")
        return one

    init = what("init", "make its identity, and print the line that owners of devices pin")
    init.add_argument("--operator", required=True, metavar="NAME", help="who runs it, as people know you")
    init.add_argument("--url", required=True, help="where coordinators reach it")
    run = what("run", "serve coordinators, until Ctrl-C")
    run.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    run.add_argument("--port", type=int, default=9100, help="port to listen on; 0 takes any (default: 9100)")
    run.add_argument("--tls-cert", type=Path, metavar="FILE", help="a certificate with its chain, PEM")
    run.add_argument("--tls-key", type=Path, metavar="FILE", help="the certificate's key, PEM")
    run.add_argument("--log", choices=("text", "json"), default="text", help="the form of its log (default: text)")
    approve = what("approve", "read a Task's charter, and let its Plans in", APPROVE_EXAMPLE)
    approve.add_argument("file", type=Path, help="a Plan, or a charter")
    approve.add_argument("--yes", action="store_true", help="do not ask")
    status = what("status", "its Plans and charters")
    status.add_argument("--json", action="store_true", help="one JSON object")
    rekey = what("rekey", "give a Plan whose state was lost here a new card", REKEY_EXAMPLE)
    rekey.add_argument("plan", metavar="PLAN_ID", help="the Plan's id, or how it begins")
    what("card", "print a fresh card for one Plan, for a developer who cannot reach this keyholder")


def run(arguments: argparse.Namespace) -> None:
    home: Path = arguments.home or Path.home() / ".tacit" / "keyholder"
    what: dict[str, Callable[[Path, argparse.Namespace], None]] = {
        "init": _init,
        "run": _run,
        "approve": _approve,
        "status": _status,
        "card": _card,
        "rekey": _rekey,
    }
    what[arguments.what](home, arguments)


def fingerprint(key: bytes) -> str:
    """A key as one reads it out over the telephone.

    >>> fingerprint(bytes(32))
    '66687a adf862 bd776c 8fc18b'
    """
    import hashlib

    text = hashlib.sha256(key).hexdigest()[:24]
    return " ".join(text[at : at + 6] for at in range(0, 24, 6))


def _init(home: Path, arguments: argparse.Namespace) -> None:
    from tacit.keyholder.keys import load_identity
    from tacit.keyholder.operator import Operator, read_operator, write_operator

    before, now = read_operator(home), Operator(arguments.operator, arguments.url.rstrip("/"))
    if before is not None and before.operator != now.operator:
        raise InputError(
            f"{home} is the keyholder of {before.operator!r}, whose key others have pinned under that name; give "
            f"{now.operator!r} a --home of its own"
        )
    write_operator(home, now)
    key = load_identity(home, os.urandom).public
    print(f"keyholder  of {now.operator}, reached at {now.url}")
    print("it holds   keys that take the masks off sums of Updates. It never sees an Update, and opens no sum of fewer")
    print("           than a Plan's threshold. Its home is its memory: no backup of it may ever be restored.")
    print(f"key        {key.hex()}")
    print(f"           read out: {fingerprint(key)}")
    print("owners of devices pin it, if they hold you for independent of the coordinator:")
    print(f"  tacit device trust add {_word(now.operator)} {key.hex()}")
    print("developers name it when they compile:")
    print(f"  tacit compile TASK.py --keyholder {_word(f'{now.operator}={key.hex()}@{now.url}')}")
    print("Tell them over a way that nobody else can write to: your own web site, a letter, the telephone.")
    print("next: tacit keyholder run")


def _run(home: Path, arguments: argparse.Namespace) -> None:
    from tacit.keyholder.__main__ import Settings
    from tacit.keyholder.__main__ import run as run_keyholder
    from tacit.serving import Tls

    _initialised(home)
    certificate, key = arguments.tls_cert, arguments.tls_key
    if (certificate is None) != (key is None):
        raise InputError("--tls-cert and --tls-key go together")
    tls = None if certificate is None else Tls(certificate, key)
    run_keyholder(Settings(home, frozenset(), arguments.host, arguments.port, tls, arguments.log))


def _card(home: Path, _arguments: argparse.Namespace) -> None:
    from tacit.keyholder.cards import GivenCards

    cards = GivenCards(home, _initialised(home), lambda key_id: False, os.urandom, time.time)
    try:
        print(cards.give_by_hand().decode())
    finally:
        cards.close()


def _rekey(home: Path, arguments: argparse.Namespace) -> None:
    from tacit.keyholder.keyholder import Keyholder

    known = [record.plan_id for record in _records(home)]
    meant = [plan_id for plan_id in known if plan_id.hex().startswith(arguments.plan.lower())]
    if len(meant) != 1:
        raise InputError(
            f"{len(meant)} of the {len(known)} Plans in {home} have an id that begins with {arguments.plan!r}; "
            "tacit keyholder status --json shows them. One that was lost comes back when its coordinator asks"
        )
    keyholder = Keyholder(home, frozenset(), os.urandom, time.time)
    try:
        rekeyed = keyholder.rekey(meant[0])
    finally:
        keyholder.close()
    print(f"re-keyed   Plan {meant[0].hex()[:8]}: seals from Snapshot {rekeyed.from_version} on are for a new card")
    print("           what was sealed before is lost; training goes on once the coordinator asks again")


def _approve(home: Path, arguments: argparse.Namespace) -> None:
    from tacit.keyholder.approvals import approve, is_approved, read_charter
    from tacit.keyholder.keys import load_identity

    _initialised(home)
    shown = read_charter(arguments.file)
    own = load_identity(home, os.urandom).public
    print("\n".join(charter_lines(shown, own)))
    if own not in shown.charter.keyholders:
        raise InputError(f"this charter does not name this keyholder ({own.hex()[:16]}…); nothing was approved")
    if time.time() >= shown.charter.expires_at:
        raise InputError("this charter's time is over; nothing was approved")
    if is_approved(home, shown.charter_id):
        print("It was approved before; nothing has changed.")
        return
    if not arguments.yes and not _agreed("Approve this charter, with every Plan inside it? [y/N] "):
        raise InputError("nothing was approved")
    name = approve(home, shown.charter)
    print(f"approved   {name.hex()}")


def charter_lines(shown: "Shown", own: bytes) -> list[str]:
    """A charter in words, as an operator decides on it. `own` is the key of the keyholder that is asked."""
    from tacit.privacy.account import epsilon_of_mu, epsilon_text

    charter = shown.charter
    epsilon = epsilon_text(epsilon_of_mu(charter.mu2_total**0.5, shown.delta))
    unit, names = charter.unit, {card.sig_pk: card.operator for card in shown.cards}

    def whose(key: bytes) -> str:
        if key == own:
            return "this one"
        return f"{names.get(key) or 'of nobody who is named'}, key {key.hex()[:16]}…"

    lines = [
        f"charter    {charter.title}   {shown.charter_id.hex()}",
        f"purpose    {charter.purpose}",
        f"data       {'; '.join(charter.data_sources)}",
        f"author     {charter.author.hex()}",
        f"Plans      {charter.most_plans} at most"
        + (f", for devices of {', '.join(charter.classes)}" if charter.classes else ""),
        f"budget     for one {unit}, over all Plans, at most μ² = {charter.mu2_total:.4g}: ε = {epsilon} at "
        f"δ = {shown.delta:g} (zero-out; that it took part is not hidden)",
        *(f"keyholder  {whose(key)}" for key in charter.keyholders),
        f"trust      {_worth(charter, own)}",
        f"until      {time.strftime('%Y-%m-%d', time.gmtime(charter.expires_at))}",
    ]
    # A stranger wrote some of this, and it goes to a terminal.
    return ["".join(letter if letter.isprintable() else "?" for letter in line) for line in lines]


def _worth(charter: "Charter", own: bytes) -> str:
    """What the keyholders of a charter are worth, as far as the operator of one of them can know it."""
    from tacit.privacy.trust import Trust, sentence

    if any(key != own for key in charter.keyholders):
        return (
            "a Plan that names you and keyholders of other operators is three-party at best, which is for each device "
            f"to work out: {sentence(Trust.THREE_PARTY)} One that names you alone is two-party: "
            f"{sentence(Trust.TWO_PARTY)}"
        )
    return f"two-party at best, if whoever runs the coordinator is not you: {sentence(Trust.TWO_PARTY)}"


def _agreed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        raise InputError("nobody answered, so nothing was approved; say --yes where nobody can be asked") from None


def _status(home: Path, arguments: argparse.Namespace) -> None:
    from tacit.keyholder.approvals import approved
    from tacit.keyholder.keyholder import describe as described
    from tacit.keyholder.keys import load_identity
    from tacit.plan.bundle import read_plan
    from tacit.wire.ids import sha256

    operator, own = _initialised(home), load_identity(home, os.urandom).public
    plans = [(record, read_plan(home / "plans" / f"{record.plan_id.hex()}.tacit")) for record in _records(home)]
    charters = approved(home)
    if arguments.json:
        from tacit.plan.manifest import encode

        print(
            json.dumps(
                {
                    "operator": operator.operator,
                    "url": operator.url,
                    "sig_pk": own.hex(),
                    "plans": [_plan_record(dict(described(record)), plan) for record, plan in plans],
                    "charters": [
                        {
                            "charter_id": sha256(encode(charter)).hex(),
                            "title": charter.title,
                            "author": charter.author.hex(),
                            "most_plans": charter.most_plans,
                            "mu2_total": charter.mu2_total,
                            "unit": charter.unit,
                            "expires_at": charter.expires_at,
                        }
                        for charter in charters
                    ],
                }
            )
        )
        return
    print(f"keyholder  of {operator.operator}, at {operator.url}, key {own.hex()}")
    for charter in charters:
        print(f"charter    {charter.title}, by {charter.author.hex()[:16]}…: at most {charter.most_plans} Plans")
    for record, plan in plans:
        said = described(record)
        at = f" at batch {said['t']}" if said["t"] is not None else ""
        why = f": {said['why']}" if said["why"] else ""
        print(f"Plan       {plan.name}: {said['state']}{at}{why}; coordinator {plan.manifest.coordinator.hex()[:16]}…")
    if not plans:
        print("no Plan has been loaded" + ("" if charters else "; next: tacit keyholder approve PLAN"))


def _records(home: Path) -> "list[PlanRecord]":
    """As they stand in the store, without waking the keyholder that may be at work in it."""
    from tacit.keyholder.store import KeyholderStore

    path = home / "keyholder.sqlite"
    if not path.exists():
        return []
    store = KeyholderStore(path)
    try:
        return store.plans()
    finally:
        store.close()


def _plan_record(said: dict[str, Any], plan: "Plan") -> dict[str, Any]:
    return said | {
        "title": plan.manifest.title,
        "coordinator": plan.manifest.coordinator.hex(),
        "charter_id": plan.manifest.charter_id.hex(),
    }


def _initialised(home: Path) -> "Operator":
    from tacit.keyholder.operator import read_operator

    operator = read_operator(home)
    if operator is None:
        raise InputError(
            f"{home} is no keyholder's home yet; begin with: tacit keyholder init --operator NAME --url URL"
        )
    return operator


def _word(text: str) -> str:
    import shlex

    return shlex.quote(text) if sys.platform != "win32" else f'"{text}"'
