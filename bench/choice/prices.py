"""What training a subset takes in memory, at micro-batch 1: exactly, as the compiler lays it out, and each asked once.

The figures depend on the model alone and not on its weights, so all starts of a data set share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from choice.data import CLASSES
from torch import nn

from tacit.compiler.choose import costs, parameters_of, used_layers
from tacit.compiler.parts import rewritten
from tacit.compiler.projected import sketched
from tacit.compiler.trace import Model, Traced, model_of, rehearse, trace_step, zeros
from tacit.plan.program import Optimizer
from tacit.task import LowRank, Projected, Slices

Part = str | Slices | LowRank | Projected
Subset = tuple[Part, ...]
SGD = Optimizer(0.05)
MICROBATCH = 1  # the least memory; a larger one changes neither what is learnt nor, much, the time for an example


@dataclass(eq=False)
class Prices:
    """Of subsets of one module."""

    module: nn.Module
    shape: tuple[int, ...]
    known: dict[Subset, int] = field(default_factory=dict[Subset, int])

    def __post_init__(self) -> None:
        self.model = self._model(self.module)
        self.traced: Traced = trace_step(self.model)
        self.layers = used_layers(self.model, self.traced)

    def _model(self, module: nn.Module) -> Model:
        return rehearse(model_of(module, {"x": (self.shape, "float32")}, CLASSES))

    def of(self, subset: Subset) -> int:
        """training_bytes."""
        if subset not in self.known:
            self.known[subset] = self._planned(subset)
        return self.known[subset]

    def _planned(self, subset: Subset) -> int:
        if all(isinstance(part, str) for part in subset):
            names = parameters_of(self.module, [part for part in subset if isinstance(part, str)])
            return costs(self.model, self.traced, names, MICROBATCH, SGD)[0]
        if isinstance(subset[0], Projected):
            module: nn.Module = sketched(self.module, subset[0], zeros(self.model, 3))
            names = parameters_of(module, ["head"])
        else:
            module, wanted = rewritten(self.module, [part for part in subset if not isinstance(part, Projected)])
            names = parameters_of(module, wanted)
        model = self._model(module)
        return costs(model, trace_step(model, names), names, MICROBATCH, SGD)[0]

    def best(self, subsets: Sequence[Subset], memory: int) -> Subset | None:
        """The first of them that fits. The last is the smallest: where it does not fit, none is looked at."""
        if not subsets or self.of(subsets[-1]) > memory:
            return None
        return next(subset for subset in subsets if self.of(subset) <= memory)
