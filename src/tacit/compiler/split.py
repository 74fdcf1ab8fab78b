"""What depends only on frozen tensors and the example is computed once per example, and its results are kept.

The boundary is a place in the order of those steps: what lies before it becomes the prefix tape, and every value
that crosses it stands in KEPT, a block of `[microbatch, example_bytes]` each. Among the boundaries that save
almost all of the arithmetic there is to save, the one that keeps the fewest bytes an example wins. What is kept
may be narrower than float32: the prefix converts as it ends, and the train tape expands before the first use.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tacit.compiler.ir import Graph, Step, Value, work
from tacit.plan.program import KeptTensor
from tacit.plan.tape import ALIGNMENT, Kind, Number, Op, Region, number_bytes, up

# Disk is cheap beside computing the same again in every step of every visit, so a boundary must save this share
# of what the last one saves.
WORTH_SAVING = 0.9
CHEAP = frozenset({Op.MAP, Op.COPY})


@dataclass(frozen=True)
class Boundary:
    """A place where the prefix could end."""

    after: str  # the module that is at work last before it
    example_bytes: int  # kept per example
    saved: float  # of the whole step's operations
    chosen: bool


@dataclass(frozen=True, eq=False)
class Split:
    """The two tapes' graphs, what stands between them, and where else the boundary could have been."""

    prefix: Graph | None
    train: Graph
    kept: tuple[KeptTensor, ...]
    boundary: str  # in words
    considered: tuple[Boundary, ...] = ()


def whole_step(train: Graph, why: str = "") -> Split:
    """No prefix: every step begins at the example."""
    return Split(None, train, (), f"none: every step begins at the example{why}")


def split_prefix(train: Graph, kept: Number = Number.FLOAT32) -> Split:
    """The train graph from its boundary on, and the prefix before it, whose results are kept as `kept`.

    Where a prefix would hold nothing but element-wise arithmetic on the example, there is none.
    """
    before = _frozen_steps(train)
    drawn = _drawn_too_early(train, before)
    if all(step.op in CHEAP for step in before):
        return whole_step(train, drawn)
    after = [step for step in train.steps if step not in set(before)]
    saved = [0]
    for step in before:
        saved.append(saved[-1] + work(step))
    whole = saved[-1] + sum(map(work, after))
    choices = [
        (_example_bytes(train, _crossing(before[:i], [*before[i:], *after]), kept), -saved[i], i)
        for i in range(1, len(before) + 1)
        if any(step.op not in CHEAP for step in before[:i])
    ]
    _, _, at = min(choice for choice in choices if saved[choice[2]] >= WORTH_SAVING * saved[-1])
    first, rest = before[:at], [step for step in train.steps if step not in set(before[:at])]
    split = _cut(train, first, rest, kept)
    behind: dict[str, list[tuple[int, int, int]]] = {}  # the boundaries behind each module
    for choice in choices:
        behind.setdefault(before[choice[2] - 1].module, []).append(choice)
    considered = [
        Boundary(module, size, saved[i] / whole, chosen=i == at)
        for module, found in behind.items()
        for size, _, i in [min(found, key=lambda choice: (choice[2] != at, choice))]
    ]
    return replace(split, boundary=split.boundary + drawn, considered=tuple(considered))


def _drawn_too_early(train: Graph, before: Sequence[Step]) -> str:
    """In words, where the prefix had to end because a random number is drawn for every micro-batch."""
    known = {value for step in before for value in step.written()}
    for step in train.steps:
        if step.op is Op.RANDOM_MASK:
            readers = [other for other in train.steps if set(step.written()) & set(other.read())]
            if any(value in known or value.region is Region.X for other in readers for value in other.read()):
                module = step.module or "the module itself"
                return f"; it cannot lie later: {module} draws random numbers, anew for every micro-batch"
    return ""


def _frozen_steps(train: Graph) -> list[Step]:
    # A value that several steps write is known only if all of them are: look until nothing more is ruled out.
    late: set[Value] = set()
    while True:
        known: set[Value] = set()
        found: list[Step] = []
        ruled_out = len(late)
        for step in train.steps:
            given = all(v in known or v.region in (Region.X, Region.FROZEN) for v in step.read())
            if given and not late.intersection(step.written()) and not _never_kept(step, train):
                known.update(step.written())
                found.append(step)
            else:
                late.update(step.written())
        if len(late) == ruled_out:
            return found


def _never_kept(step: Step, train: Graph) -> bool:
    """Whether its result is another each time, or is that of other examples as well."""
    met = train.meets and step.op is Op.NORM and step.named["N"] == 1
    return met or step.op is Op.RANDOM_MASK


def _crossing(first: Sequence[Step], rest: Sequence[Step]) -> list[Value]:
    """What the rest reads of the first part's results, and of the example itself."""
    made = {value for step in first for value in step.written()}
    read = dict.fromkeys(value for step in rest for value in step.read())
    return [value for value in read if value in made or value.region is Region.X]


def _narrowed(value: Value, kept: Number) -> bool:
    """Whether the value is kept in fewer bits: only numbers that are computed are, and only one row an example."""
    return kept is not Number.FLOAT32 and value.dtype == "float32" and value.batched and value.form == "rows"


def _example_bytes(train: Graph, crossing: Sequence[Value], kept: Number) -> int:
    """What is kept of one example."""
    return sum(_row_bytes(value, train.microbatch, kept) for value in crossing)


def _row_bytes(value: Value, microbatch: int, kept: Number) -> int:
    each = value.bytes // microbatch
    return number_bytes(kept, each // 4) if _narrowed(value, kept) else each


def _cut(train: Graph, first: list[Step], rest: list[Step], number: Number) -> Split:
    kept: list[KeptTensor] = []
    moved: dict[Value, Value] = {}  # by value: what the train tape reads in its place
    standing: list[Value] = []
    into: list[Step] = []  # what the prefix does to leave it
    out: list[Step] = []  # what the train tape does to have it back
    in_prefix: dict[Value, Value] = {}
    n, at = train.microbatch, 0
    for value in _crossing(first, rest):
        each = _row_bytes(value, n, number)
        kept.append(KeptTensor(value.name, at, each))
        if _narrowed(value, number):
            row = (n, each)
            stands = replace(value, name=f"kept {value.name}", shape=row, dtype="uint8", region=Region.KEPT, offset=at)
            moved[value] = wide = replace(value, region=Region.ARENA, offset=None)
            shape = (n, value.bytes // 4 // n)
            into.append(Step(Op.CONVERT, (stands,), (value,), (*shape, Number.FLOAT32, number), module=value.module))
            out.append(Step(Op.CONVERT, (wide,), (stands,), (*shape, number, Number.FLOAT32), module=value.module))
        else:
            moved[value] = stands = replace(value, region=Region.KEPT, offset=at)
            if value.region is Region.X:
                box = (1, 1, 1, value.bytes // 4, 0, 0, 0, 1, 0, 0, 0, 1)
                into.append(Step(Op.COPY, (stands,), (value,), box, module=value.module))
            else:
                in_prefix[value] = stands
        standing.append(stands)
        at += up(n * each, ALIGNMENT)
    prefix = Graph(Kind.PREFIX, tuple(first), tuple(standing), n).with_values(in_prefix)
    prefix = prefix.with_steps((*prefix.steps, *into))
    where = ", ".join(f"{value.name} of {value.module or 'the module itself'}" for value in moved)
    each = sum(part.example_bytes for part in kept)
    how = "" if number is Number.FLOAT32 else f" as {number.name.lower()}"
    boundary = f"after {len(first)} steps; kept per example{how}: {where} ({each} bytes)"
    after = train.with_steps(rest).with_values(moved)
    return Split(prefix, after.with_steps(_before_use(after.steps, out)), tuple(kept), boundary)


def _before_use(steps: Sequence[Step], expansions: Sequence[Step]) -> list[Step]:
    """The steps, each expansion standing before the first that reads its result."""
    waiting = {value: step for step in expansions for value in step.written()}
    ordered: list[Step] = []
    for step in steps:
        ordered += [waiting.pop(value) for value in dict.fromkeys(step.read()) if value in waiting]
        ordered.append(step)
    return ordered
