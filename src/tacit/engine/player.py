"""Plays the tapes of one model on memory of its own.

Everything is verified and allocated when a Player is made; from then on it only copies examples in and
numbers out. It holds private values (state, gradients, examples), so no error of it says any of them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.engine.memory import aligned, allocate, is_aligned, largest
from tacit.engine.tape import MOST, Playing, VerifiedTape
from tacit.engine.visit import NotFinite, Stage, Visiting, Work, WrongExamples
from tacit.errors import InputError
from tacit.plan.layout import padded_size, sides
from tacit.plan.program import Field, Playable, Program, example_bytes
from tacit.plan.tape import Kind, Region

Inputs = Mapping[str, NDArray[np.generic]]
Kept = Sequence[NDArray[np.uint8]]
STATES = (Region.STATE, Region.GRADIENT, Region.MOMENT, Region.START)  # laid out alike


class Player:
    """The tapes of one Playable, on shared memory.

    Inputs are a dictionary of arrays [n, *shape] as the Plan's fields say; images are (C, H, W) and are
    turned here. A Snapshot is one float32 vector in the Plan's order.
    """

    def __init__(
        self,
        playable: Playable,
        *,
        most_operations: int = MOST,
        most_bytes: int = MOST,
        most_memory: int = MOST,
    ):
        """The limits are on one play of any tape, and on what is allocated for all of them."""
        self._program = playable.program
        _check_places(self._program)
        self._tapes: dict[Kind, VerifiedTape] = {}
        for kind, data in playable.tapes.items():
            tape = VerifiedTape.load(data, most_operations=most_operations, most_bytes=most_bytes)
            if tape.kind is not kind:
                raise InputError(f"the {kind.name.lower()} tape says that it is a {tape.kind.name.lower()} tape")
            self._tapes[kind] = tape
        for kind in (Kind.TRAIN, Kind.APPLY):
            if kind not in self._tapes:
                raise InputError(f"a Plan without a {kind.name.lower()} tape cannot be trained")
        self._memory = self._allocate(playable.frozen, most_memory)
        self._playing: dict[Kind, Playing] = {k: tape.on(self._memory) for k, tape in self._tapes.items()}
        self._stages: dict[bool, Stage] = {}  # for examples, and for what the prefix left
        self._seed = 0
        self._state = self._memory[Region.STATE].view(np.float32)
        self._x = [self._view(Region.X, field) for field in self._program.inputs]
        self._y = self._view(Region.Y, self._program.label)
        self._kept = [
            self._block(Region.KEPT, kept.offset, self.microbatch * kept.example_bytes).reshape(
                self.microbatch, kept.example_bytes
            )
            for kept in self._program.kept
        ]
        trained = sum(math.prod(place.shape) for place in self._program.places if place.place == "state")
        if trained != self._program.d or playable.initial.shape != (self._program.d,):
            raise InputError("the Plan's tensors do not add up to the size of its Snapshots")
        self._spread(playable.initial)  # into memory that is zero, and of which the rest is not touched before use

    def _allocate(self, frozen: NDArray[np.uint8], most_memory: int) -> dict[Region, NDArray[np.uint8]]:
        program, sizes = self._program, largest(tape.regions for tape in self._tapes.values())
        frozen_size = sizes.pop(Region.FROZEN, 0)
        if frozen.nbytes < frozen_size:
            raise InputError(f"the tapes read {frozen_size} frozen bytes and the Plan has {frozen.nbytes}")
        # What the player writes itself must be there, whether or not a tape reads it.
        n = program.microbatch
        wanted = {
            Region.STATE: max((p.offset + 4 * padded_size(p) for p in program.places if p.place == "state"), default=0),
            Region.X: max((f.offset + n * example_bytes(f) for f in program.inputs), default=0),
            Region.Y: program.label.offset + n * example_bytes(program.label),
            Region.WEIGHT: 4 * n,
            Region.DIVISOR: 4,
            Region.LOSS: 4,
            Region.RATE: 4,
            Region.OUTPUT: 4 * n * max(2, math.prod(program.output_shape)),
            Region.KEPT: max((k.offset + n * k.example_bytes for k in program.kept), default=0),
        }
        if Region.SEED in sizes:
            wanted[Region.SEED] = 8
        sizes = largest([sizes, wanted])
        state = max(sizes.get(region, 0) for region in STATES)
        sizes |= {region: state for region in STATES if region in sizes}
        if sum(sizes.values()) > most_memory:
            raise InputError(
                f"this Plan plays on {sum(sizes.values())} bytes and {most_memory} are allowed; nothing was run"
            )
        memory = allocate(sizes)
        if frozen_size:
            # A Plan's file keeps its frozen bytes aligned; a copy is for arrays from elsewhere.
            if not is_aligned(frozen):
                copy = aligned(frozen.nbytes)
                copy[:] = frozen
                frozen = copy
            memory[Region.FROZEN] = frozen
        return memory

    @property
    def microbatch(self) -> int:
        """How many examples one step takes."""
        return self._program.microbatch

    @property
    def arena_bytes(self) -> int:
        """The arena that all tapes share."""
        return self._memory[Region.ARENA].nbytes if Region.ARENA in self._memory else 0

    @property
    def addresses(self) -> list[int]:
        """Where its regions stand in the process."""
        return [block.ctypes.data for block in self._memory.values()]

    @property
    def training_bytes(self) -> int:
        """What training takes: every region of the train and apply tapes, and the frozen bytes they read."""
        sizes = largest(self._tapes[kind].regions for kind in (Kind.TRAIN, Kind.APPLY))
        sizes.pop(Region.FROZEN, None)
        return sum(sizes.values()) + self._program.resources.frozen_touched

    def load(self, snapshot: NDArray[np.float32]) -> None:
        """Begins anew from a Snapshot, without momentum."""
        if snapshot.shape != (self._program.d,):
            raise InputError(f"this Snapshot has {snapshot.size} values and the Plan has {self._program.d}")
        for region in STATES:
            if region in self._memory:
                self._memory[region][:] = 0
        self._spread(snapshot)

    def _spread(self, snapshot: NDArray[np.float32]) -> None:
        for flat, panels in sides(self._program.places, snapshot, self._state):
            panels[...] = flat
        if Region.START in self._memory:
            self._memory[Region.START][:] = self._memory[Region.STATE]

    def snapshot(self) -> NDArray[np.float32]:
        """The subset's values now, in the Plan's order."""
        return self._flat(Region.STATE)

    def gradient(self) -> NDArray[np.float32]:
        """The minibatch's gradient so far, in the Plan's order."""
        return self._flat(Region.GRADIENT)

    def give_gradient(self, gradient: NDArray[np.float32]) -> None:
        """Puts these values, in the Plan's order, where the minibatch's gradient stands: `apply` takes them off."""
        if gradient.shape != (self._program.d,):
            raise InputError(f"this gradient has {gradient.size} values and the Plan has {self._program.d}")
        self._memory[Region.GRADIENT][:] = 0  # what pads the panels too
        places, panels_of_all = self._program.places, self._memory[Region.GRADIENT].view(np.float32)
        for flat, panels in sides(places, gradient, panels_of_all):
            panels[...] = flat

    def _flat(self, region: Region) -> NDArray[np.float32]:
        values = np.empty(self._program.d, np.float32)
        for flat, panels in sides(self._program.places, values, self._memory[region].view(np.float32)):
            flat[...] = panels
        return values

    def keep(self, inputs: Inputs) -> list[NDArray[np.uint8]] | None:
        """What the frozen prefix makes of these examples, a row each; None if the model has no prefix.

        It depends on the example and the Plan alone: compute it once, and give it to `step` ever after.
        """
        if Kind.PREFIX not in self._tapes:
            return None
        n = self._count(inputs)
        rows = [np.empty((n, kept.example_bytes), np.uint8) for kept in self._program.kept]
        for start in range(0, n, self.microbatch):
            count = self._fill(inputs, start, min(start + self.microbatch, n))
            self._playing[Kind.PREFIX]()
            for row, block in zip(rows, self._kept, strict=True):
                row[start : start + count] = block[:count]
        return rows

    def step(
        self,
        examples: Inputs | Kept,
        labels: NDArray[Any],
        weights: NDArray[np.float32],
        divisor: float,
        first: bool,
    ) -> float:
        """One micro-batch: adds its gradients to the minibatch's, and returns the minibatch's loss so far.

        `divisor` is the minibatch's summed weight; `first` begins a new minibatch. An example of weight 0 has no
        influence, whatever it holds. Raises NotFinite.
        """
        n = len(labels)
        if not 1 <= n <= self.microbatch or len(weights) != n:
            raise WrongExamples(f"a step takes 1 to {self.microbatch} examples, each with a label and a weight")
        _check_weights(weights)
        if self._program.whole and (n < self.microbatch or np.min(weights) == 0):
            raise WrongExamples(
                f"this model's norms use the statistics of {self.microbatch} examples, in which padding and examples "
                "of weight 0 would count; each step takes all of them, with weights above 0"
            )
        if isinstance(examples, Mapping):
            if self._count(examples) != n:
                raise WrongExamples(f"there are {n} labels and {self._count(examples)} examples")
            self._fill(examples, 0, n)
            _stand_in(self._x, weights)
            if Kind.PREFIX in self._playing:
                self._playing[Kind.PREFIX]()
        else:
            self._fill_kept(examples, n)
            _stand_in(self._kept, weights)
        self._label(labels)
        self._weigh(weights)
        self._memory[Region.DIVISOR].view(np.float32)[0] = divisor
        self._draw()
        self._playing[Kind.TRAIN](first=first)
        loss = float(self._memory[Region.LOSS].view(np.float32)[0])
        if not math.isfinite(loss):
            raise NotFinite
        return loss

    def reseed(self, seed: int) -> None:
        """Begins the random masks anew: each micro-batch from here on draws from the next number."""
        self._seed = seed

    def _draw(self) -> None:
        if Region.SEED in self._memory:
            self._memory[Region.SEED].view(np.uint64)[0] = self._seed & (1 << 64) - 1
            self._seed += 1

    def apply(self, rate: float) -> None:
        """Takes the gradients of the minibatch off the state, by the Plan's optimizer."""
        self._memory[Region.RATE].view(np.float32)[0] = rate
        self._playing[Kind.APPLY]()

    def visit(
        self,
        examples: Inputs | Kept,
        labels: NDArray[Any],
        weights: NDArray[np.float32],
        minibatches: Sequence[NDArray[np.integer]],
        rates: Sequence[float],
        snapshot: NDArray[np.float32],
        seed: int = 0,
    ) -> Visiting:
        """Local training from a Snapshot, to be played on this memory: a step at its rate for each of `minibatches`.

        It does what `load`, `reseed`, and then `step` for each micro-batch and `apply` for each minibatch do, to the
        byte, with each minibatch's summed weight as its divisor. Nothing is played yet.
        """
        n, program = len(labels), self._program
        self._check_labels(labels)
        _check_weights(weights)
        if len(weights) != n or len(rates) != len(minibatches):
            raise WrongExamples(f"there are {n} labels and {len(weights)} weights, and a rate for every minibatch")
        if snapshot.shape != (program.d,):
            raise InputError(f"this Snapshot has {snapshot.size} values and the Plan has {program.d}")
        order = np.concatenate([np.zeros(0, np.int64), *minibatches], dtype=np.int64, casting="unsafe")
        if ((order < 0) | (order >= n)).any():
            raise WrongExamples(f"a minibatch names an example outside 0 to {n - 1}")
        kept = not isinstance(examples, Mapping)
        if isinstance(examples, Mapping):
            if self._count(examples) != n:
                raise WrongExamples(f"there are {n} labels and {self._count(examples)} examples")
            rows = [np.ascontiguousarray(examples[field.name], field.dtype) for field in program.inputs]
        else:
            self._check_kept(examples, n)
            rows = [np.ascontiguousarray(row) for row in examples]
        if kept not in self._stages:
            self._stages[kept] = Stage(program, self._tapes, self._memory, kept)
        work = Work(rows, labels, weights, order, [len(part) for part in minibatches], rates, seed)
        return self._stages[kept].begin(snapshot, work)

    def train_minibatch(
        self,
        examples: Inputs | Kept,
        labels: NDArray[Any],
        indices: NDArray[np.integer],
        rate: float,
        weights: NDArray[np.float32] | None = None,
    ) -> float:
        """One optimizer step on the examples at `indices`, however many micro-batches it takes.

        Its loss is the mean by `weights`, which has one for each of `examples`; without them all weigh the same.
        """
        loss, n = 0.0, len(indices)
        if n == 0:
            raise WrongExamples("a minibatch has at least one example")
        weighing = np.ones(n, np.float32)
        if weights is not None:
            _check_weights(weights[indices])
            indices = indices[weights[indices] > 0]  # what does not count need not be computed
            weighing, n = weights[indices].astype(np.float32), len(indices)
        divisor = float(weighing.sum(dtype=np.float64))
        if not divisor > 0:
            raise WrongExamples("at least one example of a minibatch has a weight above 0")
        for start in range(0, n, self.microbatch):
            chosen = indices[start : start + self.microbatch]
            if isinstance(examples, Mapping):
                part: Inputs | Kept = {name: array[chosen] for name, array in examples.items()}
            else:
                part = [rows[chosen] for rows in examples]
            weighed = weighing[start : start + self.microbatch]
            loss = self.step(part, labels[chosen], weighed, divisor, first=start == 0)
        self.apply(rate)
        return loss

    def evaluate(
        self, inputs: Inputs, labels: NDArray[Any], weights: NDArray[np.float32] | None = None
    ) -> tuple[float, float, int]:
        """The summed loss, how many are right, and how many there are.

        Where a label has many parts (a class at each position), an example is right by the share of them that is.
        With `weights` each loss is multiplied by its own, and what has the weight 0 is not counted.
        """
        n = self._count(inputs)
        weighing = np.ones(n, np.float32) if weights is None else weights
        if len(weighing) != n:
            raise WrongExamples(f"there are {len(weighing)} weights and {n} examples")
        _check_weights(weighing)
        scores = self.scores(inputs, labels, weighing)
        return float(scores[:, 0] @ weighing), float(scores[:, 1].sum()), int(np.count_nonzero(weighing))

    def scores(
        self, inputs: Inputs, labels: NDArray[Any], weights: NDArray[np.float32] | None = None
    ) -> NDArray[np.float64]:
        """Of each example its loss, and whether it is right: [n, 2]. What has the weight 0 is not right."""
        n = self._count(inputs)
        weighing = np.ones(n, np.float32) if weights is None else weights
        if len(labels) != n:
            raise WrongExamples(f"there are {len(labels)} labels and {n} examples")
        found = np.empty((n, 2))

        def take(start: int, count: int) -> None:
            found[start : start + count] = self._output(2)[:count]

        def label(start: int, count: int) -> None:
            self._label(labels[start : start + count])
            self._weigh(weighing[start : start + count])

        self._run(Kind.EVALUATE, inputs, label, take)
        return found

    def predict(self, inputs: Inputs) -> NDArray[np.float32]:
        """What the model says of each example, [n, *output_shape]."""
        size = math.prod(self._program.output_shape)
        results = np.empty((self._count(inputs), size), np.float32)

        def take(start: int, count: int) -> None:
            results[start : start + count] = self._output(size)[:count]

        self._run(Kind.PREDICT, inputs, lambda start, count: None, take)
        return results.reshape(len(results), *self._program.output_shape)

    def _run(
        self,
        kind: Kind,
        inputs: Inputs,
        before: Callable[[int, int], None],
        after: Callable[[int, int], None],
    ) -> None:
        """Plays one tape over all examples, a micro-batch at a time."""
        if kind not in self._playing:
            raise InputError(f"this Plan has no {kind.name.lower()} tape")
        n = self._count(inputs)
        for start in range(0, n, self.microbatch):
            count = self._fill(inputs, start, min(start + self.microbatch, n))
            before(start, count)
            self._playing[kind]()
            after(start, count)

    def _block(self, region: Region, offset: int, size: int) -> NDArray[np.uint8]:
        return self._memory[region][offset : offset + size]

    def _view(self, region: Region, field: Field) -> NDArray[np.generic]:
        """A field's micro-batch where it stands, in the shape the developer wrote."""
        block = self._block(region, field.offset, self.microbatch * example_bytes(field)).view(field.dtype)
        if not field.channels_last:
            return block.reshape(self.microbatch, *field.shape)
        channels, high, wide = field.shape
        return block.reshape(self.microbatch, high, wide, channels).transpose(0, 3, 1, 2)

    def _output(self, per_example: int) -> NDArray[np.float32]:
        block = self._block(Region.OUTPUT, 0, 4 * self.microbatch * per_example)
        return block.view(np.float32).reshape(self.microbatch, per_example)

    def _count(self, inputs: Inputs) -> int:
        """How many examples there are; refuses what the model was not compiled for."""
        fields = self._program.inputs
        if set(inputs) != {field.name for field in fields}:
            raise WrongExamples(f"the model takes {[field.name for field in fields]}, not {sorted(inputs)}")
        counts: set[int] = set()
        for field in fields:
            array = inputs[field.name]
            if array.ndim == 0 or array.shape[1:] != field.shape or not _same_kind(array.dtype, field.dtype):
                raise WrongExamples(
                    f"{field.name} is {array.dtype} {array.shape[1:]} for each example, and the model takes "
                    f"{field.dtype} {field.shape}"
                )
            counts.add(len(array))
        if len(counts) > 1:
            raise WrongExamples(f"the inputs differ in how many examples they have: {sorted(counts)}")
        return counts.pop() if counts else 0

    def _fill(self, inputs: Inputs, start: int, end: int) -> int:
        """Puts examples into X; the rest of the micro-batch is zero."""
        for field, view in zip(self._program.inputs, self._x, strict=True):
            view[: end - start] = inputs[field.name][start:end]
            view[end - start :] = 0
        return end - start

    def _check_kept(self, rows: Kept, n: int) -> None:
        if len(rows) != len(self._kept) or not self._kept:
            raise WrongExamples(f"the model keeps {len(self._kept)} results, and {len(rows)} were given")
        for row, block in zip(rows, self._kept, strict=True):
            if row.dtype != np.uint8 or row.shape != (n, block.shape[1]):
                raise WrongExamples("these rows are not what this model keeps; compute them anew")

    def _fill_kept(self, rows: Kept, n: int) -> None:
        self._check_kept(rows, n)
        for row, block in zip(rows, self._kept, strict=True):
            block[:n] = row
            block[n:] = 0

    def _check_labels(self, labels: NDArray[Any]) -> None:
        field = self._program.label
        if labels.shape[1:] != field.shape or not _same_kind(labels.dtype, field.dtype):
            raise WrongExamples(
                f"a label is {labels.dtype} {labels.shape[1:]} for each example, and the model takes {field.dtype} "
                f"{field.shape}"
            )
        if field.classes is not None:
            known = (labels >= 0) & (labels < field.classes)
            if field.ignored is not None:
                known |= labels == field.ignored
            if not known.all():
                raise WrongExamples(f"a label lies outside 0 to {field.classes - 1}")

    def _label(self, labels: NDArray[Any]) -> None:
        self._check_labels(labels)
        self._y[: len(labels)] = labels
        self._y[len(labels) :] = 0

    def _weigh(self, weights: NDArray[np.float32]) -> None:
        view = self._memory[Region.WEIGHT].view(np.float32)
        view[: len(weights)] = weights
        view[len(weights) :] = 0


def _check_weights(weights: NDArray[np.float32]) -> None:
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise WrongExamples("a weight is a finite number that is not negative")


def _stand_in(blocks: Sequence[NDArray[Any]], weights: NDArray[np.float32]) -> None:
    """What does not count, padding and examples of weight 0, becomes a copy of the first example that does.

    Its gradients are multiplied by 0, and 0 times what is computed is 0 only where that is finite: a copy is finite
    where its original is, which zeros, or whatever the example holds, need not be.
    """
    counts = np.flatnonzero(weights)
    for block in blocks:
        idle = np.ones(len(block), bool)
        idle[counts] = False
        block[idle] = block[counts[0]] if len(counts) else 0


def _check_places(program: Program) -> None:
    """A Plan comes from outside: what it says about places must be places."""
    fields = (*program.inputs, program.label)
    offsets = [place.offset for place in (*program.places, *fields, *program.kept)]
    if program.microbatch < 1 or any(offset < 0 or offset % 4 for offset in offsets):
        raise InputError("the Plan names a place that does not exist")
    for field in fields:
        if field.dtype not in ("float32", "int32") or (field.channels_last and len(field.shape) != 3):
            raise InputError(f"the Plan's field {field.name} has a type that the engine does not know")
    if (program.label.dtype == "int32") != (program.label.classes is not None):
        raise InputError("a label is one of so many classes, or a number")


def _same_kind(given: np.dtype[np.generic], wanted: str) -> bool:
    """Whether an array goes into a field unchanged in meaning: any float or integer into a float field."""
    return np.can_cast(given, wanted, "same_kind") or (wanted == "float32" and given.kind in "iu")
