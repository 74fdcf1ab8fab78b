"""How good each Snapshot is, on images that no device has."""

import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tacit.cli.judge import Examiner
from tacit.device.examples import read_examples
from tacit.plan.bundle import Plan, decode_snapshot
from tacit.wire.messages import Head, decode


@dataclass
class Curve:
    """Accuracy on the test images by Snapshot: (version, of the Snapshot, of the running average)."""

    points: list[tuple[int, float, float]] = field(default_factory=list[tuple[int, float, float]])
    epsilons: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])


class Judge:
    """Judges every Snapshot of the Plan on the test images, and the running average of them."""

    def __init__(self, plan: Plan, test: Path, base: str):
        program = plan.manifest.program
        self._d = program.d
        self._examiner = Examiner(plan, read_examples(test, program.inputs, program.label))
        self._base = base
        self._average: NDArray[np.float32] | None = None
        self._next = 0

    def follow(self, newest: int, curve: Curve) -> None:
        """Judge every Snapshot up to `newest` that has not been judged yet."""
        while self._next <= newest:
            try:
                with urllib.request.urlopen(f"{self._base}/heads/{self._next}", timeout=5) as answer:  # noqa: S310
                    head = decode(Head, answer.read())
                where = f"{self._base}/snapshots/{head.snapshot_hash.hex()}"
                with urllib.request.urlopen(where, timeout=5) as answer:  # noqa: S310
                    values = decode_snapshot(answer.read(), self._d)
            except (urllib.error.URLError, OSError):
                return
            before = values if self._average is None else self._average
            self._average = (0.9 * before + 0.1 * values).astype(np.float32)
            curve.points.append((self._next, self._right(values), self._right(self._average)))
            self._next += 1

    def _right(self, values: NDArray[np.float32]) -> float:
        _, right, count = self._examiner.evaluate(values)
        return right / count
