"""The coordinator's process: `python -m tacit.coordinator --home DIR --plan FILE`."""

import argparse
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tacit.codec.errors import CodecError
from tacit.coordinator.keyholders import HttpKeyholder
from tacit.coordinator.keys import load_or_make
from tacit.coordinator.opener import Opener, OpenerThread, Trouble
from tacit.coordinator.server import Coordinator, IntakeThread, make_app
from tacit.coordinator.sqlite_store import SqliteStore, process_name
from tacit.durable import make_folder, write_file
from tacit.errors import InputError, TacitError
from tacit.plan.bundle import Plan, PlanRefused, read_plan
from tacit.serving import serve

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 60.0


@dataclass(frozen=True)
class Settings:
    """What a coordinator is started with.

    | setting | example | |
    |---|---|---|
    | home | `~/coordinator` | its keys, and a folder of records for each Plan |
    | plan | `digits.tacit` | the Plan it serves |
    | keyholders | `("http://127.0.0.1:9000",)` | where they are, in the Plan's order; what the Plan says if empty |
    | host | `127.0.0.1` | where it listens |
    | port | `8080` | 0 takes any free one |
    | deadline_s | `600` | a batch closes then if its threshold is met |
    """

    home: Path
    plan: Path
    keyholders: tuple[str, ...]
    host: str
    port: int
    deadline_s: int


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
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0 takes any free port")
    parser.add_argument("--deadline", type=int, default=600, metavar="SECONDS", help="default 600")
    given = parser.parse_args(arguments)
    return Settings(given.home, given.plan, tuple(given.keyholder), given.host, given.port, given.deadline)


def coordinator_of(settings: Settings) -> Coordinator:
    """Everything a coordinator consists of, nothing of it started."""
    keys = load_or_make(settings.home, os.urandom)
    plan = _plan(settings.plan)
    manifest = plan.manifest
    if manifest.coordinator != keys.sig.public:
        raise InputError(
            f"{settings.plan} was made for the coordinator {manifest.coordinator.hex()[:16]}… and the key in "
            f"{settings.home} is {keys.sig.public.hex()[:16]}…; compile the Task with this home's keys"
        )
    urls = settings.keyholders or tuple(card.url for card in manifest.keyholders)
    if len(urls) != len(manifest.keyholders):
        raise InputError(f"the Plan has {len(manifest.keyholders)} keyholders and {len(urls)} addresses were given")
    folder = make_folder(settings.home / "plans" / plan.plan_id.hex())
    plan_file = folder / "plan.tacit"
    if not plan_file.exists():
        write_file(plan_file, plan.raw)
    plan = _plan(plan_file)  # our own copy: nobody else writes to it

    def open_store() -> SqliteStore:
        return SqliteStore(folder, plan, keys.sig)

    opener = Opener(
        plan, keys.sig, [HttpKeyholder(url) for url in urls], settings.deadline_s, Trouble([None] * len(urls))
    )
    thread = OpenerThread(opener, open_store, process_name(os.urandom(8)), time.time, _pause)
    return Coordinator(
        plan=plan,
        plan_file=plan_file,
        keys=keys,
        store=open_store(),
        intake=IntakeThread(open_store, thread.arrived.set),
        opener=thread,
        urls=urls,
        deadline_s=settings.deadline_s,
    )


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
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    try:
        settings = parse(sys.argv[1:])
        serve(make_app(coordinator_of(settings)), settings.host, settings.port)
    except TacitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
