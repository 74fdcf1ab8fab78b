"""What is compared: one factor at a time around a centre, and who plays in each setting.

The centre is 100 devices of 60 images each, 90 % of them stragglers that compute 5 to 20 times slower (uniformly
drawn, and assumed: how slow the paper's are was not to be found), labels dealt by a Dirichlet distribution with 0.5,
ResNet-8 with GroupNorm on CIFAR-10, from a backbone that public images of every other class have trained: what it
starts from knows nothing of half of what is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from published.backbones import HALF, PUBLIC, SCRATCH, STARTS
from published.recipe import MODELS

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Setting:
    """`visits` are the most that a strategy may make; nobody's curve still rises by then, or the table says so."""

    model: str
    start: str
    devices: int
    stragglers: str  # as `--stragglers` takes them
    split: str
    visits: int

    @property
    def data(self) -> str:
        return MODELS[self.model].data

    @property
    def slug(self) -> str:
        """The name of its folder.

        >>> CENTRE.slug
        'resnet-8-half-100-0.9-dirichlet-0.5'
        """
        words = (self.model.lower(), self.start, self.devices, self.stragglers, self.split)
        return "-".join(str(word).replace(" ", "-").replace(":", "-") for word in words)

    @property
    def title(self) -> str:
        slow = f"{float(self.stragglers):.0%} stragglers" if float(self.stragglers) else "no stragglers"
        return f"{self.data}, {self.model} {STARTS[self.start]}, {self.devices} devices, {slow}, {self.split}"


CENTRE = Setting("ResNet-8", HALF, 100, "0.9", "dirichlet:0.5", visits=1_000)
SMALL = Setting("small CNN", HALF, 500, "0.9", "dirichlet:0.5", visits=3_000)


def settings() -> Iterator[Setting]:
    """All of them, those first that the others are compared with."""
    yield SMALL
    yield CENTRE
    yield from around(SMALL)
    yield replace(CENTRE, start=PUBLIC)
    yield from around(CENTRE)
    yield replace(SMALL, start=PUBLIC)
    yield replace(SMALL, start=SCRATCH)
    yield replace(CENTRE, start=SCRATCH)
    yield replace(CENTRE, model="MobileNetV2")


def around(centre: Setting) -> Iterator[Setting]:
    """One factor changed.

    >>> len(list(around(CENTRE)))
    4
    """
    yield replace(centre, stragglers="0")
    yield replace(centre, stragglers="0.5")
    yield replace(centre, split="iid")
    yield replace(centre, split="dirichlet:0.1")
