"""`tacit fetch`: the published Snapshot as a file, its signatures checked."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tacit.plan.bundle import Plan
    from tacit.wire.messages import Head, LogEntry

HEAD = ".head"  # the signed HEAD of a Snapshot is written beside it, under its name and this

EXAMPLE = """\
example:
  tacit fetch 'http://127.0.0.1:8750/join/…?author=…' -o snapshot.bin
  tacit fetch 'http://127.0.0.1:8750/join/…?author=…' --average -o average.bin

then, in Python:
  from tacit.compiler import open_plan
  net.load_state_dict(open_plan("mine.tacit").state_dict("snapshot.bin"))
"""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("link", help="the join link that `tacit serve` printed")
    parser.add_argument(
        "--newest", action="store_true", help="the one that devices train from, whether it passed its check or not"
    )
    parser.add_argument(
        "--average",
        action="store_true",
        help="the average of Snapshots that is published beside it: better as a rule, and signed by the coordinator "
        "alone",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("snapshot.bin"), help="default: snapshot.bin")


def run(arguments: argparse.Namespace) -> None:
    from tacit.wire.messages import encode

    if arguments.average:
        plan, version, data = averaged(arguments.link)
        arguments.output.write_bytes(data)
        print(
            f"wrote {arguments.output}: the average beside Snapshot {version} of {plan.name}, {len(data):,} bytes\n"
            "signed     by the coordinator; keyholders sign the Snapshots that it is the average of"
        )
        return
    plan, head, data = fetched(arguments.link, newest=arguments.newest)
    arguments.output.write_bytes(data)
    # Beside it what the keyholders signed, so that a Plan can be compiled that starts from here.
    arguments.output.with_name(arguments.output.name + HEAD).write_bytes(encode(head))
    print(f"wrote {arguments.output}: Snapshot {head.version} of {plan.name}, {len(data):,} bytes")


def fetched(text: str, newest: bool = True) -> "tuple[Plan, Head, bytes]":
    """The Plan behind a join link, its newest HEAD or the published one, and that Snapshot, all signatures checked."""
    from tacit.cli.following import following
    from tacit.errors import TacitError

    followed = following(text)
    head = followed.newest()
    if head is None:
        raise TacitError("the coordinator has published no Snapshot yet")
    if not newest:
        head = followed.published()
    return followed.plan, head, followed.snapshot(head)


def averaged(text: str) -> "tuple[Plan, int, bytes]":
    """The Plan behind a join link and the average beside its newest Snapshot, as the coordinator signed it."""
    from tacit.cli.following import following
    from tacit.errors import InputError
    from tacit.wire.ids import PlanId
    from tacit.wire.signed import check_averaged

    followed = following(text)
    plan = followed.plan
    if not plan.manifest.server.average:
        raise InputError(
            f"Plan {plan.name} publishes no average: fetch its Snapshot, or compile with tacit.Server(average=0.8)"
        )
    said, data = followed.client.average(4 * plan.manifest.program.d)
    check_averaged(said, PlanId(plan.plan_id), plan.manifest.coordinator)
    return plan, said.version, data


def opened_batches(text: str, plan: "Plan") -> dict[int, int]:
    """How many Updates each batch had that was opened, by the coordinator's signed log."""
    from tacit.wire.messages import LoggedOpened, LogKind, decode

    entries = signed_log(text, plan.manifest.coordinator)
    marks = [decode(LoggedOpened, entry.body) for entry in entries if entry.kind is LogKind.OPENED]
    return {mark.t: mark.count for mark in marks}


def signed_log(text: str, coordinator: bytes) -> "list[LogEntry]":
    """The coordinator's log of the Plan behind a join link, its signatures checked."""
    from tacit.device.client import Client
    from tacit.device.link import parse_link
    from tacit.wire.log import verify_chain

    entries = Client(parse_link(text)).log()
    verify_chain(entries, coordinator)
    return entries
