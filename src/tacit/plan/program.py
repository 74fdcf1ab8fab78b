"""What the engine plays: the tapes of one model, the layout of its tensors, and what they cost.

A `Program` is plain data and part of a Plan's manifest; `Playable` adds the bytes. The compiler makes
them, the engine plays them, and neither knows of signatures, keyholders or privacy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tacit.plan.layout import Count, TensorPlace
from tacit.plan.tape import Kind


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or label of an example, and where a micro-batch of it stands in X or Y.

    `shape` is what the developer wrote, without the batch. With `channels_last` an image (C, H, W) stands
    in the region as [N, H, W, C].
    """

    name: str
    shape: tuple[Count, ...]
    dtype: str  # "float32" or "int32"
    offset: Count
    channels_last: bool = False
    classes: Count | None = None  # labels: valid values are 0..classes-1
    ignored: Annotated[int, Meta(ge=-(2**31), lt=2**31)] | None = None  # and this one, which does not count
    probability: bool = False  # targets: valid values are 0 to 1


def example_bytes(field: Field) -> int:
    """What one example of a field takes.

    >>> example_bytes(Field("image", (3, 8, 8), "float32", 0))
    768
    """
    return math.prod(field.shape) * np.dtype(field.dtype).itemsize


class KeptTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One result of the prefix: a block [microbatch, example_bytes] at `offset` in KEPT."""

    name: str
    offset: Count
    example_bytes: Count


class Cut(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a projected head cuts the model, and the pairs of directions that make its features.

    The k-th direction of the channels goes with the first `widths[k]` directions of the positions. `added`: what the
    head says is added to what the model answers. The developer's tools read it to build the module again; a device has
    no use for it.
    """

    layer: str
    widths: tuple[Count, ...]
    added: bool = False


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes, known before anything runs. `training_bytes` is what budgets are compared with."""

    arena: Count  # of the train tape (the largest of train and apply)
    arena_prefix: Count
    arena_bound: Count  # the least the chosen order could take
    state: Count  # subset + gradient + optimizer memory + where a proximal visit began
    io: Count  # inputs, labels, weights, kept, loss for one micro-batch
    frozen_touched: Count  # frozen bytes the train tape reads
    frozen: Count  # all frozen bytes delivered
    kept_per_example: Count
    peak: str  # the module that makes the arena's peak
    operations: Count  # of one train micro-batch
    full_training_bytes: Count  # the whole model trained at batch 32 by the same compiler, for comparison
    model_parameters: Count = 0  # values in the whole model, for comparison

    @property
    def training_bytes(self) -> int:
        return self.arena + self.state + self.io + self.frozen_touched


class Optimizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a step does with a gradient g, where m is the moment, 0 at a visit's start; the rate is `rate_at`'s.

    g += proximal * (w - the visit's start); m = momentum * m + g; d = g + momentum * m with `nesterov`, else m;
    w -= rate * d, or rate * the sign of d by the method "sign".
    """

    rate: Annotated[float, Meta(gt=0, le=1e6)]
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    decay: Annotated[float, Meta(gt=0, le=1)] = 1.0
    method: Literal["sgd", "sign"] = "sgd"
    nesterov: bool = False
    proximal: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    schedule: Literal["exponential", "cosine", "inverse"] = "exponential"
    over: Annotated[int, Meta(ge=1, le=1 << 48)] = 1  # Snapshots; what the schedule makes of them: `rate_at`
    floor: Annotated[float, Meta(ge=0, le=1e6)] = 0.0


def rate_at(optimizer: Optimizer, version: int) -> float:
    """The learning rate of a visit from Snapshot `version`.

    `exponential`: rate * decay ** version. `cosine`: half a cosine from rate to floor over `over` Snapshots, then
    floor. `inverse`: rate / (1 + version / over).

    >>> cosine = Optimizer(0.5, schedule="cosine", over=100, floor=0.25)
    >>> [rate_at(cosine, version) for version in (0, 50, 100, 1000)]
    [0.5, 0.375, 0.25, 0.25]
    >>> rate_at(Optimizer(0.5, schedule="inverse", over=10), 30), rate_at(Optimizer(0.5, decay=0.5), 2)
    (0.125, 0.125)
    """
    rate, over = optimizer.rate, optimizer.over
    match optimizer.schedule:
        case "exponential":
            return rate * optimizer.decay**version
        case "cosine":
            share = (1 + math.cos(math.pi * min(version, over) / over)) / 2
            return optimizer.floor + (rate - optimizer.floor) * share
        case "inverse":
            return rate / (1 + version / over)


class Stretch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A group of gradients: of a whole parameter, or of its input features (dimension 1) from `start` to `stop`.

    >>> str(Stretch("fc.weight", 0, 16)), str(Stretch("fc.bias"))
    ('fc.weight[0:16]', 'fc.bias')
    """

    parameter: str
    start: Count | None = None
    stop: Count | None = None

    def __str__(self) -> str:
        return self.parameter if self.start is None else f"{self.parameter}[{self.start}:{self.stop}]"


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tapes' data: everything but the bytes."""

    runtime: str  # "tape/1"
    microbatch: Count
    d: Count
    places: tuple[TensorPlace, ...]
    inputs: tuple[Field, ...]
    label: Field
    kept: tuple[KeptTensor, ...]
    output_shape: tuple[Count, ...]  # of predict, per example
    optimizer: Optimizer
    resources: Resources
    # Where the bias of the layer that makes the logits starts in a Snapshot; set where training is balanced.
    logit_bias: Count | None = None
    cut: Cut | None = None  # set where the subset is a projected head
    weight: str | None = None  # the name of what says how much an example counts
    score: Literal["accuracy", "loss"] = "accuracy"  # what tells people how good a Snapshot is
    # Examples of a micro-batch meet in the statistics of its norms: it is trained full or not at all.
    whole: bool = False
    # Set where nothing is trained: value i of a visit's delta is the sum, over its minibatches, of the squared length
    # of the loss's gradient with respect to the i-th of these (docs/explanation/scouting.md).
    scouted: tuple[Stretch, ...] = ()


def has_confidence(program: Program) -> bool:
    """Whether the model chooses one class for an example, so that its softmax says how sure it is."""
    label = program.label
    return label.classes is not None and label.shape == () and program.output_shape == (label.classes,)


@dataclass(frozen=True, eq=False)
class Playable:
    """A program with its bytes. `frozen` may be a memory map; nobody writes to it."""

    program: Program
    tapes: Mapping[Kind, bytes]  # PREFIX is absent where nothing is kept
    frozen: NDArray[np.uint8]
    initial: NDArray[np.float32]  # Snapshot 0, in the flat order
