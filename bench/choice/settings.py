"""A data set and a start, with the Task as a developer would write it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from choice.backbone import weights
from choice.data import CLASSES, Data, Parts
from torch import Tensor, nn

import tacit

MINIBATCH = 16


@dataclass(frozen=True, eq=False)
class Setting:
    """`task` names no subset and no memory."""

    data: Data
    start: str
    parts: Parts
    weights: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        return f"{self.data.name}, {self.start}"

    def module(self) -> nn.Module:
        module = self.data.make()
        module.load_state_dict(self.weights)
        return module.eval()

    @property
    def task(self) -> tacit.Task:
        """Noise and upload do not decide: what is asked is which subset learns most in a memory."""
        proxies = self.parts.proxies
        return tacit.Task(
            name=self.data.name,
            model=self.module,
            example={"x": tacit.array(proxies.x.shape[1:]), "y": tacit.label(CLASSES)},
            local=tacit.Local(minibatch=MINIBATCH, microbatch=1, optimizer=tacit.sgd(0.05)),
            budget=tacit.Budget(upload="64 MiB", storage="1 GiB"),
            privacy=tacit.Privacy(noise=0.01, batch=100, threshold=10),
            public=lambda: {"x": proxies.x, "y": proxies.y},
        )


def setting(data: Data, start: str, parts: Parts, say: Callable[[str], None]) -> Setting:
    """With its backbone."""
    return Setting(data, start, parts, weights(data, start, parts.public, say))
