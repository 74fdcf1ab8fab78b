"""What one run has to show, as charts: counted by numpy over whole columns, so that a million visits take a second."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tacit.fleet.folder import Fate, Folder, Point, RunBroken, Settings, Summary
from tacit.fleet.report import words
from tacit.fleet.report.charts import Axis, Bars, Chart, Lines, histogram, line, measured, shares
from tacit.plan.bundle import Plan, parse_plan
from tacit.privacy.account import epsilon_of_mu

FATES = {
    Fate.APPLIED: "in a Snapshot",
    Fate.STALE: "too old for a batch",
    Fate.REFUSED: "no place",
    Fate.DROPPED: "given up half-way",
    Fate.INTERRUPTED: "interrupted before training",
    Fate.CARRIED: "carried on, not sent",
    Fate.DIVERGED: "no finite delta",
    Fate.SPOILT: "lost with its batch",
    Fate.OPEN: "under way at the end",
}


class DeviceKind(msgspec.Struct, frozen=True):
    """A line of `devices.json`: what a visit costs on devices of one profile, by the planner's estimate."""

    profile: str
    count: int
    seconds: float
    joules: float
    training_bytes: int
    process_bytes: int
    fits: bool


@dataclass(frozen=True, eq=False)
class Fairness:
    """`fairness.npz`: how good the published model is on each device's own examples."""

    device: NDArray[np.integer]
    examples: NDArray[np.integer]
    right: NDArray[np.floating]  # the share of them

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """Of the devices that have examples."""
        return self.right[self.examples > 0].astype(np.float64)


@dataclass(frozen=True, eq=False)
class Run:
    """All that a finished run's folder holds, read."""

    path: Path
    settings: Settings
    summary: Summary
    points: Sequence[Point]
    visits: NDArray[np.void]
    plan: Plan | None  # None where nothing was sent, so nothing was planned
    kinds: Sequence[DeviceKind]
    fairness: Fairness | None

    @property
    def strategy(self) -> str:
        return self.settings.scenario.strategy

    @property
    def is_judged(self) -> bool:
        """Whether anything was trained, and looked at."""
        return self.settings.scenario.training != "none" and self.settings.test_examples > 0

    @property
    def accuracy(self) -> float | None:
        """Of what people get at the end: the average of Snapshots, where there is one."""
        return self.summary.accuracy if self.is_judged else None

    @property
    def sends(self) -> bool:
        """Whether anything leaves its devices; where all is in one place, or each is alone, nothing does."""
        return self.summary.up > 0

    @property
    def best(self) -> float | None:
        """Of what people got at any time."""
        return self.summary.best_accuracy if self.is_judged else None


def read(folder: Folder) -> Run:
    """A run that is over; RunBroken says what is wrong with any other."""
    settings, summary = folder.settings(), folder.summary()
    has_plan = (folder.path / "plan.tacit").exists() and (folder.path / "plan.tacit").stat().st_size
    return Run(
        folder.path,
        settings,
        summary,
        folder.points(),
        folder.visits(),
        parse_plan(folder.plan()) if has_plan else None,
        _kinds(folder.path / "devices.json"),
        _fairness(folder.path / "fairness.npz"),
    )


def quality(run: Run) -> list[Chart]:
    """Accuracy against everything that it costs."""
    points = run.points
    if not points or not run.is_judged:
        return []
    last = points[-1]
    axes = [
        ("time", measured("virtual time", last.time, words.SECONDS), [point.time for point in points]),
        ("bytes", measured("bytes, up and down", last.up + last.down, words.BYTES), [p.up + p.down for p in points]),
        ("joules", measured("energy", last.joules, words.JOULES), [point.joules for point in points]),
    ]
    epsilons = spent(run)
    if epsilons is not None:
        axes.append(("epsilon", Axis("ε of the device that landed most"), epsilons))
    target = run.settings.scenario.target
    level = None if target is None else (target, f"target {words.share(target)}")
    return [
        Lines(
            f"accuracy-{name}", f"Accuracy against {_against(name)}", axis, shares("accuracy"),
            (line("published", values, [point.accuracy for point in points]),), level=level,
        )
        for name, axis, values in axes
        if max(values) > 0
    ]  # fmt: skip


def spent(run: Run) -> list[float] | None:
    """ε at every point, where the run's claim means something."""
    if run.summary.epsilon is None or run.plan is None or not run.is_judged:
        return None
    delta = run.plan.manifest.delta
    return [epsilon_of_mu(sqrt(point.mu2), delta) for point in run.points]


def staleness(run: Run) -> Bars | None:
    """How many Snapshots later than theirs Updates were added."""
    applied = run.visits[run.visits["fate"] == Fate.APPLIED]
    if not len(applied):
        return None
    ages = applied["batch"].astype(np.int64) - applied["base"].astype(np.int64)
    names, counts = histogram(ages)
    return Bars(
        "staleness", "How old Updates were when added", "Snapshots since theirs", Axis("Updates"),
        names, counts, upright=True, note=f"In the mean {words.number(float(ages.mean()))}, at most {int(ages.max())}.",
    )  # fmt: skip


def landings(run: Run) -> NDArray[np.int64]:
    """Of every device, how many of its Updates are in Snapshots."""
    applied = run.visits["device"][run.visits["fate"] == Fate.APPLIED]
    return np.bincount(applied, minlength=run.settings.devices).astype(np.int64)


def participation(run: Run) -> list[Chart]:
    """Who was heard, and how evenly."""
    count = landings(run)
    total = int(count.sum())
    if not total:
        return []
    names, devices = histogram(count)
    heard = int((count > 0).sum())
    grown = np.concatenate(([0], np.cumsum(np.sort(count)))) / total
    behind = np.linspace(0, 1, len(grown))
    half = 1 - float(np.interp(0.5, behind, grown))
    jain = float(total) ** 2 / (len(count) * float((count.astype(np.float64) ** 2).sum()))
    return [
        Bars(
            "participation", "How often devices were heard", "Updates in Snapshots", Axis("devices"), names, devices,
            upright=True, note=f"{heard:,} of {len(count):,} devices ({words.share(heard / len(count))}) were heard.",
        ),
        Lines(
            "evenness", "How evenly devices were heard", shares("devices, those least heard first"),
            shares("of all Updates"),
            (line("this run", behind, grown), line("all alike", [0, 1], [0, 1], colour=7, thin=True)),
            note=f"The half that was heard most sent {words.share(half)} of all Updates. Jain's index {jain:.2f}"
            + (f": as if {words.share(jain)} of the devices had sent all of them, alike." if jain < 0.995 else "."),
        ),
    ]  # fmt: skip


def fairness(run: Run) -> Bars | None:
    """How many devices the published model is how good for, on their own examples."""
    if run.fairness is None or not len(run.fairness.accuracies):
        return None
    each = run.fairness.accuracies
    counts, _ = np.histogram(each, bins=20, range=(0, 1))
    names = tuple(f"{5 * k}–{5 * k + 5}" for k in range(20))
    low, middle = np.quantile(each, (0.1, 0.5))
    return Bars(
        "fairness", "The published model on devices' own examples", "accuracy, %", Axis("devices"), names,
        tuple(float(count) for count in counts), upright=True,
        note=f"Over {len(each):,} devices the median is {words.share(float(middle))} and the spread "
        f"{words.share(float(each.std()))}; a tenth of them have {words.share(float(low))} or less.",
    )  # fmt: skip


def fates(run: Run) -> Bars | None:
    """What became of the visits."""
    counts = np.bincount(run.visits["fate"], minlength=len(Fate)) if len(run.visits) else np.zeros(len(Fate), int)
    there = [(fate, int(counts[fate])) for fate in Fate if counts[fate]]
    return Bars(
        "fates", "What became of visits", "fate", Axis("visits"), tuple(FATES[fate] for fate, _ in there),
        tuple(float(count) for _, count in there), colours=tuple(int(fate != Fate.APPLIED) for fate, _ in there),
    ) if there else None  # fmt: skip


def memory(run: Run) -> list[Chart]:
    """What training takes on a device, against training the whole model; and each kind's whole process."""
    summary = run.summary
    found: list[Chart] = []
    if summary.training_bytes:
        rows = [("the subset, as the Plan trains it", summary.training_bytes)]
        if summary.full_training_bytes:
            rows.append(("the whole model, 32 examples at a time", summary.full_training_bytes))
        saved = words.change(summary.training_bytes, summary.full_training_bytes)
        found.append(
            _sizes(
                "memory", "Memory of training", "what is trained", rows, f"{saved} against all of it." if saved else ""
            )
        )
    if run.kinds:
        rows = [(kind.profile, kind.process_bytes) for kind in run.kinds]
        found.append(
            _sizes("process", "Memory of a device's whole process", "profile", rows, "Estimated by the planner.")
        )
    return found


def _sizes(name: str, title: str, of: str, rows: Sequence[tuple[str, int]], note: str) -> Bars:
    axis = measured("memory", max(size for _, size in rows), words.BYTES)
    colours = tuple(7 * (k > 0) for k in range(len(rows))) if name == "memory" else ()
    names, sizes = tuple(row[0] for row in rows), tuple(float(row[1]) for row in rows)
    return Bars(name, title, of, axis, names, sizes, colours=colours, note=note)


def charts(run: Run) -> dict[str, list[Chart]]:
    """All of them, by the section that they are in."""
    found: dict[str, list[Chart | None]] = {
        "How good it became": [*quality(run)],
        "Visits": [fates(run), staleness(run)],
        "Devices": [*participation(run), fairness(run), *memory(run)],
    }
    return {name: [chart for chart in some if chart is not None] for name, some in found.items()}


def _against(name: str) -> str:
    return {"time": "time", "bytes": "bytes", "joules": "energy", "epsilon": "ε"}[name]


def _kinds(file: Path) -> Sequence[DeviceKind]:
    if not file.exists():
        return ()
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[DeviceKind])
    except msgspec.MsgspecError as error:
        raise RunBroken(f"{file} is damaged: {error}; delete that file, and the report leaves it out") from error


def _fairness(file: Path) -> Fairness | None:
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return Fairness(arrays["device"], arrays["examples"], arrays["right"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise RunBroken(f"{file} is damaged: {error}; delete that file, and the report leaves it out") from error
