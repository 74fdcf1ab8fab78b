"""`tacit audit`: what a coordinator says in its log, checked whole against what others have signed."""

import argparse
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tacit.errors import InputError, TacitError

if TYPE_CHECKING:
    from tacit.device.client import Client
    from tacit.device.receipts import Checked
    from tacit.plan.bundle import Plan
    from tacit.plan.history import Finding, History
    from tacit.wire.ids import UpdateId
    from tacit.wire.messages import Head, LogEntry, Proof

EXAMPLE = """\
example:
  tacit audit log 'http://127.0.0.1:8750/join/…?author=…' --state mine.seen
  tacit audit log 'http://127.0.0.1:8750/join/…?author=…' --receipts ~/.tacit/device
  tacit audit log 'http://127.0.0.1:8750/join/…?author=…' --save mine.log
  tacit audit log mine.log
  tacit audit log https://files.example/mine.log --author KEY

The log is read whole and checked: its chain, every signature of coordinator and keyholders, the order of Snapshots, the
lists of batches. --state keeps how far it was read, so that a log which was cut or written anew shows the next time.
--receipts asks what became of each Update of a device, and holds the answer against the log. --save writes the log as
files that any web server can serve, and that are audited in their place. The exit code is 1 if anything is wrong.
"""
MOST_PLAN = 1 << 30
MOST_HEAD = 1 << 16
PLAN, HEAD, PAGES = "plan.tacit", "head", "log/pages"  # in a folder that --save wrote


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("what", choices=["log"])
    parser.add_argument("source", help="a join link, or a folder that --save wrote, or the address of one")
    parser.add_argument("--author", metavar="KEY", help="the author's key; a join link has it in itself")
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="how far it was read, kept from one time to the next"
    )
    parser.add_argument("--receipts", type=Path, metavar="HOME", help="check the receipts in this device's home too")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="write the log there, as files")
    parser.add_argument("--json", action="store_true", help="one JSON object")


@dataclass(frozen=True, eq=False)
class Source:
    """A Plan, its newest HEAD as it was published before the log was read, and the log.

    `client` is there where a coordinator can be asked what became of an Update.
    """

    plan: "Plan"
    newest: "Head | None"
    entries: "list[LogEntry]"
    client: "Client | None"


class LogDoesNotHold(TacitError):
    """There are findings, which were printed."""


def run(arguments: argparse.Namespace) -> None:
    from tacit.device.receipts import read_seen, write_seen
    from tacit.plan.history import compare, compare_newest, read_history
    from tacit.wire.ids import PlanId

    source = read_source(arguments.source, arguments.author)
    plan, plan_id = source.plan, PlanId(source.plan.plan_id)
    history = read_history(source.entries, plan.manifest, plan_id)
    seen = None if arguments.state is None else read_seen(arguments.state)
    findings = [*history.findings, *compare_newest(history, source.newest)]
    if seen is not None:
        findings += compare(source.entries, seen)
    checked: list[Checked] = []
    if arguments.receipts is not None:
        checked, more = check_home(arguments.receipts, source, history)
        findings += more
    if arguments.state is not None and not findings:
        write_seen(arguments.state, history.seen)
    if arguments.save is not None:
        save(arguments.save, source)
    if arguments.json:
        print(json.dumps(_record(plan, history, checked, findings)))
    else:
        print("\n".join(_lines(plan, history, checked, findings)))
    if findings:
        raise LogDoesNotHold(f"the log of {plan.name} does not hold: {len(findings)} findings")


def read_source(source: str, author: str | None) -> Source:
    """Everything that is checked, from a coordinator, a folder, or a server of files."""
    if "/join/" in source:
        return _of_coordinator(source)
    plan = _plan_of(_file(source, PLAN, MOST_PLAN), author)
    return Source(plan, _head_of(_file(source, HEAD, MOST_HEAD)), _entries_of(source), None)


def check_home(home: Path, source: Source, history: "History") -> "tuple[list[Checked], list[Finding]]":
    """The receipts of a device, and what does not fit."""
    from tacit.device.ledger import Ledger
    from tacit.device.receipts import check_receipts, check_seen
    from tacit.wire.ids import PlanId

    plan_id = PlanId(source.plan.plan_id)
    ask: Callable[[UpdateId], Proof] | None = None if source.client is None else source.client.proof
    with Ledger.read(home) as ledger:
        checked = check_receipts(ledger, plan_id, source.plan.manifest, history, ask)
        findings = check_seen(ledger, plan_id, history)
    return checked, [*findings, *(finding for one in checked for finding in one.findings)]


def save(folder: Path, source: Source) -> None:
    """The Plan, the newest HEAD and the pages of the log as files. Full pages that are there already stay."""
    from tacit.durable import make_folder, write_file
    from tacit.wire.log import PAGE, encode_lines
    from tacit.wire.messages import encode

    pages = make_folder(folder / PAGES)
    write_file(folder / PLAN, source.plan.raw, mode=0o644)
    if source.newest is not None:
        write_file(folder / HEAD, encode(source.newest), mode=0o644)
    for number in range(len(source.entries) // PAGE + 1):
        write_file(pages / str(number), encode_lines(source.entries[number * PAGE : (number + 1) * PAGE]), mode=0o644)


def _of_coordinator(link: str) -> Source:
    from tacit.cli.following import following

    followed = following(link)
    # HEAD first: a log that is read after it must hold it.
    return Source(followed.plan, followed.newest(), followed.client.log(), followed.client)


def _plan_of(data: bytes | None, author: str | None) -> "Plan":
    from tacit.plan.bundle import parse_plan

    if data is None:
        raise InputError(f"there is no {PLAN}; give a join link, or a folder that `tacit audit log LINK --save` wrote")
    plan = parse_plan(data)
    if author is not None and plan.author.hex() != author.lower():
        raise InputError(f"this is a Plan of another author: {plan.author.hex()}")
    return plan


def _head_of(data: bytes | None) -> "Head | None":
    from tacit.wire.messages import Head, decode

    return None if data is None else decode(Head, data)


def _entries_of(source: str) -> "list[LogEntry]":
    from tacit.device.client import MOST_PAGE_BYTES
    from tacit.wire.log import read_pages

    def page(number: int) -> bytes:
        data = _file(source, f"{PAGES}/{number}", MOST_PAGE_BYTES)
        if data is None:
            raise TacitError(f"page {number} of the log is missing in {source}: the log was cut, or not copied whole")
        return data

    return read_pages(page)


def _file(source: str, name: str, most: int) -> bytes | None:
    """A file of a folder, here or behind an address; None if there is none."""
    try:
        if source.startswith(("http://", "https://")):
            with urllib.request.urlopen(f"{source.rstrip('/')}/{name}", timeout=30) as answer:  # noqa: S310 - as typed
                data = answer.read(most + 1)
        else:
            with (Path(source) / name).open("rb") as file:
                data = file.read(most + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise TacitError(f"{source}/{name} cannot be read: HTTP {error.code}") from error
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise TacitError(f"{source}/{name} cannot be read: {error}") from error
    if len(data) > most:
        raise TacitError(f"{source}/{name} has more than the {most:,} bytes that are read")
    return data


def _lines(plan: "Plan", history: "History", checked: "Sequence[Checked]", findings: "Sequence[Finding]") -> list[str]:
    keyholders = len(plan.manifest.keyholders)
    updates = sum(one.count for one in history.opened.values())
    lines = [
        f"log of {plan.name}: {history.seen.entries} entries, the last is {history.seen.last.hex()}",
        f"  Snapshots  {_range(history)}, each HEAD signed by all {keyholders} keyholders"
        if not findings
        else f"  Snapshots  {_range(history)}",
        f"  batches    {len(history.opened)} opened, {updates} Updates in them, {len(history.void)} void",
    ]
    if history.back:
        went = ", ".join(f"from {start} to {to}" for start, to in history.back.items())
        lines.append(f"  went back  {went}")
    if history.rekeyed:
        lines.append(f"  new cards  {len(history.rekeyed)}")
    if history.successor is not None:
        lines.append(f"  ended      continued by Plan {history.successor.hex()[:8]}")
    elif history.ended:
        lines.append("  ended      no more Updates are opened")
    if checked:
        asked = [one.proof.outcome for one in checked if one.proof is not None]
        said = ", ".join(f"{asked.count(outcome)} {outcome}" for outcome in dict.fromkeys(asked)) or "nobody was asked"
        lines.append(f"  receipts   {len(checked)} Updates of this device: {said}")
    return [*lines, *(f"WRONG      {finding}" for finding in findings), *([] if findings else ["nothing is wrong"])]


def _range(history: "History") -> str:
    return "none yet" if history.newest is None else f"0 to {history.newest}"


def _record(
    plan: "Plan", history: "History", checked: "Sequence[Checked]", findings: "Sequence[Finding]"
) -> dict[str, Any]:
    return {
        "plan_id": plan.plan_id.hex(),
        "author": plan.author.hex(),
        "entries": history.seen.entries,
        "last": history.seen.last.hex(),
        "newest": history.newest,
        "batches": {str(t): one.count for t, one in history.opened.items()},
        "void": list(history.void),
        "back": {str(start): to for start, to in history.back.items()},
        "ended": history.ended,
        "succeeded_by": history.successor and history.successor.hex(),
        "receipts": [
            {"number": one.line.number, "said": one.proof and one.proof.outcome, "t": one.proof and one.proof.t}
            for one in checked
        ],
        "findings": [{"entry": one.entry, "what": one.what, "follows": one.follows} for one in findings],
    }
