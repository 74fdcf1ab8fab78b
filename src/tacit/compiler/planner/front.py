"""What the search found, for people and machines: why this one, a table, and which points nothing beats."""

from collections.abc import Sequence
from typing import Any

from tacit.compiler.planner.search import Found, Point


def front_of(points: Sequence[Point]) -> list[Point]:
    """The points of which no other takes as little memory and is expected to learn as much, lightest first.

    Only points that were judged in the same way are compared: those that were tried, where any were.
    """
    tried = [point for point in points if point.learnt is not None]
    found: list[Point] = []
    for point in sorted(tried or points, key=lambda one: (one.fitted.cost.memory, -one.progress)):
        if not found or point.progress > found[-1].progress:
            found.append(point)
    return found


def found_reasons(found: Found) -> tuple[str, ...]:
    """Why it is this one, in a few sentences."""
    chosen, cost = found.chosen, found.chosen.fitted.cost
    fitting = sum(point.fitted.fits for point in found.points)
    reasons = [
        f"chosen: {chosen.fitted.candidate.name} ({chosen.fitted.candidate.reason}), {chosen.fitted.setting}",
        f"of {len(found.points)} subsets, {fitting} fit; judged by {found.judged}",
    ]
    if (learnt := chosen.learnt) is not None:
        if learnt.of_answers:
            reasons.append(
                f"in that training it went from {learnt.right_before:.1%} to {learnt.right:.1%} right "
                f"(± {learnt.error:.1%})" + _at_rate(learnt.rate)
            )
        else:
            reasons.append(f"its loss went from {learnt.loss_before:.4g} to {learnt.loss:.4g}" + _at_rate(learnt.rate))
    if cost.slowest:
        reasons.append(
            f"a later visit computes for {cost.seconds:.2g} s on {cost.slowest}, the slowest device considered"
        )
    if chosen.noise > 0.1:
        reasons.append(f"the run's noise is about {chosen.noise:.2g} times its signal for {cost.values:,} values")
    return tuple(reasons)


def _at_rate(rate: float) -> str:
    return "" if rate == 1 else f", at {rate:.2g} of the Task's learning rate: consider that rate"


def front_lines(found: Found) -> list[str]:
    """The table: a star is what was chosen, a dot stands before a point of the front."""
    front = front_of(found.points)
    most = max(point.gain for point in found.points)
    rows = [("subset", "values", "upload", "memory", "kept", "seconds", "played", "expected")]
    shown = sorted(found.points, key=lambda point: (not point.fitted.fits, point.fitted.cost.memory))
    for point in shown:
        cost = point.fitted.cost
        rows.append(
            (
                _short(point.fitted.candidate.name),
                f"{cost.values:,}",
                f"{cost.upload:,}",
                f"{cost.memory:,}",
                f"{cost.kept:,}",
                f"{cost.seconds:.2g}",
                str(point.fitted.setting),
                expected(point, most),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = (0, 6)
    lines: list[str] = []
    for row, point in zip(rows, (None, *shown), strict=True):
        cells = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        mark = (
            " "
            if point is None
            else "*"
            if point is found.chosen or _same(point, found.chosen)
            else ("." if any(_same(point, one) for one in front) else " ")
        )
        over = (
            ""
            if point is None or point.fitted.fits
            else "   over: " + "; ".join(f"{name}: {words}" for name, words in point.fitted.over.items())
        )
        lines.append(f"{mark} {'  '.join(cells)}{over}".rstrip())
    lines += [f"  {_short(one.candidate.name)}: {one.reason}" for one in found.stopped]
    return lines


def expected(point: Point, most: float = 0.0) -> str:
    """What is expected of it, in words; a gain as a share of the most that any subset gains."""
    learnt = point.learnt
    if learnt is None:
        return f"gain {point.gain / most:.0%}" if most and point.gain else "–"
    if learnt.of_answers:
        return f"{learnt.right:.1%} right"
    return f"loss {learnt.loss:.3g}"


def _same(a: Point, b: Point) -> bool:
    return a.fitted.candidate.subset == b.fitted.candidate.subset


def _short(name: str, most: int = 60) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def front_json(found: Found) -> dict[str, Any]:
    """The same for machines."""
    front = front_of(found.points)
    return {
        "judged_by": found.judged,
        "points": [
            {
                "name": point.fitted.candidate.name,
                "subset": [_part(part) for part in point.fitted.candidate.subset],
                "reason": point.fitted.candidate.reason,
                "microbatch": point.fitted.setting.microbatch,
                "recompute": point.fitted.setting.recompute,
                "saved": point.fitted.setting.precision.saved,
                "frozen": point.fitted.setting.precision.frozen,
                "kept_bytes_per_example": point.fitted.cost.kept,
                "values": point.fitted.cost.values,
                "upload_bytes": point.fitted.cost.upload,
                "training_bytes": point.fitted.cost.memory,
                "operations": point.fitted.cost.operations,
                "seconds": point.fitted.cost.seconds,
                "slowest": point.fitted.cost.slowest,
                "joules": point.fitted.cost.joules,
                "fits": point.fitted.fits,
                "over": dict(point.fitted.over),
                "gain": point.gain,
                "noise_to_signal": point.noise,
                "right": None if point.learnt is None else point.learnt.right,
                "loss": None if point.learnt is None else point.learnt.loss,
                "rate": None if point.learnt is None else point.learnt.rate,
                "expected": point.progress,
                "front": any(_same(point, one) for one in front),
                "chosen": _same(point, found.chosen),
            }
            for point in found.points
        ],
        "stopped": {one.candidate.name: one.reason for one in found.stopped},
    }


def _part(part: object) -> str:
    return part if isinstance(part, str) else repr(part)
