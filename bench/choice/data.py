"""What is learnt: two data sets split in five, the models, and the backbones they start from.

Of each data set's training images one part is public and pre-trains the backbone, one is the developer's proxies, one
chooses learning rates, and one is what the device has; the test images are the data set's own. No image is in two
parts.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from models import ResNet8
from numpy.typing import NDArray
from torch import nn

CLASSES = 10
PROXIES, HOLDOUT, OWN = 1000, 1000, 4096  # examples; what is left is public


class NoData(Exception):
    """The data sets are not at hand; says what to do."""


@dataclass(frozen=True, eq=False)
class Examples:
    x: NDArray[np.float32]
    y: NDArray[np.int32]

    def __getitem__(self, which: slice | NDArray[np.integer]) -> Examples:
        return Examples(self.x[which], self.y[which])


@dataclass(frozen=True, eq=False)
class Parts:
    public: Examples
    proxies: Examples
    holdout: Examples
    own: Examples
    test: Examples


def strided_cnn() -> nn.Module:
    """106,362 values, of which the dense layer has 82,000: three convolutions with strides instead of pooling."""
    return nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(1, 16, 5, 2, 2),
            relu1=nn.ReLU(),
            second=nn.Conv2d(16, 32, 3, 2, 1),
            relu2=nn.ReLU(),
            third=nn.Conv2d(32, 64, 3, 2, 1),
            relu3=nn.ReLU(),
            flat=nn.Flatten(),
            dense=nn.Linear(64 * 4 * 4, 80),
            relu4=nn.ReLU(),
            head=nn.Linear(80, CLASSES),
        )
    )


@dataclass(frozen=True)
class Data:
    """A data set with its model. `public` and `epochs` are of the backbone's training, `steps` of local training.

    `cuts` are where a projected head may stand.
    """

    name: str
    file: str
    make: Callable[[], nn.Module]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    public: int
    epochs: int
    mirrored: bool
    steps: int
    cuts: tuple[str, ...]

    def parts(self) -> Parts:
        """All images in floats, channels first."""
        train, test = self.images("train"), self.images("test")
        order = np.random.default_rng(0).permutation(len(train.y))
        ends = np.cumsum([PROXIES, HOLDOUT, OWN, self.public])
        if ends[-1] > len(order):
            raise ValueError(f"{self.name} has {len(order)} images, and the parts need {ends[-1]}")
        proxies, holdout, own, public = (train[part] for part in np.split(order, ends)[:4])
        return Parts(public, proxies, holdout, own, test)

    def images(self, split: str) -> Examples:
        """All of a split, in the data set's order."""
        folder = os.environ.get("TACIT_DATA")
        path = Path(folder or "") / self.file
        if folder is None or not path.is_file():
            raise NoData(f"{self.name} is not at hand; set TACIT_DATA to the folder that holds {self.file}")
        with np.load(path) as arrays:
            x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        x = x[..., None] if x.ndim == 3 else x
        x = (x.astype(np.float32) / 255 - np.array(self.mean, np.float32)) / np.array(self.sd, np.float32)
        return Examples(np.ascontiguousarray(x.transpose(0, 3, 1, 2)), y.astype(np.int32))


FASHION = Data(
    "Fashion-MNIST",
    "fashion-mnist/fashion_mnist.npz",
    strided_cnn,
    (0.286,),
    (0.353,),
    public=12_000,
    epochs=8,
    mirrored=False,
    steps=512,
    cuts=("relu1", "relu2", "relu3", "relu4"),
)
CIFAR = Data(
    "CIFAR-10",
    "cifar10-subset/cifar10_subset.npz",
    ResNet8,
    (0.4913, 0.4821, 0.4465),
    (0.2452, 0.2428, 0.2606),
    public=6_000,
    epochs=12,
    mirrored=True,
    steps=2048,  # after 512 full training of ResNet-8 has learnt next to nothing
    cuts=("norm", "block1", "block2", "block3"),
)
