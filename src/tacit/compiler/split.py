"""What depends only on frozen tensors and the example is computed once per example, and its results are kept.

The boundary is a place in the order of those steps: what lies before it becomes the prefix tape, and every value
that crosses it stands in KEPT, a block of `[microbatch, example_bytes]` each. Among the boundaries that save
almost all of the arithmetic there is to save, the one that keeps the fewest bytes an example wins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tacit.compiler.ir import Graph, Step, Value, work
from tacit.plan.program import KeptTensor
from tacit.plan.tape import ALIGNMENT, Kind, Op, Region, up

# Disk is cheap beside computing the same again in every step of every visit, so a boundary must save this share
# of what the last one saves.
WORTH_SAVING = 0.9
CHEAP = frozenset({Op.MAP, Op.COPY})


@dataclass(frozen=True, eq=False)
class Split:
    """The two tapes' graphs, and what stands between them."""

    prefix: Graph | None
    train: Graph
    kept: tuple[KeptTensor, ...]
    boundary: str  # in words


def whole_step(train: Graph) -> Split:
    """No prefix: every step begins at the example."""
    return Split(None, train, (), "none: every step begins at the example")


def split_prefix(train: Graph) -> Split:
    """The train graph from its boundary on, and the prefix before it.

    Where a prefix would hold nothing but element-wise arithmetic on the example, there is none.
    """
    before = _frozen_steps(train)
    if all(step.op in CHEAP for step in before):
        return whole_step(train)
    after = [step for step in train.steps if step not in set(before)]
    saved = [0]
    for step in before:
        saved.append(saved[-1] + work(step))
    choices = [
        (sum(value.bytes for value in _crossing(before[:i], [*before[i:], *after])), -saved[i], i)
        for i in range(1, len(before) + 1)
        if saved[i] >= WORTH_SAVING * saved[-1] and any(step.op not in CHEAP for step in before[:i])
    ]
    _, _, boundary = min(choices)
    first, rest = before[:boundary], [step for step in train.steps if step not in set(before[:boundary])]
    return _cut(train, first, rest)


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


def _cut(train: Graph, first: list[Step], rest: list[Step]) -> Split:
    kept: list[KeptTensor] = []
    moved: dict[Value, Value] = {}
    copies: list[Step] = []
    at = 0
    for value in _crossing(first, rest):
        standing = replace(value, region=Region.KEPT, offset=at)
        kept.append(KeptTensor(value.name, at, value.bytes // train.microbatch))
        at += up(value.bytes, ALIGNMENT)
        moved[value] = standing
        if value.region is Region.X:
            box = (1, 1, 1, value.bytes // 4, 0, 0, 0, 1, 0, 0, 0, 1)
            copies.append(Step(Op.COPY, (standing,), (value,), box, module=value.module))
    results = tuple(moved.values())
    in_prefix = {old: new for old, new in moved.items() if old.region is not Region.X}
    prefix = Graph(Kind.PREFIX, tuple(first), results, train.microbatch).with_values(in_prefix)
    prefix = prefix.with_steps((*prefix.steps, *copies))
    where = ", ".join(f"{value.name} of {value.module or 'the module itself'}" for value in moved)
    each = sum(part.example_bytes for part in kept)
    boundary = f"after {len(first)} steps; kept per example: {where} ({each} bytes)"
    return Split(prefix, train.with_steps(rest).with_values(moved), tuple(kept), boundary)
