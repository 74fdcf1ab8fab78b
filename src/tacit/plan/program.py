"""What the engine plays: the tapes of one model, the layout of its tensors, and what they cost.

A `Program` is plain data and part of a Plan's manifest; `Playable` adds the bytes. The compiler makes
them, the engine plays them, and neither knows of signatures, keyholders or privacy.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from tacit.plan.layout import TensorPlace
from tacit.plan.tape import Kind


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or label of an example, and where a micro-batch of it stands in X or Y.

    `shape` is what the developer wrote, without the batch. With `channels_last` an image (C, H, W) stands
    in the region as [N, H, W, C].
    """

    name: str
    shape: tuple[int, ...]
    dtype: str  # "float32" or "int32"
    offset: int
    channels_last: bool = False
    classes: int | None = None  # labels: valid values are 0..classes-1


class KeptTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One result of the prefix: a block [microbatch, example_bytes] at `offset` in KEPT."""

    name: str
    offset: int
    example_bytes: int


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes, known before anything runs. `training_bytes` is what budgets are compared with."""

    arena: int  # of the train tape (the largest of train and apply)
    arena_prefix: int
    arena_bound: int  # the least the chosen order could take
    state: int  # subset + gradient + optimizer memory
    io: int  # inputs, labels, weights, kept, loss for one micro-batch
    frozen_touched: int  # frozen bytes the train tape reads
    frozen: int  # all frozen bytes delivered
    kept_per_example: int
    peak: str  # the module that makes the arena's peak
    operations: int  # of one train micro-batch
    full_training_bytes: int  # the whole model trained at batch 32 by the same compiler, for comparison
    model_parameters: int = 0  # values in the whole model, for comparison

    @property
    def training_bytes(self) -> int:
        return self.arena + self.state + self.io + self.frozen_touched


class Optimizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SGD with momentum; the rate of a visit from Snapshot v is `rate * decay ** v`."""

    rate: float
    momentum: float = 0.0
    decay: float = 1.0


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tapes' data: everything but the bytes."""

    runtime: str  # "tape/1"
    microbatch: int
    d: int
    places: tuple[TensorPlace, ...]
    inputs: tuple[Field, ...]
    label: Field
    kept: tuple[KeptTensor, ...]
    output_shape: tuple[int, ...]  # of predict, per example
    optimizer: Optimizer
    resources: Resources
    # Where the bias of the layer that makes the logits starts in a Snapshot; set where training is balanced.
    logit_bias: int | None = None


@dataclass(frozen=True, eq=False)
class Playable:
    """A program with its bytes. `frozen` may be a memory map; nobody writes to it."""

    program: Program
    tapes: Mapping[Kind, bytes]  # PREFIX is absent where nothing is kept
    frozen: NDArray[np.uint8]
    initial: NDArray[np.float32]  # Snapshot 0, in the flat order
