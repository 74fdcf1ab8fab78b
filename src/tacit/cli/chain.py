"""What `tacit compile` can say about the Plans around this one: the one it continues, the classes of devices."""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tacit.errors import InputError

if TYPE_CHECKING:
    from tacit.compiler.assemble import Assembled, Parties, Scouted, Start
    from tacit.compiler.succession import Learnt
    from tacit.plan.bundle import Plan
    from tacit.task import Task


def describe_chain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--continues", type=Path, metavar="PLAN", help="compile what follows this Plan, in its charter")
    parser.add_argument(
        "--from-snapshot",
        type=Path,
        metavar="FILE",
        help="with --continues: a Snapshot that `tacit fetch` wrote (default: the newest that --home has served)",
    )
    parser.add_argument("--plans", type=int, help="how many Plans the charter has room for (default: 8)")
    parser.add_argument(
        "--evaluators",
        type=int,
        default=0,
        metavar="N",
        help="so many devices in a hundred, by a lot that each draws for itself, judge Snapshots and never train "
        "(default: 0; 5 is usual; see `tacit evaluate`)",
    )
    parser.add_argument(
        "--class", dest="device_class", default="", metavar="NAME", help="the class of devices it is for"
    )
    parser.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="every class of the charter")
    parser.add_argument(
        "--charter-of", type=Path, metavar="PLAN", help="the Plan of another class, to share its charter"
    )


def assembled(
    given: argparse.Namespace,
    task: "Task",
    parties: "Parties",
    place: Path,
    say: Callable[[str], None],
    scouted: "Scouted | None",
    start: "Start | None" = None,
) -> "Assembled":
    """The Task, assembled on its own or in the charter of a Plan that exists."""
    import msgspec

    from tacit.compiler.assemble import assemble
    from tacit.compiler.succession import succeed, within
    from tacit.plan.bundle import read_plan

    if (given.continues or given.charter_of) and (given.plans or given.classes or given.evaluators):
        raise InputError(
            "--plans, --classes and --evaluators are said once, with the first Plan of a charter; leave them out here"
        )
    if not 0 <= given.evaluators <= 50:
        raise InputError(f"--evaluators {given.evaluators}: of a hundred devices 0 to 50 judge; 5 is usual")
    if given.continues and (given.charter_of or given.device_class):
        raise InputError("what continues a Plan has its charter and its class; leave --charter-of and --class out")
    if given.from_snapshot and not given.continues:
        raise InputError("--from-snapshot needs --continues: it is a Snapshot of the Plan before")
    now, compare = int(time.time()), say if given.explain else None
    if given.continues and start is not None:
        raise InputError("what continues a Plan starts from what that has learnt; leave --class-sums out")
    if given.continues:
        before = learnt(read_plan(given.continues), place, given.from_snapshot)
        return succeed(task, parties, before, now=now, compare=compare, say=say, scouted=scouted)
    made = assemble(task, parties, now=now, compare=compare, say=say, scouted=scouted, start=start)
    if given.charter_of:
        return within(made, read_plan(given.charter_of).charter, task, now=now).of_class(given.device_class)
    if bool(given.classes) != bool(given.device_class) or (given.classes and given.device_class not in given.classes):
        raise InputError("name every class of the charter and the one that this Plan is for: --classes a b --class a")
    if given.plans is not None and given.plans < 1:
        raise InputError(f"--plans {given.plans}: a charter has room for one Plan at least")
    room = given.plans or made.charter.most_plans * max(1, len(given.classes))
    charter = msgspec.structs.replace(
        made.charter, most_plans=room, classes=tuple(given.classes), evaluators=given.evaluators
    )
    manifest = msgspec.structs.replace(made.manifest, device_class=given.device_class)
    return replace(made, charter=charter, manifest=manifest)


def learnt(plan: "Plan", place: Path, file: Path | None) -> "Learnt":
    """The Snapshot that a successor starts from: that file, or the newest that was served from this home."""
    from tacit.cli.fetch import HEAD
    from tacit.compiler.succession import Learnt
    from tacit.coordinator.keys import load_or_make
    from tacit.coordinator.records import Records
    from tacit.device.trust import Seen, verified_head
    from tacit.wire.ids import PlanId, sha256
    from tacit.wire.messages import Head, decode

    if file is not None:
        signed = file.with_name(file.name + HEAD)
        try:
            data, head = file.read_bytes(), decode(Head, signed.read_bytes())
        except OSError as error:
            raise InputError(
                f"{error.filename} cannot be read; `tacit fetch LINK -o {file}` writes both files"
            ) from error
        verified_head(head, PlanId(plan.plan_id), plan.manifest, Seen(None, None))
        if sha256(data) != head.snapshot_hash:
            raise InputError(f"{file} is not the Snapshot that the keyholders signed in {signed}; fetch it again")
        return Learnt(plan, head.version, data)
    home = place / "coordinator"
    folder = home / "plans" / plan.plan_id.hex()
    if not folder.exists():
        raise InputError(
            f"Plan {plan.name} was not served from {place}: say --from-snapshot FILE, as `tacit fetch LINK` writes it"
        )

    def drawn(_count: int) -> bytes:
        raise InputError(f"{home} has served a Plan and its keys are gone; restore the folder")

    store = Records(home, os.environ.get("TACIT_STORE", ""), os.environ.get("TACIT_BLOBS", "")).open(
        plan, load_or_make(home, drawn).sig
    )
    try:
        newest = store.newest()
        if newest is None:
            raise InputError(
                f"Plan {plan.name} has no signed Snapshot yet: serve it first, or compile without --continues"
            )
        return Learnt(plan, newest.version, store.snapshot(newest.snapshot_hash))
    finally:
        store.close()
