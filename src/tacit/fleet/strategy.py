"""Strategies: which parameters are trained, who is waited for, how much each Update counts; settings, and no code.

A strategy is a value. It changes a Task (what every device is asked) and a Scenario (how the run goes beside its Plan),
and the same fleet plays what comes out; so what differs between two runs is what differs between two values here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from tacit.errors import InputError
from tacit.fleet.settings import Scenario
from tacit.privacy.account import MEANINGLESS_ABOVE, epsilon_of_mu
from tacit.task import (
    MODEL,
    Budget,
    Label,
    Local,
    Privacy,
    Projected,
    Server,
    Task,
    TaskInvalid,
    fedavg,
    fedbuff,
    inverse,
    semi_async,
)

NEVER_BINDS = 100.0  # a clip longer than any delta that trains
NO_NOISE = 1e-7  # in units of one device's bound: a tenth of a step of the finest ring
ABOVE_MEDIAN = 4.0  # how far the Plan's clip lies above the median, where that is what binds
ABOVE_USUAL = 2.0  # the same where nothing is to bind and variance is weighed against the clip
MOST_LANDINGS = 4096
WAITS_FOR, BATCH = 50, 10  # Updates that FedAvg waits for; a batch
# Batches that make class sums. Of Fashion-MNIST's holdout a head knows 70 % from ten devices, 80 from twenty, 81.6 from
# fifty and 82.5 from a hundred: beyond fifty a fetched Plan buys less than a visit (bench/RESULTS.md).
SUMMED = 5
# Of a small fleet a quarter, since all who are asked fetch a Plan: of CIFAR-10's holdout a head knows 51 % from 25
# devices and 55 from 50, and 0.3 points less after 1,000 visits. But no fewer than twenty, or classes are missed.
SUMMED_SHARE, SUMMED_LEAST = 4, 20
ASKED = 1.15  # times as many devices are asked for class sums as make up the batch
PASSES = 20  # where all examples are in one place, or every device is alone
PATIENCE_S = 6 * 3600  # how long FedAvg waits for a device that does not answer

Who = Literal["wait", "drop", "buffer", "age", "central", "alone"]


class StrategyUnknown(InputError):
    """No such strategy, or no such ingredient."""


@dataclass(frozen=True)
class Strategy:
    """See `STRATEGIES`.

    who            a batch is: `wait` all who began, `drop` the first of more who began, `buffer` the next that come,
                   `age` the next that come, of which older ones count less; `central`: all examples are in one place;
                   `alone`: nobody hears of anybody
    trains         `every` parameter, the `named` ones (or what the planner chooses where none is named), or those
                   `parameters` that the planner finds best within the Task's budget, of those that are trained whole
    plain          float32 values up and down, neither masked nor rounded nor clipped; no claim
    backbone       from the weights that the Task's model brings; else from what its layers draw
    passes         over a device's examples in a visit, in units of the Task's own
    """

    name: str
    sentence: str
    who: Who
    trains: Literal["every", "named", "parameters"] = "every"
    plain: bool = True
    proximal: float = 0.0
    by_variance: bool = False
    balance: bool = False
    backbone: bool = True
    class_sums: bool = False
    keep: bool = False
    decay: bool = False
    median: bool = False
    average: float = 0.0
    replay: int = 0
    passes: int = 1
    noise: bool = False
    extra: float = 1.3  # how many times a batch begin, where the last are dropped
    at_work: float = 2.0  # times a batch, where nobody waits: with more of them Updates are older
    without: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How it is written, and found in reports.

        >>> parse("tacit:without=replay+average").label
        'tacit:without=average+replay'
        """
        return self.name + (":without=" + "+".join(self.without) if self.without else "")

    @property
    def slug(self) -> str:
        """The name of its folder.

        >>> parse("tacit:without=replay+average").slug
        'tacit-without-average-replay'
        """
        return "-".join([self.name, *(["without", *self.without] if self.without else [])])


_FEDAVG = Strategy("fedavg", "so many devices begin from one Snapshot, and a batch is all of them", "wait")
_FEDBUFF = Strategy("fedbuff", "a batch is the next Updates that come, from whatever Snapshot, all alike", "buffer")
STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {
        one.name: one
        for one in (
            replace(
                _FEDBUFF,
                name="tacit",
                sentence="the recipe: a small part of a public model, secret sums, all ingredients",
                who="age",
                trains="named",
                plain=False,
                balance=True,
                class_sums=True,
                keep=True,
                decay=True,
                median=True,
                average=0.8,
                replay=2,
                passes=2,
                noise=True,
            ),
            _FEDAVG,
            replace(
                _FEDAVG, name="fedavg-drop", sentence="more devices begin, a batch is the first of them", who="drop"
            ),
            replace(
                _FEDAVG,
                name="fedprox",
                sentence="as fedavg, and every local step is pulled back to where it began",
                proximal=0.01,
            ),
            _FEDBUFF,
            replace(
                _FEDBUFF,
                name="ftte",
                sentence="FTTE as published: the parameters that fit the memory, as they come, by age and variance",
                who="age",
                trains="parameters",
                by_variance=True,
            ),
            Strategy("central", "all examples in one place: what the others are measured against", "central"),
            Strategy("alone", "every device by itself, from the same start; the mean over devices", "alone"),
        )
    }
)

# What the recipe is made of, and what a strategy is without it.
INGREDIENTS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "backbone": (
            "it starts from what its layers draw, and not from public weights",
            {"backbone": False, "class_sums": False},
        ),
        "subset": ("every parameter is trained", {"trains": "every", "class_sums": False, "keep": False}),
        "async": ("a batch waits for all who began", {"who": "wait"}),
        "class-sums": ("a head starts from zero, or from what the Task says", {"class_sums": False}),
        "kept": ("the frozen prefix is computed anew at every visit", {"keep": False}),
        "balance": ("the local loss is not balanced", {"balance": False}),
        "decay": ("the learning rate does not fall", {"decay": False}),
        "clip": ("deltas are clipped to the Plan's own clip alone", {"median": False}),
        "age": ("an old Update counts as much as a new one", {"who": "buffer"}),
        "replay": ("the server trains on nothing", {"replay": 0}),
        "average": ("people get the newest Snapshot, and no average", {"average": 0.0}),
        "steps": ("a visit makes half as many local steps", {"passes": 1}),
        "noise": ("next to no noise", {"noise": False}),
        "sums": (
            "plain float32 values, neither masked, rounded nor clipped",
            {"plain": True, "noise": False, "median": False},
        ),
    }
)


def parse(text: str) -> Strategy:
    """A strategy by its name, without what is said to be left out.

    >>> parse("fedavg").who, parse("tacit:without=replay").replay
    ('wait', 0)
    """
    name, colon, rest = text.strip().partition(":")
    found = STRATEGIES.get(name)
    if found is None:
        raise StrategyUnknown(f"strategy {name!r}: there are {', '.join(STRATEGIES)}")
    if not colon:
        return found
    said = re.fullmatch(r"without=([a-z+-]+)", rest)
    if said is None:
        raise StrategyUnknown(f"strategy {text!r}: write what is left out as {name}:without=replay+average")
    return without(found, said[1].split("+"))


def without(strategy: Strategy, ingredients: Sequence[str]) -> Strategy:
    """The strategy with these left out."""
    for one in ingredients:
        if one not in INGREDIENTS:
            raise StrategyUnknown(f"ingredient {one!r}: there are {', '.join(INGREDIENTS)}")
    # In their own order, so that one strategy has one name.
    gone = tuple(one for one in sorted(INGREDIENTS) if one in {*strategy.without, *ingredients})
    changed = {name: value for one in gone for name, value in INGREDIENTS[one][1].items()}
    if "async" in gone:
        changed["who"] = "wait"
    for one in gone:
        if replace(strategy, **INGREDIENTS[one][1]) == strategy:
            raise StrategyUnknown(f"{strategy.name} has no {one} that could be left out")
    return replace(strategy, **changed, without=gone)


def parse_many(text: str, *, ablation: bool = False) -> list[Strategy]:
    """Strategies with commas between them; with `ablation` also each that has ingredients, without each of them.

    >>> [one.label for one in parse_many("tacit,fedbuff")]
    ['tacit', 'fedbuff']
    """
    named = list(dict.fromkeys(map(parse, text.split(","))))
    if not ablation:
        return named
    whole = [one for one in named if one.name == "tacit" and not one.without] or [STRATEGIES["tacit"]]
    left = [without(one, [ingredient]) for one in whole for ingredient in INGREDIENTS]
    return list(dict.fromkeys([*named, *whole, *left]))


@dataclass(frozen=True)
class Sizes:
    """How large one strategy's run is; None: as the strategy or the Task has it.

    devices    in the fleet
    updates    in Snapshots when the run is over; a pass over all examples where they are in one place
    batch      Updates in a Snapshot
    at_work    devices at work at once at most, where nobody waits
    rate       the learning rate
    epochs     passes over a device's examples in a visit
    clip       the Plan's clip
    """

    devices: int
    updates: int
    batch: int | None = None
    at_work: int | None = None
    rate: float | None = None
    epochs: int | None = None
    clip: float | None = None


def batch_of(strategy: Strategy, sizes: Sizes) -> int:
    """Updates in a Snapshot, for a fleet of this size: a thousandth of a very large one, a tenth of a small one.

    >>> [batch_of(STRATEGIES[name], Sizes(devices, 100)) for name in ("fedavg", "tacit") for devices in (500, 60, 4)]
    [50, 6, 2, 10, 6, 2]
    >>> batch_of(STRATEGIES["tacit"], Sizes(1_000_000, 100))
    1000
    """
    if strategy.who in ("central", "alone"):
        return 1
    usual = max(WAITS_FOR if strategy.who in ("wait", "drop") else BATCH, sizes.devices // 1000)
    batch = sizes.batch if sizes.batch is not None else min(usual, max(2, sizes.devices // 10))
    if not 1 <= batch <= sizes.devices:
        raise InputError(
            f"{strategy.label}: a batch of {batch:,} waits for more devices than the {sizes.devices:,} that there are; "
            "say --batch or more --devices"
        )
    return batch


def snapshots_of(strategy: Strategy, sizes: Sizes) -> int:
    """How many there are until as many Updates as were asked for are in them."""
    return max(1, -(-sizes.updates // batch_of(strategy, sizes)))


def claims(privacy: Privacy) -> bool:
    """Whether a Plan of this policy claims an ε that means something.

    >>> claims(Privacy(epsilon=8)), claims(Privacy(noise=0.01, batch=4, devices=12))
    (True, False)
    """
    if privacy.noise is None:
        return (privacy.epsilon or 8.0) <= MEANINGLESS_ABOVE
    noise = privacy.numbers(1000, 1).noise
    return epsilon_of_mu(noise.mu2_total**0.5, noise.delta) <= MEANINGLESS_ABOVE


def claimed(strategy: Strategy, task: Task) -> Privacy | None:
    """The Task's policy where a run of this strategy keeps its claim; then it stands as the Task has it."""
    if strategy.plain or not strategy.noise:
        return None
    privacy = policy_of(task)
    return privacy if claims(privacy) else None


def policy_of(task: Task) -> Privacy:
    """The Task's; a site that adds its noise itself is nothing that a fleet plays."""
    if not isinstance(task.privacy, Privacy):
        raise TaskInvalid(
            "privacy",
            type(task.privacy).__name__,
            "a fleet plays devices whose keyholders add the noise",
            "write privacy=tacit.Privacy(...) for the simulation",
        )
    return task.privacy


def task_for(strategy: Strategy, task: Task, sizes: Sizes, parameters: Sequence[str]) -> Task:
    """What every device is asked. `parameters`: the names of all that the model has.

    Where the Task names no subset, the planner has chosen one before: here it stands as `task.subset`.
    """
    privacy, server, subset = privacy_for(strategy, task, sizes), task.server, task.subset
    if strategy.trains == "every":
        subset = list(parameters)
    if strategy.plain and strategy.name != "tacit":
        server = Server()
    return replace(
        task,
        local=local_for(strategy, task, sizes),
        budget=task.budget if strategy.trains == "named" and not strategy.plain else lifted(task.budget),
        privacy=privacy,
        subset=subset,
        precision=None if strategy.trains == "every" else task.precision,
        recompute=task.recompute and strategy.trains != "every",
        server=replace(server, average=strategy.average),
    )


def local_for(strategy: Strategy, task: Task, sizes: Sizes) -> Local:
    """What one visit does."""
    local, optimizer = task.local, task.local.optimizer
    if sizes.rate is not None:
        optimizer = replace(optimizer, rate=sizes.rate, schedule=None)
    if strategy.decay and optimizer.decay == 1 and optimizer.schedule is None:
        optimizer = replace(optimizer, schedule=inverse(max(1, snapshots_of(strategy, sizes) // 2)))
    elif "decay" in strategy.without:
        optimizer = replace(optimizer, decay=1.0, schedule=None)
    if strategy.who == "central":
        epochs = 1  # an Update is a pass
    else:
        epochs = sizes.epochs if sizes.epochs is not None else local.epochs * strategy.passes
    return replace(
        local,
        epochs=epochs,
        balance=strategy.balance and balances(task),
        optimizer=optimizer,
        proximal=max(strategy.proximal, local.proximal) if strategy.proximal else 0.0,
        variance_weight=strategy.by_variance or (local.variance_weight and not strategy.plain),
    )


def balances(task: Task) -> bool:
    """Whether a balanced loss is sure to be possible: a head of classes, whose bias is trained."""
    label = task.label[1]
    heads = isinstance(label, Label) and label.shape == () and task.loss_named.name == "cross_entropy"
    return task.local.balance or (heads and any(isinstance(part, Projected) for part in task.subset or ()))


def privacy_for(strategy: Strategy, task: Task, sizes: Sizes) -> Privacy:
    """Who is waited for, and what is claimed."""
    batch, snapshots, own = batch_of(strategy, sizes), snapshots_of(strategy, sizes), policy_of(task)
    stands = claimed(strategy, task)
    if stands is not None:
        return _claimed(strategy, stands, sizes)
    ages = max(own.max_age, 16)
    match strategy.who:
        case "wait":
            batching = fedavg(batch)
        case "drop":
            # Never all of them: then it would wait as fedavg does.
            more = min(sizes.devices, max(batch + 1, round(strategy.extra * batch)))
            batching = fedavg(batch, selected=max(batch, more))
        case "buffer":
            batching = fedbuff(batch, ages)
        case "age":
            batching = semi_async(batch, max_age=ages)
        case "central" | "alone":
            batching = fedbuff(batch, 0)
    noise = own.noise if strategy.noise and own.noise is not None else NO_NOISE
    if strategy.median:
        noise /= ABOVE_MEDIAN  # as much of the median as the Task has it of its clip
    clip = sizes.clip or (NEVER_BINDS if strategy.plain else own.clip)
    return Privacy(
        noise=noise,
        clip=float(clip),
        devices=sizes.devices,
        snapshots=snapshots,
        participations=min(MOST_LANDINGS, snapshots),
        delta=own.delta,
        place_seconds=PATIENCE_S,
        **batching,
    )


def _claimed(strategy: Strategy, privacy: Privacy, sizes: Sizes) -> Privacy:
    """The Task's own, for a fleet of this size: ε stands, and the numbers follow from the devices that there are."""
    batch = sizes.batch or privacy.batch
    threshold = privacy.threshold if sizes.batch is None else None
    least = threshold if threshold is not None else min(batch, max(10, batch // 2))
    if least * privacy.groups > sizes.devices or batch > sizes.devices:
        raise InputError(
            f"{strategy.label}: a batch of {batch:,} (and no fewer than {least:,}) waits for more devices than the "
            f"{sizes.devices:,} that there are; simulate more of them with --devices, or smaller batches with --batch"
        )
    # More landings than devices have to give would never come.
    most = sizes.devices * privacy.participations // batch
    snapshots = min(max(1, -(-sizes.updates // batch)), privacy.snapshots, most)
    snapshots = max(privacy.groups, snapshots - snapshots % privacy.groups)
    return replace(
        privacy,
        devices=sizes.devices,
        batch=batch,
        threshold=threshold,
        snapshots=snapshots,
        participations=min(privacy.participations, snapshots),
        selected=None if privacy.selected is None or strategy.who != "wait" else max(batch, privacy.selected),
        weights="equal" if strategy.who in ("buffer", "wait") else privacy.weights,
        clip=float(sizes.clip or privacy.clip),
    )


def lifted(budget: Budget) -> Budget:
    """Without limits."""
    return Budget(
        memory=1 << 45,
        upload=1 << 40,
        storage=1 << 45,
        seconds=10**7,
        devices=budget.devices,
        examples=budget.examples,
    )


def scenario_for(strategy: Strategy, task: Task, sizes: Sizes, common: Scenario) -> Scenario:
    """How the run goes beside its Plan; `common` is what the run asks of every strategy."""
    claim = claimed(strategy, task)
    if claim is not None and common.trigger is not None:
        raise InputError(
            f"{strategy.label}: this Plan claims an ε, and when its devices send may not depend on their data; leave "
            "--trigger out, or simulate the Task without its claim (tacit:without=noise)"
        )
    at_work = sizes.at_work
    if at_work is None and strategy.who in ("buffer", "age"):
        batch = batch_of(strategy, sizes) if claim is None else privacy_for(strategy, task, sizes).batch
        at_work = max(batch, round(strategy.at_work * batch))
    return msgspec.structs.replace(
        common,
        strategy=strategy.label,
        at_work=at_work,
        counted=_counted(strategy),
        keep=strategy.keep,
        clip="median" if strategy.median and claim is None else "plan",
        replay=strategy.replay if task.public is not None and common.training == "engine" else 0,
        masking="counted" if strategy.plain else common.masking,
    )


def _counted(strategy: Strategy) -> Literal["messages", "float32", "nothing"]:
    if strategy.who in ("central", "alone"):
        return "nothing"
    return "float32" if strategy.plain else "messages"


def starts_by_sums(strategy: Strategy, task: Task) -> bool:
    """Whether devices are asked for class sums before anything is trained. `task` names its subset.

    Not where the head begins as what the model answers, nor where the Plan claims an ε: the sums would spend more of
    it, and under noise they tell little.
    """
    label = task.label[1]
    head = any(isinstance(part, Projected) and part.start != MODEL for part in task.subset or ())
    classes = isinstance(label, Label) and label.shape == ()
    return strategy.class_sums and head and classes and claimed(strategy, task) is None


def summed(devices: int, batch: int) -> int:
    """How many of a fleet make class sums, where a batch is so large: never all, so that nobody waits for the last.

    >>> summed(500, 10), summed(100, 10), summed(20, 2), summed(1_000_000, 1_000)
    (50, 25, 10, 5000)
    """
    enough = min(max(SUMMED_LEAST, devices // SUMMED_SHARE), devices // 2)
    return min(max(batch, enough), SUMMED * batch)


def asking_privacy(strategy: Strategy, task: Task, sizes: Sizes) -> Privacy:
    """One batch of class sums."""
    batch = summed(sizes.devices, batch_of(strategy, sizes))
    return Privacy(
        noise=policy_of(task).noise or NO_NOISE,
        devices=sizes.devices,
        snapshots=1,
        participations=1,
        delta=policy_of(task).delta,
        # Each that begins fetches a Plan: no more of them than make up for those who never answer.
        place_seconds=PATIENCE_S,
        **fedavg(batch, selected=min(sizes.devices, round(ASKED * batch))),
    )
