"""Finished runs with made-up contents: what tests of reports read."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tacit.fleet.folder import FORMAT, VISIT, Fate, Folder, Point, Records, Settings, Summary
from tacit.fleet.report.figures import DeviceKind
from tacit.fleet.settings import Scenario
from tests.factory import make_world


def made_visits(count: int, devices: int, seed: int) -> NDArray[np.void]:
    """Visits of every fate, over all devices, as old as Updates may be."""
    draw = np.random.default_rng(seed)
    visits = np.zeros(count, VISIT)
    visits["device"] = (devices * draw.random(count) ** 2).astype(np.uint32)
    visits["fate"] = draw.choice(len(Fate), count, p=[0.8, *[0.025] * 8])
    visits["base"] = np.arange(count) // 10
    visits["batch"] = np.where(visits["fate"] == Fate.APPLIED, visits["base"] + draw.integers(0, 7, count), -1)
    visits["ended"] = np.arange(1, count + 1, dtype=np.float64)
    return visits


def made_run(
    path: Path,
    *,
    strategy: str = "tacit",
    seed: int = 1,
    best: float = 0.9,
    dear: float = 1.0,
    points: int = 20,
    count: int = 400,
    devices: int = 50,
    sigma: float | None = None,
    told: dict[str, str] | None = None,
    over: bool = True,
    sends: bool = True,
    **scenario: Any,
) -> Folder:
    """A run's folder: accuracy climbs to `best` in even steps; the last point cost `dear` times 1,000 s, 3,000,000
    bytes up (none where it does not send), 2,000,000 down, 500 J. With `sigma` its Plan claims the ε of that noise."""
    plan = make_world(path.parent / f"{path.name}-keys", sigma=1e-6 if sigma is None else sigma).plan
    folder = Folder(path)
    asked = Scenario(strategy=strategy, seed=seed, **scenario)
    settings = Settings(FORMAT, asked, plan.plan_id.hex(), devices, 1000, "e" * 64, "f" * 64, told or {})
    folder.begin(settings, bytes(plan.raw))
    records = Records(folder)
    visits = made_visits(count, devices, seed)
    for visit in visits:
        records.visit(visit.item())
    made: list[Point] = []
    for k in range(points + 1):
        part = k / points
        accuracy = 0.1 + (best - 0.1) * part
        made.append(
            Point(
                version=10 * k, time=1000 * dear * part, loss=2.3 - 2 * part,
                accuracy=accuracy,
                updates=int(part * count), visits=int(part * count),
                up=int(3_000_000 * dear * part * sends), down=int(2_000_000 * dear * part), joules=500 * dear * part,
                most_landings=round(3 * part), mu2=plan.manifest.spent(round(3 * part)), clip=1.0,
            )
        )  # fmt: skip
        records.point(made[-1])
    records.close()
    if not over:
        return folder
    last, target = made[-1], asked.target
    said = None if sigma is None else 1 / sigma
    folder.finish(
        Summary(
            ended="the Plan's last batch is in", time=last.time, versions=last.version, accuracy=last.accuracy,
            loss=last.loss, best_accuracy=max(point.accuracy for point in made),
            reached=None if target is None else next((point for point in made if point.accuracy >= target), None),
            updates=count, visits=count, fates={f.name.lower(): int((visits["fate"] == f).sum()) for f in Fate},
            up=last.up, down=last.down, joules=last.joules, most_landings=3, mu2=last.mu2, epsilon=said,
            statement=f"ε = {said} <for> each device" if said else "No meaningful differential privacy & no claim.",
            training_bytes=40_000, full_training_bytes=4_000_000, plan_bytes=20_000, update_bytes=1_900,
            snapshot_bytes=1_200, events=5 * count,
        ),
        b"values",
    )  # fmt: skip
    return folder


def add_devices(folder: Folder) -> None:
    """What the command line and the run may add: kinds of devices, and how good the model is on each one's examples."""
    kinds = [
        DeviceKind("pi-4b", 20, 0.31, 1.2, 40_000, 19 << 20, True),
        DeviceKind("mcu<1>", 30, 2.4, 0.4, 40_000, 1 << 19, False),
    ]
    (folder.path / "devices.json").write_bytes(msgspec.json.encode(kinds))
    draw = np.random.default_rng(3)
    examples = draw.integers(0, 30, 50)
    np.savez(
        folder.path / "fairness.npz",
        device=np.arange(50),
        examples=examples,
        right=draw.binomial(examples, 0.8) / np.maximum(1, examples),
    )
    picture = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 10"><circle cx="5" cy="5" r="4"/></svg>'
    (folder.path / "split.svg").write_text(picture)
