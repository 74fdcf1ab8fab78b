"""Handwritten digits for a dozen devices: scikit-learn's 1,797 images of 8 x 8, so nothing is downloaded.

150 images of the digits 0 to 4 play the public data that a developer has. 360 images test. The rest are
private: dealt to the devices unevenly, in number and in which digits each of them has seen.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

PUBLIC, TEST = 150, 360


@dataclass(frozen=True, eq=False)
class Images:
    x: NDArray[np.float32]  # [n, 1, 8, 8], 0 to 1
    y: NDArray[np.int32]

    def __getitem__(self, which: NDArray[np.int64]) -> "Images":
        return Images(self.x[which], self.y[which])

    def save(self, path: Path) -> Path:
        np.savez(path, x=self.x, y=self.y)
        return path


@dataclass(frozen=True, eq=False)
class Split:
    public: Images
    test: Images
    devices: tuple[Images, ...]


def split(devices: int = 12, skew: float = 0.7, seed: int = 3) -> Split:
    """Deal the images; the same seed deals the same way. A smaller `skew` is a more uneven deal."""
    pixels, digits = load_digits(return_X_y=True)
    shuffled = np.random.default_rng(0).permutation(len(digits))
    images = Images((pixels[shuffled] / 16).astype(np.float32).reshape(-1, 1, 8, 8), digits[shuffled].astype(np.int32))
    rest = np.arange(TEST, len(digits))
    public = rest[images.y[rest] < 5][:PUBLIC]
    private = np.setdiff1d(rest, public)
    draw = np.random.default_rng(seed)
    size = draw.uniform(0.4, 1.6, devices)
    hands: list[list[np.int64]] = [[] for _ in range(devices)]
    for digit in range(10):
        ones = draw.permutation(private[images.y[private] == digit])
        share = draw.dirichlet(np.full(devices, skew)) * size
        cuts = (np.cumsum(share / share.sum())[:-1] * len(ones)).astype(int)
        for hand, part in zip(hands, np.split(ones, cuts), strict=True):
            hand.extend(part)
    return Split(
        images[public], images[np.arange(TEST)], tuple(images[np.array(sorted(hand), np.int64)] for hand in hands)
    )
