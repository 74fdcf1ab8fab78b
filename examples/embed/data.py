"""Writes a file of examples, as docs/reference/embedding.md describes it: python data.py FILE"""

import sys

import numpy as np

N, READINGS, GESTURES = 60, 6, 5


def main(path: str) -> None:
    """Clouds of readings around five points, one of them weighing double."""
    random = np.random.default_rng(0)
    y = random.integers(0, GESTURES, N).astype(np.int32)
    x = (2 * np.eye(GESTURES, READINGS)[y] + random.normal(0, 0.5, (N, READINGS))).astype(np.float32)
    weight = np.where(y == 0, 2, 1).astype(np.float32)
    with open(path, "wb") as file:
        for array in (np.uint32(N), x, y, weight):
            file.write(array.tobytes())


if __name__ == "__main__":
    main(sys.argv[1])
