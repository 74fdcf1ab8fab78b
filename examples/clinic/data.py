"""Four hospitals with patients who came for their hearts. Drawn from a seed, so nothing is downloaded.

`python examples/clinic/data.py FOLDER` writes a file for each hospital, and one of patients that none of them has seen.
Columns are those of the UCI heart disease data, some missing here and there; a patient has one to three visits. What a
column is centred and scaled by are round numbers of a textbook: a mean of these patients would tell of them.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# age, resting blood pressure, cholesterol, highest heart rate, depression of ST, vessels coloured: centre and scale.
NUMBERS = {0: (54, 9), 3: (130, 18), 4: (240, 50), 7: (145, 23), 9: (1, 1), 11: (0.7, 0.9)}
YES_OR_NO = (1, 5, 8)  # male, blood sugar above 120, angina when exercising
KINDS = {2: (1, 2, 3, 4), 6: (0, 1, 2), 10: (1, 2, 3), 12: (3, 6, 7)}  # chest pain, resting ECG, slope of ST, thallium
OFTEN_MISSING = (4, 11)
FEATURES = len(NUMBERS) + len(YES_OR_NO) + sum(map(len, KINDS.values())) + len(OFTEN_MISSING)
SITES = ((300, 0.0, 0.0), (290, -0.8, 0.3), (120, 1.5, 0.6), (200, 0.7, 0.4))  # patients, how ill, how much is missing


@dataclass(frozen=True, eq=False)
class Visits:
    """What a hospital has: `x` as the model takes it, `y` whether the vessels are narrowed, and whose visit it was."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    patient: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    def save(self, path: Path) -> Path:
        np.savez(path, x=self.x, y=self.y, patient=self.patient)
        return path


def prepared(columns: Array) -> NDArray[np.float32]:
    """The thirteen columns as the model takes them; NaN is what is missing, and counts as the usual."""
    there = np.isfinite(columns)
    parts = [np.where(there[:, k], (columns[:, k] - centre) / scale, 0) for k, (centre, scale) in NUMBERS.items()]
    parts += [np.where(there[:, k], columns[:, k] - 0.5, 0) for k in YES_OR_NO]
    parts += [columns[:, k] == value for k, values in KINDS.items() for value in values]
    parts += [~there[:, k] for k in OFTEN_MISSING]
    # Each patient's gradient is then of a length near 1, whichever columns are missing.
    return (np.clip(np.stack(parts, 1).astype(np.float64), -3, 3) / 2).astype(np.float32)


def visits(patients: int, seed: int, illness: float = 0.0, missing: float = 0.0) -> Visits:
    """So many patients of a hospital: the same seed draws the same ones."""
    draw = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), draw.integers(1, 4, patients))
    ill = draw.normal(illness, 1.5, patients)[patient] + draw.normal(0, 0.3, len(patient))
    n = len(patient)

    def kind(values: tuple[int, ...], pull: float) -> Array:
        """One of them; the illness pulls towards the last."""
        at = draw.normal(0, 1, n) + pull * ill + len(values) / 2
        return np.array(values, np.float64)[np.clip(at, 0, len(values) - 1).astype(int)]

    columns = np.stack(
        [
            draw.normal(54, 9, patients)[patient] + 2 * ill,
            (draw.normal(0.3, 0.6, patients)[patient] + 0.2 * ill > 0).astype(float),
            kind((1, 2, 3, 4), 0.7),
            draw.normal(130, 18, n) + 2 * ill,
            draw.normal(240, 50, n) + 6 * ill,
            (draw.normal(-1, 1, n) + 0.1 * ill > 0).astype(float),
            kind((0, 1, 2), 0.2),
            draw.normal(145, 20, n) - 8 * ill,
            (draw.normal(-0.5, 0.8, n) + 0.5 * ill > 0).astype(float),
            np.maximum(0, draw.normal(0.8, 0.8, n) + 0.4 * ill),
            kind((1, 2, 3), 0.3),
            np.clip(np.round(draw.normal(0.5, 0.8, n) + 0.4 * ill), 0, 3),
            kind((3, 6, 7), 0.6),
        ],
        axis=1,
    )
    for k in (4, 10, 11, 12):
        columns[draw.random(n) < missing, k] = np.nan
    return Visits(prepared(columns), (ill > 0).astype(np.float32)[:, None], patient.astype(np.int64))


def hospitals(seed: int = 1) -> list[Visits]:
    """Four of them: they differ in size, in how ill their patients are, and in what they write down."""
    return [visits(patients, seed + site, illness, missing) for site, (patients, illness, missing) in enumerate(SITES)]


def unseen(seed: int = 99) -> Visits:
    """Patients of a fifth hospital, to test on."""
    return visits(1000, seed, 0.2, 0.3)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(hospitals(), 1):
        one.save(folder / f"hospital-{number}.npz")
    unseen().save(folder / "unseen.npz")
    print(f"wrote four hospitals and unseen.npz to {folder}")
