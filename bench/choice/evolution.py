"""Subsets of layers times shares of their input features: drawn at random, and searched for as FTTE and TinyTrain do.

What is searched follows FTTE, MCUNetV3 and TinyTrain as far as they say it: a population of subsets, each layer left
out or trained with a share of its features, the fittest the one with the largest summed contribution within the memory.
Assumed, where they do not say it or differ: a contribution is the squared gradient of a minibatch of proxies
(MCUNetV3 measures accuracy after training each layer alone, TinyTrain the Fisher information of activations); shares
are ranges of neighbouring input features, the best of each width, for that is what the compiler can train apart; what
does not fit loses layers until it does; the search goes by an additive estimate of memory, and what it finds is laid
out exactly before it is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from choice.contribution import Contributions
from choice.prices import Prices, Subset
from numpy.typing import NDArray
from torch import nn

import tacit

SHARES = (0.0, 1 / 8, 1 / 4, 1 / 2, 1.0)
POPULATION, GENERATIONS, TOURNAMENT = 64, 80, 3
# The estimate errs: what it lets through at a larger memory may fit, and what it lets through at the memory may not.
SLACKS = (1.2, 1.0, 0.8, 0.6)

Genome = NDArray[np.int64]  # an index of SHARES for each layer


@dataclass(frozen=True, eq=False)
class Genes:
    """Each layer's shares, with contribution and memory. What cannot be sliced is trained whole or not at all."""

    prices: Prices
    contributions: Contributions

    @cached_property
    def layers(self) -> list[str]:
        return list(self.prices.layers)

    @cached_property
    def inputs(self) -> list[int]:
        """Input features of layers that can be sliced, else 0."""
        modules = [self.prices.module.get_submodule(path) for path in self.layers]
        return [
            module.weight.shape[1] if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.shape[1] >= 8 else 0
            for module in modules
        ]

    @cached_property
    def contribution(self) -> NDArray[np.float64]:
        """[layers, shares]; -1 where there is no such part."""
        found = np.full((len(self.layers), len(SHARES)), -1.0)
        found[:, 0] = 0
        for row, (path, inputs) in enumerate(zip(self.layers, self.inputs, strict=True)):
            found[row, -1] = sum(self.contributions.of[name].sum() for name in self.prices.layers[path])
            for column, share in enumerate(SHARES[1:-1], 1):
                if inputs:
                    chosen = self.contributions.best_range(path, int(share * inputs))
                    found[row, column] = self.contributions.of[f"{path}.weight"][chosen.start : chosen.stop].sum()
        return found

    @cached_property
    def first(self) -> NDArray[np.float64]:
        """What training takes where a layer is the first that is trained, and next to nothing of it."""
        found: list[int] = []
        for path, inputs in zip(self.layers, self.inputs, strict=True):
            least: Subset = (tacit.slices(path, inputs=range(1)),) if inputs else tuple(self.prices.layers[path][-1:])
            found.append(self.prices.of(least))
        return np.array(found, np.float64)

    @cached_property
    def more(self) -> NDArray[np.float64]:
        """[layers, shares]: what a part adds: its gradient, its value (or it stays as frozen), and its input."""
        sizes = self._input_sizes()
        whole = [
            8 * sum(self.prices.model.parameters[name].numel() for name in self.prices.layers[path]) + 4 * sizes[path]
            for path in self.layers
        ]
        return np.outer(whole, SHARES)

    def _input_sizes(self) -> dict[str, int]:
        found: dict[str, int] = {}

        def noted(path: str) -> torch.utils.hooks.RemovableHandle:
            def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
                found[path] = inputs[0][0].numel()

            return self.prices.module.get_submodule(path).register_forward_hook(hook)

        hooks = [noted(path) for path in self.layers]
        with torch.no_grad():
            self.prices.module(torch.zeros(1, *self.prices.shape))
        for hook in hooks:
            hook.remove()
        return found

    def memory(self, genomes: Genome) -> NDArray[np.float64]:
        """An estimate for each row of `genomes`; 0 for one that trains nothing."""
        trained = genomes > 0
        first = np.where(trained.any(1), self.first[trained.argmax(1)], 0)
        return first + self.more[np.arange(len(self.layers)), genomes].sum(1)

    def summed(self, genomes: Genome) -> NDArray[np.float64]:
        return self.contribution[np.arange(len(self.layers)), genomes].sum(1)

    def subset(self, genome: Genome, draw: np.random.Generator | None = None) -> Subset:
        """The parts; ranges that contribute most, or drawn ones."""
        found: list[str | tacit.Slices] = []
        for path, inputs, index in zip(self.layers, self.inputs, genome, strict=True):
            if SHARES[index] == 1:
                found += self.prices.layers[path]
            elif index:
                width = int(SHARES[index] * inputs)
                start = int(draw.integers(inputs - width + 1)) if draw is not None else None
                chosen = self.contributions.best_range(path, width) if start is None else range(start, start + width)
                found.append(tacit.slices(path, inputs=chosen))
        return tuple(found)


def evolved(genes: Genes, memory: int) -> Subset | None:
    """The fittest that fits, of a search for each slack of the estimate."""
    found: dict[Subset, float] = {}
    for slack in SLACKS:
        genome = fittest(genes.contribution, genes, memory * slack)
        subset = genes.subset(genome)
        if subset and genes.prices.of(subset) <= memory:
            found[subset] = float(genes.summed(genome[None])[0])
    return max(found, key=lambda subset: found[subset], default=None)


def fittest(contribution: NDArray[np.float64], genes: Genes, memory: float, seed: int = 0) -> Genome:
    """The best genome of the last generation, by summed contribution within the memory."""
    draw = np.random.default_rng(seed)
    layers, shares = contribution.shape
    there = contribution >= 0

    def repaired(genomes: Genome) -> Genome:
        """Parts that do not exist are left out, then whole layers at random until the rest fits."""
        genomes = np.where(there[np.arange(layers), genomes], genomes, 0)
        for layer in draw.permuted(np.tile(np.arange(layers), (len(genomes), 1)), axis=1).T:
            over = genes.memory(genomes) > memory
            genomes[over, layer[over]] = 0
        return genomes

    population = repaired(draw.integers(0, shares, (POPULATION, layers)))
    for _ in range(GENERATIONS):
        fitness = genes.summed(population)
        best = population[fitness.argmax()]
        rivals = draw.integers(0, POPULATION, (2, POPULATION, TOURNAMENT))
        winners = np.take_along_axis(rivals, fitness[rivals].argmax(2)[..., None], 2)[..., 0]
        mother, father = population[winners[0]], population[winners[1]]
        children = np.where(draw.random((POPULATION, layers)) < 0.5, mother, father)
        changed = draw.random((POPULATION, layers)) < 1.5 / layers
        children = np.where(changed, draw.integers(0, shares, (POPULATION, layers)), children)
        population = repaired(children)
        population[0] = best
    return population[genes.summed(population).argmax()]


def random_subset(genes: Genes, memory: int, seed: int) -> Subset | None:
    """Layers in random order with random shares of them, at random places, each taken if it still fits."""
    draw = np.random.default_rng(seed)
    for slack in SLACKS:
        genome = np.zeros(len(genes.layers), np.int64)
        for layer in draw.permutation(len(genes.layers)):
            possible = np.flatnonzero(genes.contribution[layer] >= 0)[1:]
            larger = genome.copy()
            larger[layer] = draw.choice(possible)
            if genes.memory(larger[None])[0] <= memory * slack:
                genome = larger
        subset = genes.subset(genome, draw)
        if subset and genes.prices.of(subset) <= memory:
            return subset
    return None
