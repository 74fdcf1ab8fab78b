"""`tacit simulate`: a Task on a fleet of devices that are played in virtual time, by one strategy or several."""

import argparse
import hashlib
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tacit.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tacit.cli.simulating import Stage
    from tacit.device.examples import Examples
    from tacit.fleet.availability import Availability
    from tacit.fleet.folder import Folder
    from tacit.fleet.run import World
    from tacit.fleet.settings import Scenario
    from tacit.fleet.split import Shares
    from tacit.fleet.strategy import Sizes, Strategy
    from tacit.plan.profile import Profile, RadioName
    from tacit.task import Task

EXAMPLE = """\
example:
  python examples/photos/data.py photos.npz
  tacit simulate examples/photos/task.py --data photos.npz --split dirichlet:0.5 --devices 500 --stragglers 0.9 \\
                 --strategy tacit,fedbuff,fedavg
  tacit simulate mine.py --data mine.npz --strategy tacit --ablation
  tacit simulate mine.py --data mine.npz --strategy fedavg,tacit --rate fedavg=0.05,tacit=0.5 --target 0.8
  tacit simulate mine.py --devices 1e6 --training none --days 3 --availability daynight

Each strategy is played in a folder of its own within --out. The same command goes on with what was stopped, and leaves
alone what is done. What comes from --seed comes again with the same seed, byte for byte.
"""
DEVICES, UPDATES, POINTS = "100", 1000, 100
OPENING, DAY = 0.1, 86_400.0
BY_STRATEGY = "a number for all strategies, or fedavg=50,tacit=10"

_Number = TypeVar("_Number", int, float)


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("task", type=Path, help="a Python file with one `task = tacit.Task(...)`")
    data = parser.add_argument_group("examples")
    data.add_argument("--data", type=Path, help="an .npz, a .csv or a folder of .npz, as `tacit join` takes it")
    data.add_argument("--test", default="0.1", help="what is judged on: a file, or a share of DATA (default: 0.1)")
    data.add_argument(
        "--split",
        default="iid",
        help="iid (default), dirichlet:ALPHA, classes:HOW_MANY, quantity:SIGMA, natural:FIELD, file:WHO.csv",
    )
    fleet = parser.add_argument_group("devices")
    fleet.add_argument("--devices", metavar="N", help=f"how many, such as 500 or 1e6 (default: {DEVICES})")
    fleet.add_argument("--mix", help="profiles and shares, such as phone-mid=0.6,pi-4b=0.4 (default: everyday devices)")
    fleet.add_argument("--stragglers", default="0", help="the share of slow ones: 0.9, or 0.9:5-20 (default: 0)")
    fleet.add_argument("--links", default="profile", help="profile (default), lte:SHARE, or a file of throughputs")
    fleet.add_argument("--availability", help="always (default), daynight, or a file of windows")
    fleet.add_argument("--devices-from", type=Path, metavar="FILE", help="real devices: speed, links and windows")
    fleet.add_argument("--dropout", type=float, default=0.0, help="the share of visits that end half-way (default: 0)")
    fleet.add_argument("--loss", type=float, default=0.0, help="the share of transfers that break off (default: 0)")
    how = parser.add_argument_group("how it is trained")
    how.add_argument("--strategy", default="tacit", help="one or several, with commas (docs/reference/strategies.md)")
    how.add_argument("--ablation", action="store_true", help="also tacit without each of its ingredients")
    how.add_argument("--batch", help=f"Updates in a Snapshot: {BY_STRATEGY}")
    how.add_argument("--at-work", help=f"devices at work at once, at most: {BY_STRATEGY}")
    how.add_argument(
        "--rate", help=f"the learning rate (default: the Task's; of baselines, the best in a trial): {BY_STRATEGY}"
    )
    how.add_argument("--epochs", help=f"passes over a device's examples in a visit: {BY_STRATEGY}")
    how.add_argument("--clip", help=f"the Plan's clip: {BY_STRATEGY}")
    how.add_argument("--trigger", type=float, metavar="SHARE", help="send a delta when it is SHARE of the clip long")
    how.add_argument("--carried", type=int, default=8, help="visits after which it is sent all the same (default: 8)")
    how.add_argument("--masking", choices=["counted", "real"], default="counted", help="(default: counted)")
    how.add_argument("--training", choices=["engine", "none"], default="engine", help="none: deltas are drawn")
    how.add_argument("--epsilon", metavar="E[,E…]", help="instead of the Task's own; several: each, and without noise")
    how.add_argument("--as-if-devices", metavar="N[/BATCH]", help="with the noise of so large a fleet")
    ends = parser.add_argument_group("when it ends")
    ends.add_argument(
        "--updates",
        help=f"in Snapshots; passes, for central and alone (default: {UPDATES}, with --days 3 a device): {BY_STRATEGY}",
    )
    ends.add_argument("--days", type=float, help="of virtual time")
    ends.add_argument("--target", type=float, help="when so large a share of answers is right, such as 0.8")
    clock = parser.add_argument_group("the coordinator")
    clock.add_argument(
        "--deadline", type=float, default=600.0, metavar="SECONDS", help="a batch closes with fewer (600)"
    )
    clock.add_argument("--opening", type=float, metavar="SECONDS", help="from a full batch to a Snapshot (0.1)")
    clock.add_argument("--poll", type=float, default=0.0, metavar="S", help="between looks (default: 0)")
    parser.add_argument("--judged", type=int, default=1000, help="test examples at every point (default: 1000)")
    parser.add_argument("--every", type=int, help=f"Snapshots between points (default: about {POINTS} points a run)")
    parser.add_argument("--seed", type=int, default=0, help="what is random comes from it (default: 0)")
    parser.add_argument("--workers", type=int, default=0, help="threads that train (default: one a core)")
    parser.add_argument("--no-pictures", action="store_true", help="reports without .png and pictures of the fleet")
    parser.add_argument("--out", type=Path, help="where it goes (default: build/simulate/ and what is simulated)")


def run(arguments: argparse.Namespace) -> None:
    from tacit.cli import trade
    from tacit.fleet.strategy import parse_many

    strategies = parse_many(arguments.strategy, ablation=arguments.ablation)
    devices = count_of("--devices", arguments.devices or DEVICES)
    sizes = {one: sizes_of(one, devices, arguments) for one in strategies}
    scenarios = {one: scenario_of(one, sizes[one], arguments) for one in strategies}
    out = arguments.out or Path("build/simulate") / name_of(arguments, devices)
    _say(f"loading {arguments.task} …")
    from tacit.compiler.load import load_task

    stage = stage_of(trade.under(load_task(arguments.task), arguments), devices, arguments)
    folders: list[Folder] = []
    pictures: dict[str, bytes] | None = None if arguments.no_pictures else {}

    def play(task: "Task", strategy: "Strategy", sizes: "Sizes", path: Path) -> "Folder":
        common = scenario_of(strategy, sizes, arguments)
        return _played(strategy, sizes, common, replace(stage, task=task), arguments, path, pictures)

    try:
        if trade.is_trade(arguments):
            print("\n".join(trade.trade(stage.task, strategies, sizes[strategies[0]], arguments, out, play)))
            return
        for one in strategies:
            folders.append(_played(one, sizes[one], scenarios[one], stage, arguments, out, pictures))
    except KeyboardInterrupt:
        _say(f"stopped; the same command goes on, in {out}")
        raise
    print(finished(folders, out))


def _played(
    strategy: "Strategy",
    sizes: "Sizes",
    common: "Scenario",
    stage: "Stage",
    arguments: argparse.Namespace,
    out: Path,
    pictures: dict[str, bytes] | None,
) -> "Folder":
    """One strategy's run, whether it begins, goes on or is over."""
    from tacit.cli.simulating import prepared
    from tacit.fleet.alone import alone
    from tacit.fleet.folder import Folder
    from tacit.fleet.report.progress import Line
    from tacit.fleet.run import play

    folder, told = Folder(out / strategy.slug), told_of(strategy, stage, arguments)
    if folder.is_over and folder.settings().told == told:
        _say(f"{strategy.label} is done: {folder.path}")
        return folder
    sizes = replace(sizes, devices=len(stage.population))
    world, scenario = prepared(strategy, stage, sizes, common, out / "starts" / strategy.slug, _say)
    line = Line(strategy.label)
    try:
        (alone if strategy.who == "alone" else play)(world, scenario, folder, told, workers=arguments.workers, say=line)
    finally:
        line.close()
    beside(folder, world, scenario, stage, pictures)
    return folder


def stage_of(task: "Task", devices: int, arguments: argparse.Namespace) -> "Stage":
    """The devices, and who has which examples."""
    from tacit.cli.simulating import Stage
    from tacit.fleet.availability import Traced, parse_availability
    from tacit.fleet.population import EVERYDAY, parse_links, parse_mix, parse_stragglers, populate
    from tacit.fleet.traces import read_traces

    seed = arguments.seed
    examples, test, shares = _examples(task, devices, arguments)
    trace: Path | None = arguments.devices_from
    traces = None if trace is None else read_traces(trace)
    population = populate(
        len(shares),
        seed,
        mix=EVERYDAY if arguments.mix is None else parse_mix(arguments.mix),
        stragglers=parse_stragglers(arguments.stragglers),
        links=parse_links(arguments.links),
        traces=traces,
    )
    if arguments.availability is None and trace is not None and traces is not None and traces.intervals is not None:
        availability: Availability = Traced(traces.intervals, seed, trace.name)
    else:
        availability = parse_availability(arguments.availability or "always", seed)
    return Stage(task, seed, population, availability, shares, examples, test, task.budget.examples)


def _examples(
    task: "Task", devices: int, arguments: argparse.Namespace
) -> "tuple[Examples | None, Examples | None, Shares]":
    from tacit.cli.simulating import fields_of
    from tacit.device.examples import read_examples
    from tacit.fleet.split import Natural, Shares, deal, held_out, parse_split

    if arguments.training == "none":
        if arguments.data is not None or arguments.target is not None:
            raise InputError("--training none draws deltas: it needs no --data and reaches no --target")
        return None, None, Shares(np.zeros(0, np.int64), np.zeros(devices + 1, np.int64))
    if arguments.data is None:
        raise InputError("--data names what the devices have; or leave training out with --training none")
    inputs, label, weight = fields_of(task)
    examples, split = read_examples(arguments.data, inputs, label, weight), parse_split(arguments.split)
    clients = _column(arguments.data, split.field, len(examples)) if isinstance(split, Natural) else None
    try:
        share = float(arguments.test)
    except ValueError:
        test = read_examples(Path(arguments.test), inputs, label, weight)
    else:
        if not 0 < share < 1:
            raise InputError(f"--test {arguments.test}: a share of the data between 0 and 1, or a file")
        kept, held = held_out(len(examples), share, arguments.seed)
        examples, test = examples.take(kept), examples.take(held)
        clients = None if clients is None else clients[kept]
    shares = deal(examples.labels, devices, split, arguments.seed, clients)
    if shares.note:
        _say(shares.note)
    return examples, test, shares


def _column(path: Path, field: str, count: int) -> "NDArray[Any] | None":
    """Whose each example is, if the file says so."""
    if path.suffix != ".npz":
        raise InputError(f"--split natural:{field}: an .npz says whose each example is, and {path} is none")
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[field] if field in arrays.files else None


def sizes_of(strategy: "Strategy", devices: int, arguments: argparse.Namespace) -> "Sizes":
    """How large this strategy's run is."""
    from tacit.fleet.strategy import PASSES, Sizes

    def of(option: str, kind: Callable[[str, str], _Number]) -> _Number | None:
        return by_strategy(f"--{option.replace('_', '-')}", getattr(arguments, option), kind).get(strategy.name)

    if strategy.who in ("central", "alone"):
        # An Update is a pass there: a number for all is not meant for them.
        updates = of("updates", count_of) if "=" in (arguments.updates or "") else None
        updates = updates or PASSES
    else:
        # Where days end a run, Updates do not: as many as a Task lets its devices make by default.
        updates = of("updates", count_of) or (UPDATES if arguments.days is None else max(UPDATES, 3 * devices))
    return Sizes(
        devices,
        updates,
        of("batch", count_of),
        of("at_work", count_of),
        of("rate", positive),
        of("epochs", count_of),
        of("clip", positive),
    )


def scenario_of(strategy: "Strategy", sizes: "Sizes", arguments: argparse.Namespace) -> "Scenario":
    """What is asked of every strategy alike; ScenarioWrong names what cannot be."""
    import msgspec

    from tacit.fleet.settings import Scenario
    from tacit.fleet.strategy import snapshots_of

    snapshots = snapshots_of(strategy, sizes)
    names = ("seed", "days", "target", "deadline", "poll", "dropout", "loss", "masking", "training")
    asked = {name: getattr(arguments, name) for name in (*names, "judged", "trigger", "carried")}
    every, opening = arguments.every or max(1, snapshots // POINTS), arguments.opening
    if opening is None:
        # Without training a run is about when devices come: its Snapshots are spread over the days that are asked for.
        opening = (
            OPENING if arguments.training == "engine" or arguments.days is None else arguments.days * DAY / snapshots
        )
    try:
        return msgspec.convert({"strategy": strategy.label, "every": every, "opening": opening, **asked}, Scenario)
    except msgspec.ValidationError as error:
        raise InputError(f"this cannot be asked of a run: {error}") from error


def by_strategy(option: str, text: str | None, kind: Callable[[str, str], _Number]) -> Mapping[str, _Number]:
    """A number for each strategy that one was said for.

    >>> by_strategy("--batch", "fedavg=50,tacit=1e1", count_of)
    {'fedavg': 50, 'tacit': 10}
    >>> len(by_strategy("--rate", "0.1", positive)) == len(by_strategy("--batch", "8", count_of)) > 5
    True
    """
    from tacit.fleet.strategy import STRATEGIES

    if text is None:
        return {}
    if "=" not in text:
        return dict.fromkeys(STRATEGIES, kind(option, text))
    found: dict[str, _Number] = {}
    for part in text.split(","):
        name, equals, value = (one.strip() for one in part.partition("="))
        if name not in STRATEGIES or not equals or name in found:
            raise InputError(f"{option} {text}: {BY_STRATEGY}; strategies are {', '.join(STRATEGIES)}")
        found[name] = kind(option, value)
    return found


def count_of(option: str, text: str) -> int:
    """A whole number of at least 1, as people write large ones.

    >>> count_of("--devices", "1e6"), count_of("--devices", "1_000")
    (1000000, 1000)
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1 <= value < 2**31 or value != int(value):
        raise InputError(f"{option} {text}: a whole number of at least 1 is needed, such as 500 or 1e6")
    return int(value)


def positive(option: str, text: str) -> float:
    """A number above 0.

    >>> positive("--rate", "0.05")
    0.05
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"{option} {text}: a number above 0 is needed, such as 0.05")
    return value


def name_of(arguments: argparse.Namespace, devices: int) -> str:
    """The name of a folder for this.

    >>> import argparse
    >>> name_of(argparse.Namespace(task=Path("a/photos/task.py"), split="dirichlet:0.5", seed=1), 500)
    'photos-500-dirichlet-0.5-seed-1'
    """
    task = arguments.task.stem if arguments.task.stem != "task" else arguments.task.resolve().parent.name
    words = f"{task}-{devices}-{arguments.split}-seed-{arguments.seed}"
    return re.sub(r"[^A-Za-z0-9.]+", "-", words).strip("-.")


# What makes one run another: these are told as they were said. Of the last ones only what concerns a strategy.
_TOLD = ("split", "mix", "stragglers", "links", "availability", "test")
_TOLD_OF_ONE = ("batch", "at_work", "rate", "epochs", "clip", "updates")


def told_of(strategy: "Strategy", stage: "Stage", arguments: argparse.Namespace) -> dict[str, str]:
    """What people are told of a run's settings, beside its Scenario and its Plan."""
    told = {"task": f"{arguments.task} {hashlib.sha256(arguments.task.read_bytes()).hexdigest()[:16]}"}
    if stage.examples is not None and stage.test is not None:
        told["data"] = f"{arguments.data} {(stage.examples.digest() + stage.test.digest()).hex()[:16]}"
    told["devices"] = f"{len(stage.population):,}"
    told |= {name: str(value) for name in _TOLD if (value := getattr(arguments, name)) is not None}
    if arguments.devices_from is not None:
        told["devices from"] = str(arguments.devices_from)
    for name in _TOLD_OF_ONE:
        said = by_strategy(name, getattr(arguments, name), positive).get(strategy.name)
        if said is not None:
            told[name.replace("_", " ")] = f"{said:g}"
    if arguments.epsilon is not None:
        noise = {name: getattr(stage.task.privacy, name) for name in ("epsilon", "noise")}
        told |= {name: f"{value:g}" for name, value in noise.items() if value is not None}
    return told


def beside(
    folder: "Folder", world: "World", scenario: "Scenario", stage: "Stage", pictures: dict[str, bytes] | None
) -> None:
    """The report of a run, with its pictures; without, where `pictures` is None. It holds what was drawn already."""
    from tacit.fleet.report.page import write

    _write_costs(folder, world, scenario)
    if pictures is not None and world.population is stage.population:
        _draw(folder, world, stage, pictures)
    write(folder, pictures=pictures is not None)


def _write_costs(folder: "Folder", world: "World", scenario: "Scenario") -> None:
    """devices.json: what a visit costs on each profile, at its own speed."""
    import msgspec

    from tacit.durable import write_file
    from tacit.plan.estimate import estimate, visit_of

    sizes = world.shares.sizes
    examples = int(np.median(sizes[sizes > 0])) if (sizes > 0).any() else world.per_device
    visit, counts = visit_of(world.plan, examples), np.bincount(world.population.profile)
    lines: list[dict[str, Any]] = []
    for profile, count in zip(world.population.profiles, counts.tolist(), strict=False):
        cost = estimate(visit, profile, _radio_of(profile), (1 << 62) if scenario.keep else 0)
        lines.append(
            {
                "profile": profile.name,
                "count": count,
                "seconds": cost.seconds,
                "joules": cost.joules,
                "training_bytes": cost.training_bytes,
                "process_bytes": cost.process_bytes,
                "fits": not cost.fits,
            }
        )
    write_file(folder.path / "devices.json", msgspec.json.format(msgspec.json.encode(lines)), 0o644)


def _radio_of(profile: "Profile") -> "RadioName":
    return "wifi" if "wifi" in profile.radios else "lte" if "lte" in profile.radios else "none"


def _draw(folder: "Folder", world: "World", stage: "Stage", drawn_already: dict[str, bytes]) -> None:
    """Who has what, and who the devices are: the same for all strategies. Nothing where matplotlib is not installed."""
    from tacit.durable import write_file
    from tacit.fleet.population import drawn_population
    from tacit.fleet.report.png import can_draw
    from tacit.fleet.split import drawn
    from tacit.task import Label

    split, population = folder.path / "split.svg", folder.path / "population.svg"
    for name, picture in drawn_already.items():
        write_file(folder.path / name, picture, 0o644)
    if drawn_already:
        return
    if not can_draw():
        _say("no pictures: they need matplotlib (the extra `simulate`)")
        return
    if world.examples is not None:
        label = stage.task.label[1]
        classes = label.classes if isinstance(label, Label) else 0
        drawn(world.shares, world.examples.labels, classes, split)
    drawn_population(world.population, world.availability, population)
    drawn_already |= {one.name: one.read_bytes() for one in (split, population) if one.exists()}


def finished(folders: "Sequence[Folder]", out: Path) -> str:
    """The comparison: a table, and where the pages are."""
    from tacit.fleet.report.compared import compare, table_text, write

    compared = compare(folders)
    page = out / "compare.html" if len(folders) > 1 else folders[0].path / "report.html"
    if len(folders) > 1:
        write(compared, page)
    return f"{table_text(compared)}\n\nreport     {page}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
