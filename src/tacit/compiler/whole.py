"""The developer's module as it is, before a subset is made part of it."""

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from tacit.compiler.compile import full_training_bytes
from tacit.compiler.errors import NotLowered, NotTraceable
from tacit.compiler.trace import Inputs, Model, Traced, in_training, model_of, rehearse, trace_step
from tacit.plan.program import Optimizer
from tacit.task import Loss


@dataclass(frozen=True, eq=False)
class Whole:
    """The developer's module as it is; traced when somebody asks, and once."""

    module: nn.Module
    inputs: Inputs
    classes: int
    label: str
    loss: Loss
    dropout: bool = False  # as `in_training` means them
    batch_statistics: bool = False

    @cached_property
    def step(self) -> tuple[Model, Traced]:
        """In eval form."""
        model = rehearse(model_of(self.module, self.inputs, self.classes, self.label, self.loss))
        return model, trace_step(model)

    @cached_property
    def trained(self) -> tuple[Model, Traced]:
        """As local training sees it."""
        model = in_training(self.step[0], self.dropout, self.batch_statistics)
        return self.step if model is self.step[0] else (model, trace_step(model))

    def training_bytes(self, optimizer: Optimizer) -> int:
        """What training all of it would take; 0 where what a projected head cuts off cannot be compiled."""
        try:
            return full_training_bytes(*self.step, optimizer)
        except (NotLowered, NotTraceable):
            return 0
