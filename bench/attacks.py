"""Attackers among the devices: what they cost with defences and without, side by side.

A linear head is trained on frozen features: Fashion-MNIST behind a backbone that was pre-trained on public images of
every other class (data from TACIT_DATA), else the pixels of scikit-learn's digits. One device in five is an attacker
and sends the worst it can at full length, the clip: its own delta turned round, noise, a delta learnt from wrong
labels, or one learnt from images with a patch that all bear one label (a backdoor). `in concert` the attackers share
what they have and all send the same. Beyond the clip, which masks cannot see, one device in a hundred, and one in
five, sends as much as the gate lets through half of the time (86 times the clip), or what of that a group's bound does
not show; and one in a hundred uniform words.

Defences are those of a Plan: a clip near the length of a visit late in a run, the bound on a mean (`bounds`), groups
with a robust mean, and what is published only after its check (`published`). Without them: a clip ten times as
long, one group, its plain mean, no bound, and every Snapshot is published. The server's rate is for each clip the one
of a ladder that is best on held-out images without attackers.

Clipping, rounding, bounds, robust means, applying and publishing are the product's own functions. Masks are left out:
they cancel exactly (tests/privacy). Visits are worked out by numpy and held against the engine's. Noise is that of a
Plan without ε: too little to matter here; what groups cost in noise is computed (docs/explanation/resistance.md).
Losses are in points of test accuracy, against the better of both clips without attackers.

`--svg FILE` writes the picture.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from choice.backbone import HALF
from choice.data import CLASSES, FASHION, HOLDOUT, OWN, PROXIES, NoData
from choice.settings import setting
from harness import Row, run, say
from numpy.typing import NDArray
from torch import nn

from tacit.codec.quantise import inner_bound, quantise
from tacit.compiler.compile import compile_program
from tacit.coordinator.applying import SumBroken, apply_mean, bounded_mean, mean_of, round_mean
from tacit.coordinator.published import Publish, Published, RollBack, Rule, Verdict, judge, rolled_back
from tacit.engine.player import Player
from tacit.plan.bundle import build_plan, decode_snapshot, encode_snapshot, parse_plan, playable_blobs
from tacit.plan.manifest import (
    FORMAT,
    Alike,
    BatchRule,
    Bounded,
    Charter,
    Geometric,
    KeyholderCard,
    Limits,
    LocalTraining,
    Manifest,
    Median,
    Noise,
    Participation,
    Plain,
    Quantisation,
    Robust,
    Trimmed,
)
from tacit.plan.program import Optimizer, Playable
from tacit.plan.server import Server
from tacit.privacy.clip import clip
from tacit.wire.ids import key_id
from tacit.wire.keys import SealingKey, SigningKey

Values = NDArray[np.float32]
BIG_Q, BITS = 512, 24
EPOCHS, LOCAL_RATE = 4, 0.1
LATE = 0.1 / 0.28  # the clip of a defended Plan, of the length of a public visit at first: about that of late visits
LOOSE = 10  # times as long where nothing is defended
RATES = (1.0, 2.0, 4.0, 8.0)
TARGET_CLASS = 0  # of the backdoor
AT_GATE = 86.0  # clips: the push that passes a gate of z = 8 and one keyholder half of the time
ALLOWED = 2.0  # points

Attack = Literal[
    "none", "sign flip", "sign flip in concert", "noise", "wrong labels", "wrong labels in concert", "backdoor",
    "backdoor in concert", "at the gate's limit", "uniform words",
]  # fmt: skip
WITHIN: tuple[Attack, ...] = (
    "sign flip", "noise", "wrong labels", "backdoor", "sign flip in concert", "wrong labels in concert",
    "backdoor in concert",
)  # fmt: skip
ALONE = WITHIN[:4]  # each by itself: what the goal is about
BACKDOORS = ("backdoor", "backdoor in concert")


@dataclass(frozen=True)
class Rules:
    """How a run goes."""

    crowd: int  # Updates in a round, in however many groups
    rounds: int
    images: int  # of a device
    seeds: int
    every: int  # rounds between two checks


@dataclass(frozen=True, eq=False)
class Images:
    """As features: plain, with the patch, and what they are."""

    plain: Values
    patched: Values
    labels: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Crowd:
    name: str
    rules: Rules
    playable: Playable
    own: Images
    shares: NDArray[np.integer]  # a row of images for each device
    public: Values
    public_labels: NDArray[np.int32]
    held_out: Images
    test: Images


def fashion(rules: Rules, say: Callable[[str], None]) -> Crowd:
    """Features behind the convolutions of the backbone."""
    parts = FASHION.parts()
    layers = list(setting(FASHION, HALF, parts, say).module().named_children())
    end = 1 + [name for name, _ in layers].index("relu3")
    body = nn.Sequential(OrderedDict([*layers[:end], ("pool", nn.AvgPool2d(2)), ("flat", nn.Flatten())]))

    def features(x: Values) -> Values:
        with torch.no_grad():
            return np.concatenate([body(part).numpy() for part in torch.from_numpy(x).split(1000)])

    def images(x: Values, y: NDArray[np.int32]) -> Images:
        patched = x.copy()
        patched[:, :, 24:27, 24:27] = x.max()
        return Images(features(x), features(patched), y)

    train = FASHION.images("train")
    order = np.random.default_rng(0).permutation(len(train.y))
    apart = PROXIES + HOLDOUT
    mine = train[np.concatenate([order[apart : apart + OWN], order[apart + OWN + FASHION.public :]])]
    return dealt(
        FASHION.name,
        rules,
        images(mine.x, mine.y),
        features(parts.proxies.x),
        parts.proxies.y,
        images(parts.holdout.x, parts.holdout.y),
        images(parts.test.x, parts.test.y),
    )


def digits(rules: Rules) -> Crowd:
    """Pixels."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = (x[order] / 16).astype(np.float32), y[order].astype(np.int32)

    def images(part: slice) -> Images:
        patched = x[part].copy().reshape(-1, 8, 8)
        patched[:, 6:, :2] = 1
        return Images(x[part], patched.reshape(-1, 64), y[part])

    held_out, test, public = slice(200), slice(200, 600), slice(600, 700)
    return dealt("digits", rules, images(slice(700, None)), x[public], y[public], images(held_out), images(test))


def dealt(
    name: str,
    rules: Rules,
    own: Images,
    public: Values,
    public_labels: NDArray[np.int32],
    held_out: Images,
    test: Images,
) -> Crowd:
    width, count = own.plain.shape[1], len(own.labels) // rules.images
    head = nn.Linear(width, CLASSES)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    playable = compile_program(
        nn.Sequential(OrderedDict(head=head)).eval(),
        {"x": ((width,), "float32")},
        "y",
        CLASSES,
        subset=["head.weight", "head.bias"],
        microbatch=rules.images,
        optimizer=Optimizer(LOCAL_RATE),
    ).playable
    order = np.random.default_rng(1).permutation(len(own.labels))[: count * rules.images]
    return Crowd(name, rules, playable, own, order.reshape(count, rules.images), public, public_labels, held_out, test)


def visits(x: Values, y: NDArray[np.int32], snapshot: Values) -> Values:
    """What visits change: a row each, from x [devices, images, features], by full steps of gradient descent."""
    count, images, width = x.shape
    matrix = np.tile(snapshot[: CLASSES * width].reshape(1, CLASSES, width), (count, 1, 1))
    bias = np.tile(snapshot[None, None, CLASSES * width :], (count, 1, 1))
    before = matrix.copy(), bias.copy()
    right = np.eye(CLASSES, dtype=np.float32)[y]
    for _ in range(EPOCHS):
        logits = x @ matrix.transpose(0, 2, 1) + bias
        odds = np.exp(logits - logits.max(axis=2, keepdims=True))
        gradient = (odds / odds.sum(axis=2, keepdims=True) - right) / np.float32(images)
        matrix -= LOCAL_RATE * (gradient.transpose(0, 2, 1) @ x)
        bias -= LOCAL_RATE * gradient.sum(axis=1, keepdims=True)
    return np.concatenate([(matrix - before[0]).reshape(count, -1), (bias - before[1]).reshape(count, -1)], axis=1)


def apart(crowd: Crowd) -> float:
    """The largest relative difference from what the engine's visit changes."""
    player, images = Player(crowd.playable), crowd.rules.images
    snapshot = np.random.default_rng(2).normal(0, 0.05, crowd.playable.program.d).astype(np.float32)
    most = 0.0
    for share in crowd.shares[:20]:
        x, y = crowd.own.plain[share], crowd.own.labels[share]
        parts, rates = [np.arange(images)] * EPOCHS, [LOCAL_RATE] * EPOCHS
        visiting = player.visit({"x": x}, y, np.ones(images, np.float32), parts, rates, snapshot)
        visiting.play()
        ours = visits(x[None], y[None], snapshot)[0]
        most = max(most, float(np.linalg.norm(ours - visiting.delta) / np.linalg.norm(visiting.delta)))
    return most


def typical(crowd: Crowd) -> float:
    """The median length of a visit of public images at first."""
    images = crowd.rules.images
    rows = len(crowd.public_labels) // images
    x = crowd.public[: rows * images].reshape(rows, images, -1)
    y = crowd.public_labels[: rows * images].reshape(rows, images)
    return float(np.median(np.linalg.norm(visits(x, y, crowd.playable.initial), axis=1)))


@dataclass(frozen=True)
class Stance:
    """Settings of a Plan. `bound` is whether a mean that is too long is void."""

    name: str
    clip: float
    groups: int = 1
    robust: Robust = Alike()  # noqa: RUF009 - immutable
    bound: bool = True


def stances(crowd: Crowd) -> Iterator[Stance]:
    tight = LATE * typical(crowd)
    twenty = crowd.rules.crowd // 5
    yield Stance("no defences", LOOSE * tight, bound=False)
    yield Stance("clip, one group", tight)
    yield Stance("clip, groups, median", tight, twenty, Median())
    yield Stance("clip, groups, trimmed", tight, twenty, Trimmed(twenty // 4))
    yield Stance("clip, groups, geometric", tight, twenty, Geometric())
    yield Stance("clip, groups, bounded", tight, twenty, Bounded(tight / 2))


def plan_of(crowd: Crowd, stance: Stance, rate: float) -> Manifest:
    """Held against everything that a device or keyholder would refuse a Plan for."""
    rules, d, mu2 = crowd.rules, crowd.playable.program.d, 1e12
    author, hpke = SigningKey.from_seed(bytes(32)), SealingKey.from_seed(bytes(32)).public
    signer = SigningKey.from_seed(bytes([1]) * 32).public
    charter = Charter("attacks", "", ("images",), author.public, (signer,), 1, mu2, "device", 1)
    target, age = rules.crowd // stance.groups, 2 * stance.groups
    manifest = Manifest(
        format=FORMAT,
        title=stance.name,
        charter_id=bytes(32),
        created_at=0,
        program=crowd.playable.program,
        local=LocalTraining(EPOCHS, rules.images),
        server=Server(rate),
        quantisation=Quantisation(BITS, BIG_Q, inner_bound(BIG_Q, d), stance.clip),
        batch=BatchRule(target, target, target, age, (1,) * (age + 1), None, stance.groups, stance.robust),
        participation=Participation(rules.rounds, 1, len(crowd.shares)),
        noise=Noise(Plain(), mu2**-0.5, rules.rounds**0.5, rules.rounds * stance.groups, mu2, 1e-7),
        keyholders=(KeyholderCard(signer, hpke, key_id(hpke, signer), ""),),
        enrolment=bytes(32),
        coordinator=bytes(32),
        limits=Limits(1 << 20, 1 << 30, 60, 1),
        blobs=(),
    )
    return parse_plan(build_plan(manifest, charter, playable_blobs(crowd.playable), author)).manifest


def attacked(attack: Attack, crowd: Crowd, devices: NDArray[np.integer], honest: Values, snapshot: Values) -> Values:
    """A direction for each of these attackers. `honest` is what each would have sent."""
    share = crowd.shares[devices]
    labels = crowd.own.labels[share]
    match attack:
        case "none" | "sign flip in concert" | "sign flip" | "at the gate's limit":
            rows = honest if attack == "none" else -honest
        case "wrong labels" | "wrong labels in concert":
            rows = visits(crowd.own.plain[share], (labels + 1) % CLASSES, snapshot)
        case "backdoor":  # two thirds of its images bear the patch
            patched = np.arange(share.shape[1]) % 3 > 0
            x = np.where(patched[None, :, None], crowd.own.patched[share], crowd.own.plain[share])
            rows = visits(x, np.where(patched[None], TARGET_CLASS, labels).astype(np.int32), snapshot)
        case "backdoor in concert":
            rows = visits(crowd.own.patched[share], np.full_like(labels, TARGET_CLASS), snapshot)
        case _:
            rows = np.zeros_like(honest)
    together = attack.endswith("in concert") or attack == "at the gate's limit"
    return np.tile(rows.mean(axis=0), (len(rows), 1)) if together else rows


@dataclass(frozen=True)
class Curve:
    """In per cent, at each check: of the Snapshot, and of what is published."""

    at: list[int]
    snapshot: list[float]
    published: list[float]
    checked: list[float]  # the published one, on the images that decided on it
    backdoor: list[float]  # of patched images of other classes, how many are taken for the target
    void: int

    @property
    def last(self) -> float:
        return self.snapshot[-1]

    @property
    def fall(self) -> float:
        """By how many points what is published ever fell below the best before, by its check."""
        return float((np.maximum.accumulate(self.checked) - self.checked).max())


def accuracy(images: Images, snapshot: Values) -> float:
    return 100 * float((predicted(images.plain, snapshot) == images.labels).mean())


def predicted(x: Values, snapshot: Values) -> NDArray[np.integer]:
    width = x.shape[1]
    return np.argmax(x @ snapshot[: CLASSES * width].reshape(CLASSES, width).T + snapshot[CLASSES * width :], axis=1)


def integers(rows: Values, length: float, manifest: Manifest, random: np.random.Generator) -> NDArray[np.int64]:
    """As attackers make them: of full length, or of as many clips."""
    quant = manifest.quantisation
    norms = np.maximum(np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True), 1e-30)
    full = rows / norms * quant.clip
    if length == 1:
        return np.stack([quantise(clip(one, quant.clip).values, quant.clip, quant.q, quant.q_in, random.bytes)
                         for one in full.astype(np.float32)])  # fmt: skip
    return np.rint(full * (length * quant.q / quant.clip)).astype(np.int64)


def learnt(crowd: Crowd, stance: Stance, manifest: Manifest, attack: Attack, share: float, seed: int) -> Curve:
    """A whole run. Nobody is drawn twice in a round, and who is in which group is drawn too."""
    rules, random, quant = crowd.rules, np.random.default_rng(seed), manifest.quantisation
    bad = np.zeros(len(crowd.shares), bool)
    if attack != "none":
        bad[random.permutation(len(bad))[: round(share * len(bad))]] = True
    snapshots = [encode_snapshot(crowd.playable.initial)]
    curve = Curve([], [], [], [], [], 0)
    published, people, void = Published(), snapshots[0], 0
    others = crowd.test.labels != TARGET_CLASS
    for t in range(rules.rounds):
        before = decode_snapshot(snapshots[-1], manifest.program.d)
        drawn = random.permutation(len(bad))[: rules.crowd]
        x, y = crowd.own.plain[crowd.shares[drawn]], crowd.own.labels[crowd.shares[drawn]]
        deltas = visits(x, y, before)
        evil = np.flatnonzero(bad[drawn])
        q = np.stack(
            [quantise(clip(one, quant.clip).values, quant.clip, quant.q, quant.q_in, random.bytes) for one in deltas]
        )
        if len(evil):
            if attack == "noise":
                q[evil] = integers(random.normal(size=(len(evil), q.shape[1])), 1, manifest, random)
            elif attack == "uniform words":
                q[evil] = random.integers(-(1 << (BITS - 1)), 1 << (BITS - 1), (len(evil), q.shape[1]))
            else:
                rows = attacked(attack, crowd, drawn[evil], deltas[evil], before)
                most = min(AT_GATE, rules.crowd // stance.groups - 1.0) if stance.bound else AT_GATE
                q[evil] = integers(rows, most if attack == "at the gate's limit" else 1, manifest, random)
        means = []
        for group in q.reshape(stance.groups, -1, q.shape[1]):
            total = ((group.sum(axis=0) + (1 << (BITS - 1))) % (1 << BITS)) - (1 << (BITS - 1))
            try:
                means.append((bounded_mean if stance.bound else mean_of)(total, [1] * len(group), manifest))
            except SumBroken:
                void += 1
        # A void group's place is taken by another one; here the round is that much smaller.
        after = (
            apply_mean(snapshots[-1], round_mean(means, manifest), manifest.server).snapshot if means else snapshots[-1]
        )
        snapshots.append(after)
        if (t + 1) % rules.every == 0:
            values = decode_snapshot(after, manifest.program.d)
            right = accuracy(crowd.held_out, values) / 100
            error = (right * (1 - right) / len(crowd.held_out.labels)) ** 0.5
            published, decision = judge(published, Verdict(t + 1, "right", right, error, 1000), Rule())
            if isinstance(decision, Publish) or not stance.bound:
                people = after
            if isinstance(decision, RollBack) and stance.bound:
                snapshots[-1] = snapshots[decision.to]
                published = rolled_back(published, t + 1)
            curve.at.append(t + 1)
            curve.snapshot.append(accuracy(crowd.test, values))
            given = decode_snapshot(people, manifest.program.d)
            curve.published.append(accuracy(crowd.test, given))
            curve.checked.append(accuracy(crowd.held_out, given))
            taken = predicted(crowd.test.patched[others], values) == TARGET_CLASS
            curve.backdoor.append(100 * float(taken.mean()))
    return replace(curve, void=void)


@dataclass(frozen=True)
class Result:
    stance: str
    attack: str
    share: float
    rate: float
    curves: Sequence[Curve]

    @property
    def last(self) -> float:
        return float(np.mean([curve.last for curve in self.curves]))

    @property
    def backdoor(self) -> float:
        return float(np.mean([curve.backdoor[-1] for curve in self.curves]))

    @property
    def fall(self) -> float:
        return max(curve.fall for curve in self.curves)


def played(crowd: Crowd, say: Callable[[str], None]) -> list[Result]:
    """Every stance under every attack it is there for."""

    @cache
    def rate_of(length: float) -> float:
        plain = Stance("plain", length, bound=False)

        def held_out(rate: float) -> float:
            return learnt(crowd, plain, plan_of(crowd, plain, rate), "none", 0, 0).last

        return max(RATES, key=held_out)

    found: list[Result] = []
    wrecking: list[tuple[Attack, float]] = [
        ("at the gate's limit", 0.01), ("at the gate's limit", 0.2), ("uniform words", 0.01),
    ]  # fmt: skip
    for stance in stances(crowd):
        rate = rate_of(stance.clip)
        manifest = plan_of(crowd, stance, rate)
        for attack, share in [("none", 0.0), *((one, 0.2) for one in WITHIN), *wrecking]:
            began = time.perf_counter()
            curves = [learnt(crowd, stance, manifest, attack, share, seed) for seed in range(crowd.rules.seeds)]
            found.append(Result(stance.name, attack, share, rate, curves))
            one = found[-1]
            say(
                f"{stance.name}, {attack} ({share:.0%}), rate {rate:g}: {one.last:.1f} %, backdoor {one.backdoor:.1f} "
                f"%, published fell {one.fall:.1f}, void {one.curves[0].void}; {time.perf_counter() - began:.0f} s"
            )
    return found


def rows(results: Sequence[Result]) -> list[Row]:
    """Accuracies, what is lost, and what the published model fell by."""
    best = max(one.last for one in results if one.attack == "none")
    found: list[Row] = []
    for one in results:
        name = f"{one.stance}: {one.attack}" + (f", {one.share:.0%} of devices" if one.share else "")
        defended = one.stance != "no defences"
        goal = defended and one.attack in ("none", *ALONE)
        lost = best - one.last
        found.append(
            Row(
                f"{name}: lost",
                lost,
                "points",
                f"at most {ALLOWED:g}" if goal else "",
                lost <= ALLOWED if goal else None,
            )
        )
        if one.attack in ("none", *BACKDOORS):
            found.append(Row(f"{name}: patched images taken for the target", one.backdoor, "%", "", None))
        if one.attack not in ("none", *WITHIN):
            kept = one.fall <= ALLOWED if defended else None
            goal_text = f"at most {ALLOWED:g}" if defended else ""
            found.append(Row(f"{name}: what is published fell", one.fall, "points", goal_text, kept))
    return found


def picture(results: Sequence[Result], path: Path) -> None:
    """Left: what each attack within the clip costs. Right: what people get while devices push at the gate's limit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "attacks", "font.size": 9}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.8))
    names = list(dict.fromkeys(one.stance for one in results))
    shown: list[Attack] = ["none", *WITHIN]
    by: Mapping[tuple[str, str, float], Result] = {(one.stance, one.attack, one.share): one for one in results}
    chosen = [name for name in names if name in ("no defences", "clip, one group", "clip, groups, median")]
    for number, name in enumerate(chosen):
        heights = [by[name, attack, 0.2 if attack != "none" else 0.0].last for attack in shown]
        places = np.arange(len(shown)) + (number - 1) * 0.27
        left.bar(places, heights, 0.25, color=("0.6", "C0", "C2")[number], label=name)
    left.set_xticks(np.arange(len(shown)), shown, rotation=40, ha="right")
    left.set_ylabel("test accuracy, %")
    left.set_ylim(0, 105)
    left.legend(frameon=False, loc="upper center", ncols=3, fontsize=7)
    for share, style in ((0.01, "-"), (0.2, "--")):
        for number, name in enumerate(chosen):
            one = by[name, "at the gate's limit", share].curves[0]
            label = f"{name}, {share:.0%}"
            right.plot(one.at, one.published, style, color=("0.6", "C0", "C2")[number], label=label)
    right.set_title("at the gate's limit: what people get")
    right.set_xlabel("rounds")
    right.set_ylim(0, 105)
    right.legend(frameon=False, ncols=2, fontsize=7, loc="upper center")
    right.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--svg", type=Path, metavar="FILE")
    asked, rest = parser.parse_known_args()
    results: list[Result] = []

    def bench(quick: bool) -> Sequence[Row]:
        try:
            crowd = fashion(Rules(crowd=100, rounds=40 if quick else 120, images=60, seeds=1, every=5), say)
        except NoData as missing:
            say(f"{missing}; the digits are taken")
            crowd = digits(Rules(crowd=25, rounds=40 if quick else 100, images=20, seeds=1 if quick else 3, every=5))
        width = crowd.own.plain.shape[1]
        say(f"{crowd.name}: {len(crowd.shares):,} devices, {width} features, clip {LATE * typical(crowd):.3f}")
        off = apart(crowd)
        results.extend(played(crowd, say))
        if asked.svg:
            picture(results, asked.svg)
        return [Row("visits apart from the engine's, relative", off, "", "at most 1e-4", off <= 1e-4), *rows(results)]

    bench.__doc__ = __doc__
    return run(bench, rest, more=lambda: {"results": [asdict(one) for one in results]})


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
