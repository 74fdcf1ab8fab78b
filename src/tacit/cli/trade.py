"""`tacit simulate --epsilon 1,2,4,8`: one simulation under each ε and without noise, and what accuracy is left.

Each is a run like any other, in a folder of its own. As simulated, the noise is that of the fleet that is simulated: it
is small, so that noise weighs much. With `--as-if-devices 1e6` each mean gets as much noise as the same ε takes in a
fleet of a million: an extrapolation, since what those devices would know is not there.
"""

import argparse
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tacit.cli.epsilons import parse_epsilons
from tacit.cli.measured import FILE, FORMAT, Point, Trade
from tacit.errors import InputError
from tacit.fleet.folder import Folder
from tacit.fleet.strategy import NO_NOISE, Sizes, Strategy, claims, parse, policy_of, privacy_for
from tacit.plan.bundle import Plan, parse_plan
from tacit.plan.numbers import Numbers, noise_of_a_mean, noise_to_signal
from tacit.privacy.account import RELATIONS, epsilon_text
from tacit.privacy.trust import Trust, holds_against

if TYPE_CHECKING:
    from tacit.task import Privacy, Task

# What a run does only where it claims nothing, so that the run without noise differs from the others in noise alone.
WITHOUT_CLAIM = ("class-sums", "clip")

Play = Callable[["Task", Strategy, Sizes, Path], Folder]


@dataclass(frozen=True)
class Case:
    """One run of a trade; without noise where there is no ε."""

    epsilon: float | None
    privacy: "Privacy"
    strategy: Strategy
    sizes: Sizes
    name: str


def under(task: "Task", arguments: argparse.Namespace) -> "Task":
    """The Task with the ε that was asked for, where it is one."""
    if arguments.epsilon is None or is_trade(arguments):
        return task
    (epsilon,) = parse_epsilons(arguments.epsilon)
    return replace(task, privacy=replace(policy_of(task), epsilon=epsilon, noise=None))


def is_trade(arguments: argparse.Namespace) -> bool:
    """Whether more than one run is asked for."""
    if arguments.as_if_devices is not None and arguments.epsilon is None:
        raise InputError("--as-if-devices says whose noise; name an ε, or several, with --epsilon")
    return arguments.as_if_devices is not None or len(parse_epsilons(arguments.epsilon or "8")) > 1


def trade(
    task: "Task", strategies: Sequence[Strategy], sizes: Sizes, arguments: argparse.Namespace, out: Path, play: Play
) -> list[str]:
    """Plays every case, writes the trade with its pictures into `out`, and says what people read."""
    from tacit.durable import write_file

    if len(strategies) > 1:
        raise InputError("--epsilon with several ε draws one strategy; name one with --strategy")
    as_if = None if arguments.as_if_devices is None else elsewhere(policy_of(task), arguments.as_if_devices)
    found = list(cases(task, strategies[0], sizes, parse_epsilons(arguments.epsilon), as_if))
    folders = [play(replace(task, privacy=case.privacy), case.strategy, case.sizes, out / case.name) for case in found]
    manifest = parse_plan(folders[-1].plan()).manifest
    measured = Trade(
        FORMAT,
        f"{task.name} by {strategies[0].label}",
        "accuracy",
        sizes.devices,
        manifest.batch.target,
        manifest.noise.snapshots,
        manifest.program.d,
        claim_text(policy_of(task), as_if),
        None if as_if is None else as_if.devices,
        tuple(point_of(case, folder) for case, folder in zip(found, folders, strict=True)),
    )
    write_file(out / FILE, msgspec.json.format(msgspec.json.encode(measured)), 0o644)
    lines = lines_of(measured, folders)
    return [
        *lines,
        f"measured   {out / FILE}; tacit privacy --curve {out} reads it",
        *(f"picture    {picture}" for picture in draw(measured, lines, out)),
    ]


def cases(
    task: "Task", strategy: Strategy, sizes: Sizes, epsilons: Sequence[float], as_if: "Privacy | None"
) -> Iterator[Case]:
    """What is played: without noise first, then from the smallest ε to the largest."""
    privacy = policy_of(task)
    if strategy.plain or not strategy.noise:
        raise InputError(f"--epsilon: {strategy.label} adds no noise; name a strategy that does, such as tacit")
    if too_large := [one for one in epsilons if not claims(replace(privacy, epsilon=one, noise=None))]:
        raise InputError(f"--epsilon {too_large[0]:g} is not called privacy by anybody; ask for at most 10")
    bare = parse(f"{strategy.name}:without={'+'.join(sorted({*strategy.without, *WITHOUT_CLAIM}))}")
    smallest = replace(task, privacy=replace(privacy, epsilon=epsilons[0], noise=None))
    fitted = privacy_for(strategy, smallest, sizes)  # for a fleet of this size
    same = replace(sizes, batch=fitted.batch, updates=fitted.batch * fitted.snapshots)
    yield Case(None, replace(privacy, epsilon=None, noise=NO_NOISE, correlated=None), bare, same, "without-noise")
    for epsilon in epsilons:
        if as_if is None:
            yield Case(epsilon, replace(privacy, epsilon=epsilon, noise=None), strategy, same, f"epsilon-{epsilon:g}")
        else:
            noise = drawn_for_a_sum(as_if, epsilon) * fitted.batch / as_if.batch
            injected = replace(privacy, epsilon=None, noise=noise, correlated=None)
            yield Case(epsilon, injected, bare, same, f"epsilon-{epsilon:g}-as-if-{as_if.devices}-{as_if.batch}")


def elsewhere(privacy: "Privacy", text: str) -> "Privacy":
    """The Task's policy in a larger fleet: `1e6`, or `1e6/5000` for batches of 5,000.

    If nothing is said, batches are the Task's own, or 1,000 where those are smaller, as in a Task for simulations.

    >>> from tacit.task import Privacy
    >>> [elsewhere(Privacy(batch=10, threshold=5, snapshots=200), text).batch for text in ("1e6", "1e6/5000")]
    [1000, 5000]
    """
    from tacit.cli.privacy import counted, starves
    from tacit.task import Privacy

    devices, _, batch = text.partition("/")
    count = counted("--as-if-devices", devices, least=1)
    size = counted("--as-if-devices", batch, least=1) if batch else max(privacy.batch, Privacy.batch)
    there = replace(privacy, epsilon=None, noise=None, correlated=False, devices=count, batch=size, selected=None)
    if reason := starves(there):
        raise InputError(f"--as-if-devices {text}: {reason}")
    return there


def drawn_for_a_sum(privacy: "Privacy", epsilon: float) -> float:
    """What one keyholder draws for a sum, in units of one device's bound.

    >>> from tacit.task import Privacy
    >>> round(drawn_for_a_sum(Privacy(correlated=False), 4.0), 2)  # 1.3 times the root of four landings
    2.6
    """
    noise = replace(privacy, epsilon=epsilon, noise=None).numbers(1, 1).noise
    return noise.sigma * noise.sensitivity


def point_of(case: Case, folder: Folder) -> Point:
    """What a run came to, by its noise."""
    summary, plan = folder.summary(), parse_plan(folder.plan())
    value = summary.accuracy
    ratio = noise_to_signal(*_numbers(plan)) if case.epsilon is not None else 0.0
    return Point(case.epsilon, ratio, value, folder.settings().scenario.seed)


def _numbers(plan: Plan) -> tuple[Numbers, int, int]:
    manifest = plan.manifest
    numbers = Numbers(manifest.quantisation, manifest.batch, manifest.participation, manifest.noise)
    return numbers, manifest.program.d, len(manifest.keyholders)


def claim_text(privacy: "Privacy", as_if: "Privacy | None") -> str:
    """What each ε is said for.

    >>> from tacit.task import Privacy
    >>> claim_text(Privacy(), None).split(";")[0]
    "ε for each device at δ = 1e-07 over the Plan's whole life (one device's contributions replaced by zeros"
    """
    trust = Trust(privacy.claimed)
    relation = RELATIONS["zero-out"].format(unit="device")
    text = (
        f"ε for each device at δ = {privacy.delta:g} over the Plan's whole life ({relation}; "
        f"that it took part is not hidden). Trust: {trust}; it holds {holds_against(trust)}."
    )
    if as_if is None:
        return text
    return (
        f"Extrapolation, not what this fleet is promised: each mean has the noise that this takes in a fleet of "
        f"{as_if.devices:,} devices with batches of {as_if.batch:,}, as noise of its own for every sum. There, {text}"
    )


def lines_of(measured: Trade, folders: Sequence[Folder]) -> list[str]:
    """What people read."""
    rows = [["ε", measured.metric, "a mean", "the run"]]
    for point, folder in zip(measured.points, folders, strict=True):
        plan = parse_plan(folder.plan())
        mean = "-" if point.epsilon is None else f"{noise_of_a_mean(*_numbers(plan)):.3g}"
        rows.append([_epsilon(point), f"{point.value:.4f}", mean, f"{point.ratio:.3g}"])
    return [
        f"trade      {measured.task}: {measured.devices:,} devices, batches of {measured.batch:,}, "
        f"{measured.snapshots:,} Snapshots, {measured.values:,} values",
        f"privacy    {measured.claim}",
        *(f"{'':11}" + "".join(f"{cell:>12}" for cell in row) for row in rows),
        "           a mean, the run: noise of all keyholders over the signal of one step, and of all of them",
    ]


def draw(measured: Trade, lines: Sequence[str], out: Path) -> list[Path]:
    """trade.html with the lines, and trade.png; nothing where matplotlib is not installed."""
    import html
    import io

    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot as untyped

    pyplot: Any = untyped  # its own types are partly unknown
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    noisy = sorted((point.epsilon, point.value) for point in measured.points if point.epsilon is not None)
    axes.plot([epsilon for epsilon, _ in noisy], [value for _, value in noisy], "o-", color="C0", label="with noise")
    without = [point.value for point in measured.points if point.epsilon is None]
    if without:
        axes.axhline(sum(without) / len(without), color="0.4", ls="--", lw=1, label="without noise")
    axes.set_xscale("log", base=2)
    axes.set_xticks([epsilon for epsilon, _ in noisy], [f"{epsilon:g}" for epsilon, _ in noisy])
    low, high = axes.get_ylim()
    room = max(0.0, 0.1 - (high - low)) / 2  # a point more or less is no cliff
    axes.set(xlabel="ε", ylabel=measured.metric, ylim=(low - room, high + room))
    figure.supxlabel(textwrap.fill(measured.claim, 115), fontsize=7)
    kind = "as simulated" if measured.as_if_devices is None else f"extrapolation: noise of {measured.as_if_devices:,}"
    axes.set_title(f"{measured.task}, {measured.devices:,} devices, {kind}", fontsize=9)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    picture = io.StringIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    figure.savefig(out / "trade.png", dpi=120)
    pyplot.close(figure)
    svg = picture.getvalue()
    (out / "trade.html").write_text(
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>What ε costs</title>"
        "<meta name='viewport' content='width=device-width'><style>body{font-family:sans-serif;max-width:60em;"
        "margin:2em auto;padding:0 1em}svg{max-width:100%;height:auto}pre{overflow-x:auto}</style>"
        f"{svg[svg.index('<svg') :]}<pre>{html.escape(chr(10).join(lines))}</pre>\n",
        encoding="utf-8",
    )
    return [out / "trade.html", out / "trade.png"]


def _epsilon(point: Point) -> str:
    return "no noise" if point.epsilon is None else epsilon_text(point.epsilon)
