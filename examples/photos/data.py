"""Small coloured photos that are drawn, not downloaded: ten kinds of things, 3 x 32 x 32, from a seed.

A thing stands somewhere, turned and sized by chance, in colours of its own, before a sky, a wall or a meadow with a
texture, under a light from one side; something else may stand in front of it. `studio` photos are what a developer
can show to anybody: bright and upright. `home` photos are what is on devices: evening light, lamps, noise, odd angles,
and every home sees some things far more often than others. The same seed draws the same photos on every machine.

python examples/photos/data.py photos.npz       home photos of no home in particular, for a fleet to be dealt
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Draw = np.random.Generator

CLASSES = ("house", "tree", "car", "boat", "mug", "flower", "fish", "mountain", "balloon", "lamp")
SIZE, FINE = 32, 2  # pixels, and how many times finer a photo is drawn before it is averaged
_LINE = (np.arange(SIZE * FINE, dtype=np.float32) + 0.5) / (SIZE * FINE) * 2 - 1
GRID_U, GRID_V = np.meshgrid(_LINE, _LINE)  # right and down, -1 to 1


@dataclass(frozen=True, eq=False)
class Photos:
    x: NDArray[np.float32]  # [n, 3, 32, 32], 0 to 1
    y: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.y)

    def save(self, path: Path) -> Path:
        np.savez(path, x=self.x, y=self.y)
        return path


@dataclass(frozen=True)
class Manner:
    """How photos are taken: spreads of what chance decides."""

    turn: float  # radians
    shift: float
    size: tuple[float, float]
    light: tuple[float, float]  # brightness
    warmth: float  # how far the light's colour strays from white
    shade: float  # how much darker the far side is
    noise: float
    cover: float  # how often something stands in front


STUDIO = Manner(0.15, 0.15, (0.6, 0.95), (0.85, 1.1), 0.06, 0.15, 0.02, 0.1)
HOME = Manner(0.45, 0.3, (0.45, 1.0), (0.4, 1.05), 0.25, 0.5, 0.05, 0.35)


class Canvas:
    """A photo being painted; `u` and `v` are the thing's own axes, so a shape is drawn upright and comes out turned."""

    def __init__(self, background: Array, u: Array, v: Array):
        self.pixels, self.u, self.v = background, u, v

    def _paint(self, inside: NDArray[np.bool_], colour: Array) -> None:
        self.pixels[inside] = colour

    def disc(self, u: float, v: float, wide: float, high: float, colour: Array) -> None:
        self._paint(((self.u - u) / wide) ** 2 + ((self.v - v) / high) ** 2 < 1, colour)

    def ring(self, u: float, v: float, radius: float, thick: float, colour: Array) -> None:
        away = np.hypot(self.u - u, self.v - v)
        self._paint(np.abs(away - radius) < thick / 2, colour)

    def box(self, u: float, v: float, wide: float, high: float, colour: Array) -> None:
        self._paint((np.abs(self.u - u) < wide / 2) & (np.abs(self.v - v) < high / 2), colour)

    def wedge(self, u: float, top: float, bottom: float, above: float, below: float, colour: Array) -> None:
        """A trapezium around u, `above` wide at its top and `below` wide at its bottom."""
        part = (self.v - top) / (bottom - top)
        wide = above + (below - above) * part
        self._paint((part > 0) & (part < 1) & (np.abs(self.u - u) < wide / 2), colour)


def colour(draw: Draw, red: float, green: float, blue: float, spread: float = 0.12) -> Array:
    """A colour near this one."""
    return np.clip(np.array([red, green, blue]) + draw.normal(0, spread, 3), 0, 1).astype(np.float32)


def any_colour(draw: Draw) -> Array:
    """A colour, dull ones less often."""
    bright = draw.uniform(0, 1, 3)
    return np.clip(bright + (bright - bright.mean()) * 0.7, 0.03, 0.97).astype(np.float32)


def house(c: Canvas, draw: Draw) -> None:
    high = draw.uniform(0.0, 0.25)
    c.box(0, 0.3, 1.2, 1.0 - high, any_colour(draw))
    c.wedge(0, -0.75, -0.15 + high / 2, 0.05, 1.6, colour(draw, 0.55, 0.2, 0.15))
    glass = colour(draw, 0.75, 0.8, 0.6)
    c.box(draw.choice((-0.3, 0.3)), 0.55, 0.26, 0.5, any_colour(draw))
    for u in (-0.35, 0.05, 0.4)[: draw.integers(1, 4)]:
        c.box(u, 0.1, 0.2, 0.2, glass)


def tree(c: Canvas, draw: Draw) -> None:
    c.box(0, 0.55, draw.uniform(0.14, 0.3), 0.7, colour(draw, 0.4, 0.26, 0.13))
    leaves = colour(draw, *((0.2, 0.5, 0.15) if draw.random() < 0.75 else (0.7, 0.4, 0.1)))
    if draw.random() < 0.4:  # a fir
        for top in (-0.95, -0.6, -0.25):
            c.wedge(0, top, top + 0.65, 0.05, 1.0 + top * 0.3, leaves)
    else:
        for _ in range(5):
            c.disc(draw.uniform(-0.35, 0.35), draw.uniform(-0.6, 0), draw.uniform(0.3, 0.45), 0.38, leaves)
            leaves = np.clip(leaves + draw.normal(0, 0.05, 3), 0, 1).astype(np.float32)


def car(c: Canvas, draw: Draw) -> None:
    body, dark = any_colour(draw), colour(draw, 0.1, 0.1, 0.1, 0.04)
    at = draw.uniform(-0.2, 0.2)
    c.wedge(at, -0.4, 0.1, draw.uniform(0.5, 0.8), 1.2, body)
    c.wedge(at, -0.3, 0.05, 0.45, 0.9, colour(draw, 0.6, 0.75, 0.85))
    c.box(0, 0.2, 1.8, 0.4, body)
    for u in (-0.5, 0.5):
        c.disc(u, 0.42, 0.24, 0.24, dark)
        c.disc(u, 0.42, 0.1, 0.1, colour(draw, 0.6, 0.6, 0.6, 0.05))


def boat(c: Canvas, draw: Draw) -> None:
    c.box(0, 0.8, 3.0, 0.5, colour(draw, 0.15, 0.35, 0.6))
    c.wedge(0, 0.3, 0.7, 1.6, draw.uniform(0.7, 1.1), any_colour(draw))
    c.box(0, -0.25, 0.06, 1.2, colour(draw, 0.35, 0.25, 0.15))
    sail, side = any_colour(draw), draw.choice((-1, 1))
    part = (c.v + 0.85) / 1.0
    inside = (part > 0) & (part < 1) & (c.u * side > 0.05) & (c.u * side < 0.05 + 0.65 * part)
    c._paint(inside, sail)


def mug(c: Canvas, draw: Draw) -> None:
    body, side = any_colour(draw), draw.choice((-1, 1))
    c.ring(0.5 * side, 0.05, 0.3, 0.15, body)
    c.wedge(0, -0.5, 0.6, 1.0, draw.uniform(0.7, 1.0), body)
    c.disc(0, -0.5, 0.5, 0.12, colour(draw, 0.3, 0.18, 0.08, 0.06))
    if draw.random() < 0.5:
        c.box(0, draw.uniform(-0.1, 0.3), 0.9, 0.16, any_colour(draw))


def flower(c: Canvas, draw: Draw) -> None:
    c.box(0, 0.5, 0.1, 1.0, colour(draw, 0.2, 0.5, 0.15))
    c.disc(0.22, 0.6, 0.25, 0.1, colour(draw, 0.25, 0.55, 0.2))
    petals, count, start = any_colour(draw), int(draw.integers(5, 9)), draw.uniform(0, 1)
    for i in range(count):
        angle = 2 * np.pi * (i + start) / count
        c.disc(0.36 * np.cos(angle), -0.3 + 0.36 * np.sin(angle), 0.22, 0.22, petals)
    c.disc(0, -0.3, 0.2, 0.2, colour(draw, 0.85, 0.7, 0.15))


def fish(c: Canvas, draw: Draw) -> None:
    body, side, flat = any_colour(draw), draw.choice((-1, 1)), draw.uniform(0.28, 0.45)
    part = (c.u * side + 0.95) / 0.5
    c._paint((part > 0) & (part < 1) & (np.abs(c.v) < 0.5 * (1 - 0.8 * part)), any_colour(draw))
    c.disc(0.1 * side, 0, 0.65, flat, body)
    for u in (-0.15, 0.1, 0.32)[: draw.integers(0, 4)]:
        c.box(u * side, 0, 0.08, flat * 1.5, any_colour(draw))
    c.disc(0.5 * side, -0.08, 0.09, 0.09, colour(draw, 0.05, 0.05, 0.05, 0.03))


def mountain(c: Canvas, draw: Draw) -> None:
    rock, snow = colour(draw, 0.4, 0.38, 0.4), colour(draw, 0.93, 0.94, 0.97, 0.04)
    for u, top in ((draw.uniform(-0.8, -0.4), -0.2), (draw.uniform(0.3, 0.8), -0.35), (draw.uniform(-0.2, 0.2), -0.8)):
        wide = draw.uniform(1.3, 1.9)
        c.wedge(u, top, 0.8, 0.02, wide, rock)
        c.wedge(u, top, top + 0.35, 0.02, wide * 0.35 / (0.8 - top), snow)
        rock = np.clip(rock + draw.normal(0, 0.06, 3), 0, 1).astype(np.float32)


def balloon(c: Canvas, draw: Draw) -> None:
    hull, stripe = any_colour(draw), any_colour(draw)
    c.disc(0, -0.3, 0.62, 0.62, hull)
    c.wedge(0, -0.05, 0.5, 1.15, 0.3, hull)
    for u in (-0.35, 0.0, 0.35)[: draw.integers(1, 4)]:
        c.disc(u, -0.3, 0.09, 0.55, stripe)
    c.box(0, 0.75, 0.3, 0.24, colour(draw, 0.45, 0.3, 0.15))


def lamp(c: Canvas, draw: Draw) -> None:
    metal = colour(draw, 0.25, 0.25, 0.28)
    c.box(0, 0.3, 0.09, 1.1, metal)
    c.disc(0, 0.82, draw.uniform(0.35, 0.5), 0.12, metal)
    c.disc(0, -0.15, 0.6, 0.25, colour(draw, 0.98, 0.9, 0.55, 0.05))
    c.wedge(0, -0.8, -0.1, draw.uniform(0.35, 0.6), draw.uniform(0.9, 1.2), any_colour(draw))


THINGS: tuple[Callable[[Canvas, Draw], None], ...] = (
    house, tree, car, boat, mug, flower, fish, mountain, balloon, lamp
)  # fmt: skip


def background(draw: Draw) -> Array:
    """Two colours that run into each other, a horizon perhaps, and a texture."""
    above, below = any_colour(draw) * 0.6 + 0.35, any_colour(draw) * 0.7 + 0.15
    part = GRID_V * 0.5 + 0.5 + draw.uniform(-0.3, 0.3) * GRID_U
    if draw.random() < 0.5:
        part = (part > draw.uniform(0.4, 0.8)).astype(np.float32)
    pixels = above + (below - above) * np.clip(part, 0, 1)[..., None]
    waves = np.sin((GRID_U * draw.normal(0, 9) + GRID_V * draw.normal(0, 9)) + draw.uniform(0, 6))
    return (pixels + draw.uniform(0, 0.1) * waves[..., None]).astype(np.float32)


def photo(kind: int, manner: Manner, draw: Draw) -> Array:
    """One photo of this kind of thing, [3, 32, 32]."""
    angle, size = draw.normal(0, manner.turn), draw.uniform(*manner.size)
    u, v = GRID_U - draw.normal(0, manner.shift), GRID_V - draw.normal(0, manner.shift)
    cos, sin = np.cos(angle) / size, np.sin(angle) / size
    canvas = Canvas(background(draw), cos * u + sin * v, cos * v - sin * u)
    THINGS[kind](canvas, draw)
    if draw.random() < manner.cover:
        canvas.u, canvas.v = GRID_U, GRID_V
        canvas.box(draw.choice((-0.9, 0.9)), draw.uniform(-1, 1), draw.uniform(0.2, 0.7), 1.0, any_colour(draw))
    direction = draw.uniform(0, 2 * np.pi)
    far = 0.5 + 0.35 * (np.cos(direction) * GRID_U + np.sin(direction) * GRID_V)
    light = draw.uniform(*manner.light) * (1 - manner.shade * draw.random() * far)
    tint = 1 + manner.warmth * draw.uniform(-1, 1) * np.array([1.0, 0.1, -1.0])
    pixels = canvas.pixels * light[..., None] * tint
    coarse = pixels.reshape(SIZE, FINE, SIZE, FINE, 3).mean((1, 3))
    coarse += draw.normal(0, manner.noise, coarse.shape)
    return np.clip(coarse, 0, 1).transpose(2, 0, 1).astype(np.float32)


def photos(count: int, seed: int, manner: Manner = STUDIO, share: NDArray[np.float64] | None = None) -> Photos:
    """Photos of all kinds, or of each kind by its share."""
    draw = np.random.default_rng(seed)
    kinds = draw.choice(len(CLASSES), count, p=share).astype(np.int32)
    return Photos(np.stack([photo(int(kind), manner, draw) for kind in kinds]), kinds)


def homes(count: int, each: int = 60, skew: float = 0.5, seed: int = 100) -> list[Photos]:
    """What is on so many devices; each sees its own mixture of things."""
    shares = np.random.default_rng(seed).dirichlet(np.full(len(CLASSES), skew), count)
    return [photos(each, seed + 1 + i, HOME, share) for i, share in enumerate(shares)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw home photos, to be dealt to devices in a simulation.")
    parser.add_argument("file", type=Path, help="an .npz with x and y")
    parser.add_argument("--count", type=int, default=20_000, help="about a minute for 20,000 (the default)")
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    photos(given.count, given.seed, HOME).save(given.file)
    print(f"wrote {given.file}: {given.count:,} photos of {', '.join(CLASSES)}")


if __name__ == "__main__":
    main()
