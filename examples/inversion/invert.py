"""Who sees one device's raw update has its picture. What a coordinator sees here gives it nothing.

A device with one image of a digit takes one step of a softmax head. Each row of the weights' change is the image times
a number, and the bias's change is that number: dividing shows the image. The same attack is tried on the integers
before they are masked, on what is sent, and on opened sums with the noise of one keyholder at ε = 8. Everything from
the delta on is the product's own code.

    python examples/inversion/invert.py
"""

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from tacit.codec.quantise import inner_bound, quantise
from tacit.codec.ring import center, low_bits
from tacit.privacy.account import mu_of_epsilon
from tacit.privacy.clip import clip
from tacit.privacy.mask import masked, sum_masks
from tacit.privacy.noise import plain_noise

Floats = NDArray[np.float64]
WIDTH, CLASSES, DEVICES = 64, 10, 20
D = CLASSES * (WIDTH + 1)
CLIP, BIG_Q, BITS, LANDINGS, EPSILON, DELTA = 1.0, 512, 24, 4, 8.0, 1e-7
SHADES = " .:-=+*#%@"


def delta_of(image: Floats, digit: int, model: Floats, rate: float = 0.5) -> Floats:
    """What one step on one image changes: weights [10, 64], then biases."""
    weights, bias = model[: CLASSES * WIDTH].reshape(CLASSES, WIDTH), model[CLASSES * WIDTH :]
    odds = np.exp(weights @ image + bias)
    error = odds / odds.sum() - np.eye(CLASSES)[digit]
    return -rate * np.concatenate([np.outer(error, image).ravel(), error])


def inverted(seen: Floats) -> Floats:
    """The image, from the row whose bias moved most."""
    weights, bias = seen[: CLASSES * WIDTH].reshape(CLASSES, WIDTH), seen[CLASSES * WIDTH :]
    row = int(np.argmax(np.abs(bias)))
    return weights[row] / (bias[row] or 1.0)


def likeness(guess: Floats, image: Floats) -> float:
    """Their correlation: 1 is the image itself; two images without relation have 0 ± 0.12."""
    return float(np.nan_to_num(np.corrcoef(guess, image)[0, 1]))


@dataclass(frozen=True, eq=False)
class Attack:
    """What somebody sees, and how near they come to each image that it might show."""

    sees: str
    guess: Floats
    likenesses: list[float]

    @property
    def best(self) -> float:
        return max(self.likenesses)


def attacks(images: Floats, digits: NDArray[np.int64], model: Floats) -> list[list[Attack]]:
    """For each device the attacks on it alone, and last the one on the sum of them all."""
    q_in = inner_bound(BIG_Q, D)
    found: list[list[Attack]] = []
    sent, keys = np.zeros(D, np.uint32), [os.urandom(16) for _ in images]
    for image, digit, key in zip(images, digits, keys, strict=True):
        delta = delta_of(image, int(digit), model)
        q = quantise(clip(delta, CLIP).values, CLIP, BIG_Q, q_in, os.urandom)
        y = masked(q, [key], BITS)
        sent += y
        views = {"raw update": delta, "integers, not masked": q, "what is sent": center(y, BITS)}
        one: list[Attack] = []
        for sees, values in views.items():
            guess = inverted(values.astype(np.float64))
            one.append(Attack(sees, guess, [likeness(guess, image)]))
        found.append(one)
    sd = LANDINGS**0.5 / mu_of_epsilon(EPSILON, DELTA) * BIG_Q
    noise = plain_noise(os.urandom(32), bytes(32), 0, bytes(32), D, sd)
    opened = center(low_bits(sent - sum_masks(keys, [1] * len(keys), D, BITS), BITS), BITS) + noise
    guess = inverted(opened.astype(np.float64))
    found.append([Attack(f"opened sum of {len(images)}", guess, [likeness(guess, image) for image in images])])
    return found


def victims(seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """As many images as there are devices."""
    pixels, digits = load_digits(return_X_y=True)
    chosen = np.random.default_rng(seed).permutation(len(digits))[:DEVICES]
    return pixels[chosen] / 16.0, digits[chosen]


def drawn(image: Floats) -> list[str]:
    """An image in letters, its values spread over the shades."""
    spread = (image - image.min()) / (np.ptp(image) or 1.0)
    return ["".join(2 * SHADES[int(9.99 * value)] for value in row) for row in spread.reshape(8, 8)]


def main() -> None:
    images, digits = victims(seed=0)
    model = np.random.default_rng(1).normal(0, 0.05, D)
    *alone, (together,) = attacks(images, digits, model)
    shown = [*alone[0], together]
    titles = ["the image", *(attack.sees for attack in shown)]
    pictures = [drawn(images[0]), *(drawn(attack.guess) for attack in shown)]
    for line in [titles, *zip(*pictures, strict=True)]:
        print("   ".join(f"{part:<20}" for part in line).rstrip())
    print()
    for number, attack in enumerate(alone[0]):
        values = [one[number].best for one in alone]
        print(f"{attack.sees:<22} likeness {np.mean(values):5.2f} on average, {max(values):5.2f} at best")
    print(f"{together.sees:<22} likeness {np.mean(together.likenesses):5.2f} on average, {together.best:5.2f} at best")


if __name__ == "__main__":
    main()
