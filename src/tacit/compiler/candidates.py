"""Subset candidates with their figures: each is planned by the compiler as if it had been chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from tacit.compiler.choose import costs, parameters_of
from tacit.compiler.errors import NotLowered, NotTraceable, RuleBroken, WrongSubset
from tacit.compiler.parts import rewritten
from tacit.compiler.presets import Candidate, Part, propose, recognise
from tacit.compiler.projected import sketched
from tacit.compiler.trace import Model, Traced, in_training, model_of, rehearse, trace_step, zeros
from tacit.compiler.whole import Whole
from tacit.plan.program import Optimizer
from tacit.task import Precision, Projected, TaskInvalid


@dataclass(frozen=True)
class Planned:
    """A candidate and what it costs. `stopped` says what stops it, and is empty where it fits."""

    name: str
    reason: str
    values: int
    upload: int
    training_bytes: int
    kept_per_example: int
    stopped: str = ""
    chosen: bool = False


@dataclass(frozen=True)
class Limits:
    """What a visit may take, and the size of an Update by its values."""

    memory: int
    upload: int
    upload_of: Callable[[int], int]

    def stops(self, upload: int, training: int) -> str:
        """What goes over them.

        >>> Limits(100, 50, lambda values: values).stops(60, 90)
        'upload: 60 bytes, and 50 are allowed'
        """
        over = [
            f"{what}: {needed:,} bytes, and {allowed:,} are allowed"
            for what, needed, allowed in (("upload", upload, self.upload), ("memory", training, self.memory))
            if needed > allowed
        ]
        return "; ".join(over)


Comparison = tuple[Planned, ...]  # the chosen subset among others


def compared(
    whole: Whole,
    chosen: Planned,
    asked: Sequence[Part],
    *,
    public: int,
    limits: Limits,
    microbatch: int,
    optimizer: Optimizer,
    precision: Precision,
    recompute: bool,
    say: Callable[[str], None],
) -> Comparison:
    """The chosen subset, `asked` for in these parts, among the candidates for such a module, each with its figures.

    `public` counts public examples: without any nothing is projected. Candidates that leave the module as it is share
    the trace of the whole. Each is announced to `say`.
    """
    say(f"tracing the whole {recognise(whole.module).value} …")
    try:
        model, traced = whole.trained
    except (NotLowered, NotTraceable):
        # What a projected head cuts off need not compile; then there is nothing to compare with.
        return (chosen,)
    candidates = propose(model, traced, public)
    found: list[Planned] = []
    for number, candidate in enumerate(candidates, 1):
        if set(candidate.subset) == set(asked):
            found.append(replace(chosen, name=candidate.name, reason=candidate.reason))
            continue
        say(f"planning candidate {number} of {len(candidates)}: {candidate.name} …")
        try:
            inner, step, names = prepared(candidate, whole)
            training, kept = costs(inner, step, names, microbatch, optimizer, precision, recompute)
        except (NotLowered, NotTraceable, WrongSubset, TaskInvalid, RuleBroken) as error:
            # What stops another subset, even a mistake of the compiler, does not stop the one that was chosen.
            found.append(Planned(candidate.name, candidate.reason, 0, 0, 0, 0, str(error)))
            continue
        values = sum(inner.parameters[name].numel() for name in names)
        upload = limits.upload_of(values)
        stopped = limits.stops(upload, training)
        found.append(Planned(candidate.name, candidate.reason, values, upload, training, kept, stopped))
    if not any(one.chosen for one in found):
        found.insert(0, chosen)
    return tuple(found)


def prepared(candidate: Candidate, whole: Whole) -> tuple[Model, Traced, list[str]]:
    """The module as the candidate needs it, traced as far as it needs, and the parameters to train."""
    model, traced = whole.trained
    module = whole.module
    match candidate.subset:
        case [Projected() as part]:
            made: nn.Module = sketched(module, part, zeros(model, 3))
            wanted = ["head"]
        case parts:
            made, wanted = rewritten(module, [part for part in parts if not isinstance(part, Projected)])
            if made is module:
                return model, traced, list(wanted)
    names = parameters_of(made, wanted)
    model = rehearse(model_of(made, model.inputs, model.classes, model.label, model.loss))
    model = in_training(model, whole.dropout, whole.batch_statistics)
    return model, trace_step(model, names), names


def table(planned: Sequence[Planned]) -> list[str]:
    """The candidates as lines of text, a star before the one that was chosen.

    >>> print(*table([Planned("the head", "the least", 10, 900, 2048, 0, "", True)]), sep="\\n")
      candidate  values  upload  memory  kept
    * the head       10     900   2,048     0  fits: the least
    """
    rows = [("candidate", "values", "upload", "memory", "kept")]
    rows += [
        (one.name, f"{one.values:,}", f"{one.upload:,}", f"{one.training_bytes:,}", f"{one.kept_per_example:,}")
        if one.values
        else (one.name, "–", "–", "–", "–")
        for one in planned
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines: list[str] = []
    for row, one in zip(rows, (None, *planned), strict=True):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        verdict = "" if one is None else f"  {one.stopped or f'fits: {one.reason}'}"
        lines.append(f"{'*' if one is not None and one.chosen else ' '} {'  '.join(cells)}{verdict}")
    return lines
