"""Who takes part: for a setting and a memory the subset that each way of choosing would train, or nothing that fits.

The planner's choice is asked for in `planned`. The others are rules of thumb, each as large as fits; what else they
need they take from the proxies, as the planner may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from choice.contribution import Contributions
from choice.data import CLASSES
from choice.evolution import Genes, evolved, random_subset
from choice.prices import Prices, Subset
from choice.settings import Setting
from torch import nn

import tacit
from tacit.compiler.assemble import build_module, plan_optimizer
from tacit.compiler.errors import NothingFits, WrongSubset
from tacit.compiler.planner.choice import Asked, choose
from tacit.compiler.projected import project, reached
from tacit.compiler.public import public_examples
from tacit.compiler.whole import Whole
from tacit.task import TaskInvalid

SHARES = (2, 4, 8, 16)  # input slices are one in so many of a layer's input features
RANKS = (4, 1)
FEATURES = (512, 256, 128, 64, 32)  # of a projected head
DESCENT = 60  # steps that fit a head to half of the proxies; the other half judges it


def planned(task: tacit.Task, memory: int, say: Callable[[str], None] = lambda line: None) -> Subset:
    """What the planner would train within so many bytes; it may look at the proxies as everybody may."""
    task = replace(task, budget=replace(task.budget, memory=memory), precision=tacit.Precision())
    module = build_module(task)
    whole = Whole(module, task.inputs, CLASSES, task.label[0], task.loss_named)
    # Neither noise nor the size of an Update decides here.
    asked = Asked(lambda values: 0, lambda values: 0.0, sum(parameter.numel() for parameter in module.parameters()))
    optimizer = plan_optimizer(task.local)
    found = choose(task, whole, public_examples(task) or {}, asked, (), optimizer, None, say)
    return tuple(found.chosen.fitted.candidate.subset)


@dataclass(frozen=True, eq=False)
class Contest:
    """All that choosing needs to know of a setting."""

    setting: Setting
    prices: Prices
    contributions: Contributions
    judged: dict[tuple[str, int], float] = field(default_factory=dict[tuple[str, int], float])

    @cached_property
    def genes(self) -> Genes:
        return Genes(self.prices, self.contributions)

    def layers(self) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
        """Convolutions and dense layers before the head, the first one first."""
        *paths, _ = self.prices.layers
        for path in paths:
            layer = self.prices.module.get_submodule(path)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                yield path, layer

    def last_layers(self, memory: int) -> Subset | None:
        """The longest run of last layers, weights and biases."""
        return self.prices.best(self._runs(lambda name: True), memory)

    def head(self, memory: int) -> Subset | None:
        return self.prices.best([self._head], memory)

    def biases_and_norms(self, memory: int) -> Subset | None:
        """Of as many last layers as fit."""
        one = {name for name, tensor in self.prices.model.parameters.items() if tensor.dim() == 1}
        return self.prices.best(self._runs(one.__contains__), memory)

    def low_rank(self, memory: int) -> Subset | None:
        """Rank 4 on as many last layers as fit, else rank 1, and the head."""
        paths = [path for path, _ in self.layers()]
        runs = [
            (*(tacit.lowrank(path, rank) for path in paths[start:]), *self._head)
            for rank in RANKS
            for start in range(len(paths))
        ]
        return self.prices.best(runs, memory)

    def input_slices(self, memory: int) -> Subset | None:
        """The range of input features of one layer that contributes most and fits, and the head."""
        found: dict[Subset, float] = {}
        for path, layer in self.layers():
            inputs = layer.weight.shape[1]
            ranges = [self.contributions.best_range(path, inputs // share) for share in SHARES if inputs >= 2 * share]
            subsets = {(tacit.slices(path, inputs=chosen), *self._head): chosen for chosen in ranges}
            if (best := self.prices.best(list(subsets), memory)) is not None:
                chosen = subsets[best]
                found[best] = float(self.contributions.of[f"{path}.weight"][chosen.start : chosen.stop].sum())
        return max(found, key=lambda subset: found[subset], default=None)

    def projected_head(self, memory: int, start: str = "zero") -> Subset | None:
        """As many features as fit, at the cut whose head knows most of the proxies that it was not fitted to."""
        found: dict[Subset, float] = {}
        for cut in self.setting.data.cuts:
            for features in FEATURES:
                try:
                    subset = (tacit.projected(cut, features, start),)
                    if self.prices.of(subset) <= memory:
                        if (cut, features) not in self.judged:
                            self.judged[cut, features] = self._known(cut, features)
                        found[subset] = self.judged[cut, features]
                        break
                except (WrongSubset, TaskInvalid):  # the layer has not as many directions
                    continue
        return max(found, key=lambda subset: found[subset], default=None)

    def everything(self) -> Subset:
        return tuple(self.prices.model.parameters)

    def all(self, memory: int, draws: int) -> dict[str, Callable[[], Subset | None]]:
        """Every contestant by name; the planner comes first."""
        named: dict[str, Callable[[], Subset | None]] = {
            "planner": lambda: self._planned(memory),
            "last layers": lambda: self.last_layers(memory),
            "head": lambda: self.head(memory),
            "biases and norms": lambda: self.biases_and_norms(memory),
            "low-rank": lambda: self.low_rank(memory),
            "input slices": lambda: self.input_slices(memory),
            "projected head": lambda: self.projected_head(memory),
            "projected, public start": lambda: self.projected_head(memory, "public"),
            "evolution": lambda: evolved(self.genes, memory),
        }
        return named | {
            f"random {seed}": partial(random_subset, self.genes, memory, seed) for seed in range(1, draws + 1)
        }

    @property
    def _head(self) -> tuple[str, ...]:
        return tuple(list(self.prices.layers.values())[-1])

    def _planned(self, memory: int) -> Subset | None:
        try:
            return planned(self.setting.task, memory)
        except NothingFits:
            return None

    def _runs(self, wanted: Callable[[str], bool]) -> list[Subset]:
        """The parameters of all layers, of all but the first, and so on, as far as they are wanted."""
        layers = list(self.prices.layers.values())
        runs = [
            tuple(name for layer in layers[start:] for name in layer if wanted(name)) for start in range(len(layers))
        ]
        return [run for run in runs if run]

    def _known(self, cut: str, features: int) -> float:
        """The share of the proxies; directions are of all of them."""
        proxies = self.setting.parts.proxies
        made = project(self.setting.module(), tacit.projected(cut, features), [proxies.x])
        with torch.no_grad():
            x = made.projection(reached(made.body, cut, [torch.from_numpy(proxies.x)]))
        y = torch.from_numpy(proxies.y).long()
        halves, known = [(x[0::2], y[0::2]), (x[1::2], y[1::2])], 0
        for (fitted, labels), (judged, truth) in (halves, halves[::-1]):
            head = nn.Linear(features, CLASSES)
            for tensor in head.parameters():
                nn.init.zeros_(tensor)
            optimizer = torch.optim.SGD(head.parameters(), 1 / made.projection.squared_length(), momentum=0.9)
            for _ in range(DESCENT):
                optimizer.zero_grad()
                F.cross_entropy(head(fitted), labels).backward()
                optimizer.step()
            known += int((head(judged).argmax(1) == truth).sum())
        return known / len(y)
