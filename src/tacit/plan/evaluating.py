"""From a Plan that trains to one by which the evaluation cohort judges its Snapshots: same model, numbers of its own.

Both are of one charter. What the charter allows a device to spend it allows a device of either cohort, and no device is
in both: those that judge never train.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from tacit.errors import InputError
from tacit.plan.bundle import Plan
from tacit.plan.chain import no_room
from tacit.plan.manifest import Evaluation, KeyholderCard, Manifest
from tacit.plan.numbers import choose_numbers, upload_size
from tacit.plan.program import has_confidence
from tacit.plan.server import Server

PREFIX = "evaluating "


@dataclass(frozen=True)
class Evaluating:
    """How a Plan's Snapshots are judged.

    | example | meaning |
    |---|---|
    | `Evaluating()` | sums of a thousand answers, at most 20 of a device, ε = 2.2 at δ = 1e-7 |
    | `Evaluating(batch=4, threshold=4)` | so small that it can be tried; the errors are then as large |
    | `Evaluating(noise=5.0)` | half the noise, a higher ε |
    | `Evaluating(most_loss=10.0)` | an example's loss counts as 10 at most |
    | `Evaluating(groups=("phone", "laptop"))` | phones and laptops are also measured apart |
    | `Evaluating(counts=12)` | how many examples devices hold, in twelve doublings |
    """

    batch: int = 1000
    threshold: int | None = None  # half of the batch, and 10 at least where the batch is larger
    snapshots: int = 1000
    landings: int = 20
    noise: float | None = None  # in one sum, in units of one answer; 10, or more where the charter allows less
    most_loss: float | None = None  # twice the loss of guessing among the classes
    bins: int = 10
    groups: tuple[str, ...] = ()  # of devices, each measured by itself too
    counts: int = 0  # bins of how many examples devices hold


def evaluation_of(
    plan: Plan,
    cards: Sequence[KeyholderCard],
    how: Evaluating = Evaluating(),
    start: bytes | None = None,
    now: int | None = None,
) -> tuple[Manifest, dict[str, bytes]]:
    """The unsigned manifest and the blobs; the charter is the Plan's. Its first Snapshot is `start`, or the Plan's.

    `cards` are new ones of the Plan's keyholders.
    """
    manifest, charter, program = plan.manifest, plan.charter, plan.manifest.program
    if manifest.evaluation is not None or program.scouted:
        raise InputError(f"Plan {plan.name} trains nothing, so there is nothing to judge")
    if charter.unit != "device":
        raise InputError(f"the unit of Plan {plan.name} is the {charter.unit}; only what devices train is judged so")
    if not charter.evaluators:
        raise InputError(
            f"the charter of Plan {plan.name} has no evaluation cohort, so no device may judge it: compile its Task "
            "with --evaluators 5, and five devices in a hundred will judge and never train"
        )
    start = plan.initial_snapshot if start is None else start
    if len(start) != 4 * program.d:
        raise InputError(f"a Snapshot of Plan {plan.name} has {4 * program.d} bytes and this one has {len(start)}")
    now = int(time.time()) if now is None else now
    # A hair more than the charter asks for: sensitivities are rounded up.
    noise = how.noise or max(10.0, math.sqrt(how.landings / charter.mu2_total) * (1 + 1e-6))
    mu2 = how.landings / noise**2
    keyholders = [card.sig_pk for card in cards]
    if reason := no_room(charter, author=plan.author, keyholders=keyholders, plans=1, mu2=mu2, now=now):
        raise InputError(f"the charter of Plan {plan.name} has no room for its evaluation: {reason}")
    asked = Evaluation(
        of=plan.lineage,
        most_loss=_most_loss(plan) if how.most_loss is None else how.most_loss,
        right=program.score == "accuracy",
        bins=how.bins if program.score == "accuracy" and has_confidence(program) else 0,
        groups=how.groups,
        counts=how.counts,
    )
    numbers = choose_numbers(
        d=asked.values,
        keyholders=len(cards),
        epsilon=None,
        noise=noise,
        batch=how.batch,
        threshold=threshold_of(how),
        snapshots=how.snapshots,
        participations=how.landings,
        max_age=0,
        clip=1.0,
        delta=manifest.noise.delta,
    )
    most = upload_size(asked.values, numbers.quantisation.bits, len(cards))
    made = msgspec.structs.replace(
        manifest,
        title=(PREFIX + manifest.title)[:64].strip(),
        created_at=now,
        server=Server(),
        quantisation=numbers.quantisation,
        batch=numbers.batch,
        participation=msgspec.structs.replace(numbers.participation, cohort="eval"),
        noise=numbers.noise,
        keyholders=tuple(cards),
        limits=msgspec.structs.replace(manifest.limits, max_upload_bytes=most),
        continues=None,
        evaluation=asked,
    )
    blobs = {name: blob.tobytes() for name, blob in plan.blobs.items()}
    return made, blobs | {"initial": start + bytes(4 * asked.values)}


def threshold_of(how: Evaluating) -> int:
    """No sum of fewer answers is opened.

    >>> [threshold_of(Evaluating(batch=batch)) for batch in (4, 12, 1000)], threshold_of(Evaluating(threshold=7))
    ([4, 10, 500], 7)
    """
    return how.threshold or max(how.batch // 2, min(how.batch, 10))


def _most_loss(plan: Plan) -> float:
    classes = plan.manifest.program.label.classes
    if classes is None:
        raise InputError(
            f"Plan {plan.name} has no classes, so nobody can say how large a loss may be: name the largest that should "
            "count, with --most-loss"
        )
    return round(2 * math.log(classes), 3)
