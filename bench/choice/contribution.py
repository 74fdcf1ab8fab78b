"""What each part of a model contributes: the squared gradient of a minibatch of proxies, where training starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from choice.settings import MINIBATCH, Setting
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Contributions:
    """By parameter; of a weight of two dimensions or more, by its input features."""

    of: Mapping[str, NDArray[np.float64]]

    def best_range(self, layer: str, width: int) -> range:
        """Neighbouring input features that contribute most together."""
        return best_range(self.of[f"{layer}.weight"], width)


def best_range(values: NDArray[np.float64], width: int) -> range:
    """Where so many neighbours sum to most.

    >>> best_range(np.array([1.0, 0.0, 3.0, 2.0, 1.0]), 2)
    range(2, 4)
    """
    sums = np.convolve(values, np.ones(width), "valid")
    start = int(sums.argmax())
    return range(start, start + width)


def contributions(setting: Setting) -> Contributions:
    """The mean over the minibatches of one pass."""
    module, proxies = setting.module(), setting.parts.proxies
    x, y = torch.from_numpy(proxies.x), torch.from_numpy(proxies.y).long()
    found = {name: np.zeros(_inputs(parameter)) for name, parameter in module.named_parameters()}
    passes = len(y) // MINIBATCH
    for start in range(0, passes * MINIBATCH, MINIBATCH):
        module.zero_grad()
        F.cross_entropy(module(x[start : start + MINIBATCH]), y[start : start + MINIBATCH]).backward()
        for name, parameter in module.named_parameters():
            squared = parameter.grad.double().square()
            across = [i for i in range(squared.dim()) if i != 1] if squared.dim() > 1 else [0]
            found[name] += squared.sum(across).numpy() / passes
    return Contributions(found)


def _inputs(parameter: torch.Tensor) -> int:
    return parameter.shape[1] if parameter.dim() > 1 else 1
