"""What the engine plays: the tapes of one model, the layout of its tensors, and what they cost.

A `Program` is plain data and part of a Plan's manifest; `Playable` adds the bytes. The compiler makes
them, the engine plays them, and neither knows of signatures, keyholders or privacy.
"""

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


class KeptTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One result of the prefix: a block [microbatch, example_bytes] at `offset` in KEPT."""

    name: str
    offset: Count
    example_bytes: Count


class Cut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a projected head cuts the model, and the pairs of directions that make its features.

    The k-th direction of the channels goes with the first `widths[k]` directions of the positions. The developer's
    tools read it to build the module again; a device has no use for it.
    """

    layer: str
    widths: tuple[Count, ...]


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes, known before anything runs. `training_bytes` is what budgets are compared with."""

    arena: Count  # of the train tape (the largest of train and apply)
    arena_prefix: Count
    arena_bound: Count  # the least the chosen order could take
    state: Count  # subset + gradient + optimizer memory
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
    """SGD with momentum; the rate of a visit from Snapshot v is `rate * decay ** v`."""

    rate: Annotated[float, Meta(gt=0, le=1e6)]
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    decay: Annotated[float, Meta(gt=0, le=1)] = 1.0


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


@dataclass(frozen=True, eq=False)
class Playable:
    """A program with its bytes. `frozen` may be a memory map; nobody writes to it."""

    program: Program
    tapes: Mapping[Kind, bytes]  # PREFIX is absent where nothing is kept
    frozen: NDArray[np.uint8]
    initial: NDArray[np.float32]  # Snapshot 0, in the flat order
