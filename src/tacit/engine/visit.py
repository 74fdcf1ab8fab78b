"""A visit that the engine plays by itself: `tacit_visit` of engine/tacit.h, with its structs.

One call plays as many micro-batches as it is asked to and then returns, so that whoever called can look around,
or be interrupted, with nothing of the engine's on the stack; the next call goes on.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.engine.library import Pointers, Sizes
from tacit.engine.tape import VerifiedTape
from tacit.errors import InputError, TacitError
from tacit.plan.layout import panels_of
from tacit.plan.program import Field, Program, example_bytes
from tacit.plan.tape import Kind, Region


class NotFinite(TacitError):
    """Local training left the numbers; `reason` says where it showed."""

    def __init__(self, reason: str = "its loss is not a finite number") -> None:
        self.reason = reason
        super().__init__(
            f"local training diverged: {reason}. The run was given up and nothing of "
            "it is sent. A smaller learning rate, or a look at the examples for extreme values, may help."
        )


class WrongExamples(InputError):
    """The examples given do not have the shape or type that the model was compiled for."""


class Result(IntEnum):
    """`enum tacit_result`."""

    PLAYED = 0
    REGION_SMALL = 1
    REGION_ALIGNED = 2
    REGION_SHARED = 3
    PAUSED = 4
    LOSS_NOT_FINITE = 5
    DELTA_NOT_FINITE = 6
    TAPES_WRONG = 7
    PLACES_WRONG = 8
    FIELDS_WRONG = 9
    ORDER_WRONG = 10
    WEIGHTS_WRONG = 11
    MICROBATCH_PARTIAL = 12


class PlaceOf(ctypes.Structure):
    """`struct tacit_place`."""

    _fields_ = (
        ("offset", ctypes.c_uint64),
        ("groups", ctypes.c_uint32),
        ("outputs", ctypes.c_uint32),
        ("channels", ctypes.c_uint32),
        ("pixels", ctypes.c_uint32),
    )


class FieldOf(ctypes.Structure):
    """`struct tacit_field`."""

    _fields_ = (
        ("offset", ctypes.c_uint64),
        ("row", ctypes.c_uint64),
        ("channels", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
    )


class RowsOf(ctypes.Structure):
    """`struct tacit_rows`."""

    _fields_ = (("bytes", ctypes.c_void_p), ("size", ctypes.c_size_t))


class Progress(ctypes.Structure):
    """`struct tacit_progress`."""

    microbatches: int
    steps: int
    loss: float
    _fields_ = (
        ("microbatches", ctypes.c_uint64),
        ("steps", ctypes.c_uint64),
        ("taken", ctypes.c_uint64),
        ("within", ctypes.c_uint64),
        ("divisor", ctypes.c_float),
        ("loss", ctypes.c_float),
    )


class VisitOf(ctypes.Structure):
    """`struct tacit_visit`."""

    prefix: int | None
    memory: "ctypes.Array[ctypes.c_void_p]"
    size: "ctypes.Array[ctypes.c_size_t]"
    most: int
    _fields_ = (
        ("prefix", ctypes.c_void_p),
        ("train", ctypes.c_void_p),
        ("apply", ctypes.c_void_p),
        ("memory", Pointers),
        ("size", Sizes),
        ("places", ctypes.c_void_p),
        ("place_count", ctypes.c_size_t),
        ("snapshot", ctypes.c_void_p),
        ("delta", ctypes.c_void_p),
        ("values", ctypes.c_size_t),
        ("examples", ctypes.c_size_t),
        ("fields", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("field_count", ctypes.c_size_t),
        ("label", FieldOf),
        ("labels", RowsOf),
        ("weights", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        ("order_count", ctypes.c_size_t),
        ("minibatches", ctypes.c_void_p),
        ("rates", ctypes.c_void_p),
        ("step_count", ctypes.c_size_t),
        ("seed", ctypes.c_uint64),
        ("microbatch", ctypes.c_uint32),
        ("kept", ctypes.c_uint32),
        ("whole", ctypes.c_uint32),
        ("most", ctypes.c_uint32),
        ("after", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
    )


@dataclass(frozen=True, eq=False)
class Work:
    """What a visit trains on: rows for each field, or for what the prefix left, and a rate for every minibatch.

    The first micro-batch draws its masks from `seed`, the next one from `seed + 1`, and so on.
    """

    rows: Sequence[NDArray[Any]]
    labels: NDArray[Any]
    weights: NDArray[np.float32]
    order: NDArray[np.integer]  # of the examples, minibatch after minibatch
    sizes: Sequence[int]  # of the minibatches
    rates: Sequence[float]
    seed: int


class Visiting:
    """A visit under way. Made by `Player.visit`; it holds private values."""

    def __init__(self, engine: ctypes.CDLL, visit: VisitOf, delta: NDArray[np.float32], alive: Sequence[object]):
        self._engine, self._visit, self._delta = engine, visit, delta
        self._alive = alive  # what the struct's pointers point into
        self._progress = Progress()
        self._over = False
        self._arguments = ctypes.byref(visit), ctypes.byref(self._progress)

    def play(self, most: int = 0) -> bool:
        """Plays on for at most so many micro-batches, or to the end, and says whether this was it.

        Python's lock is free meanwhile. Raises NotFinite where training diverged; what was trained is lost then.
        """
        self._visit.most = most
        result = self._engine.tacit_visit(*self._arguments)
        match result:
            case Result.PLAYED:
                self._over = True
            case Result.PAUSED:
                pass
            case Result.LOSS_NOT_FINITE:
                raise NotFinite
            case Result.DELTA_NOT_FINITE:
                raise NotFinite("a trained value became infinite or NaN")
            case Result.WEIGHTS_WRONG | Result.MICROBATCH_PARTIAL | Result.ORDER_WRONG:
                raise WrongExamples(self._engine.tacit_result_sentence(result).decode())
            case _:
                raise ValueError(self._engine.tacit_result_sentence(result).decode())
        return self._over

    @property
    def over(self) -> bool:
        """Whether all was played."""
        return self._over

    @property
    def microbatches(self) -> int:
        """How many micro-batches were played so far."""
        return self._progress.microbatches

    @property
    def steps(self) -> int:
        """How many steps the optimizer has made so far."""
        return self._progress.steps

    @property
    def loss(self) -> float:
        """The loss of the minibatch so far; right after a step, of the minibatch that led to it."""
        return self._progress.loss

    @property
    def delta(self) -> NDArray[np.float32]:
        """What the whole visit changed, in the Plan's order."""
        if not self._over:
            raise ValueError("there is no delta before a visit is over")
        return self._delta


class Stage:
    """Tapes on memory, ready for visits: what is the same for every visit is worked out once."""

    def __init__(
        self,
        program: Program,
        tapes: Mapping[Kind, VerifiedTape],
        memory: Mapping[Region, NDArray[np.uint8]],
        kept: bool,
    ):
        tensors = [(place.offset, *panels_of(place)) for place in program.places if place.place == "state"]
        given = [FieldOf(tensor.offset, tensor.example_bytes) for tensor in program.kept]
        fields = given if kept else [_field_of(field) for field in program.inputs]
        tables = (PlaceOf * len(tensors))(*tensors), (FieldOf * len(fields))(*fields)
        visit = VisitOf(
            train=tapes[Kind.TRAIN].handle,
            apply=tapes[Kind.APPLY].handle,
            places=ctypes.addressof(tables[0]),
            place_count=len(tensors),
            values=program.d,
            fields=ctypes.addressof(tables[1]),
            field_count=len(fields),
            label=_field_of(program.label),
            microbatch=program.microbatch,
            kept=kept,
            whole=program.whole,
        )
        if Kind.PREFIX in tapes and not kept:
            visit.prefix = tapes[Kind.PREFIX].handle
        for region, block in memory.items():
            visit.memory[region], visit.size[region] = block.ctypes.data, block.nbytes
        self._visit, self._program, self._engine = visit, program, tapes[Kind.TRAIN].engine
        self._alive = [*tables, *memory.values(), *tapes.values()]

    def begin(self, snapshot: NDArray[np.float32], work: Work) -> Visiting:
        """A visit of which nothing is played yet. What does not fit is said by `play`."""
        start = np.ascontiguousarray(snapshot, np.float32)
        delta = np.zeros(self._program.d, np.float32)
        labels = np.ascontiguousarray(work.labels, self._program.label.dtype)
        weights = np.ascontiguousarray(work.weights, np.float32)
        order = np.ascontiguousarray(work.order, np.uint32)
        minibatches, rates = np.array(work.sizes, np.uint32), np.array(work.rates, np.float32)
        rows = (RowsOf * len(work.rows))(*map(_rows_of, work.rows))
        visit = VisitOf.from_buffer_copy(self._visit)
        visit.rows = ctypes.addressof(rows)
        visit.snapshot, visit.delta = start.ctypes.data, delta.ctypes.data
        visit.examples, visit.labels, visit.weights = len(labels), _rows_of(labels), weights.ctypes.data
        visit.order, visit.order_count = order.ctypes.data, len(order)
        visit.minibatches, visit.rates, visit.step_count = minibatches.ctypes.data, rates.ctypes.data, len(minibatches)
        visit.seed = work.seed & (1 << 64) - 1
        arrays = start, delta, labels, weights, order, minibatches, rates, rows, *work.rows
        return Visiting(self._engine, visit, delta, [*arrays, self])


def _field_of(field: Field) -> FieldOf:
    return FieldOf(field.offset, example_bytes(field), field.shape[0] if field.channels_last else 1)


def _rows_of(rows: NDArray[Any]) -> RowsOf:
    return RowsOf(rows.ctypes.data, rows.nbytes)
