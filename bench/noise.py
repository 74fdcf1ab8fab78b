"""Learning under noise: correlated (blt/1) against independent (plain/1) noise at equal ε, and none.

Fashion-MNIST: a backbone pre-trained on public images of every other class stays frozen, and a linear head on it is
trained from zero by as many simulated devices as correlated noise needs, N = n (τ + sep), with up to six images each.
Visits are worked out by numpy for a whole batch at once, six times as fast as one by one, and held against the
engine's. Clipping, rounding, noise, account and applying are the product's own functions, for two keyholders that add
full noise each. Masks are left out: they cancel exactly (tests/privacy). Updates are 0 to τ versions old, devices come
in random order, never two landings closer than τ + sep versions, never more than the Plan allows.

Each contestant gets the server's rate from one ladder that is best on held-out images by the first seed: a thing that
a real Plan has to decide on public data. Accuracy is on the test images, of the Snapshot and of the mean of the last
half of all Snapshots so far. Data are taken from TACIT_DATA.

`--svg FILE` writes the picture.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from choice.backbone import HALF
from choice.data import CLASSES, FASHION, HOLDOUT, OWN, PROXIES, Examples, NoData
from choice.settings import setting
from choice.training import climbed
from harness import Row, run, say
from numpy.typing import NDArray
from torch import nn

from tacit.codec.quantise import dequantise_sum, inner_bound, quantise
from tacit.compiler.compile import compile_program
from tacit.coordinator.applying import apply_mean, mean_of
from tacit.engine.player import Player
from tacit.keyholder.sums import draw
from tacit.plan.bundle import Plan, build_plan, decode_snapshot, encode_snapshot, parse_plan, playable_blobs
from tacit.plan.manifest import (
    FORMAT,
    BatchRule,
    Charter,
    KeyholderCard,
    Limits,
    LocalTraining,
    Manifest,
    Mechanism,
    Noise,
    Participation,
    Plain,
    Quantisation,
)
from tacit.plan.program import Optimizer, Playable
from tacit.plan.server import Server as ServerRule
from tacit.privacy.account import mu_of_epsilon
from tacit.privacy.blt import Blt, sensitivity
from tacit.privacy.clip import clip
from tacit.privacy.fitted import shipped
from tacit.wire.ids import key_id, sha256
from tacit.wire.keys import SealingKey, SigningKey

DELTA, KEYHOLDERS, BIG_Q, BITS = 1e-7, 2, 512, 24
MOST_IMAGES = 6  # of a device
LOCAL = LocalTraining(epochs=4, minibatch=8)
LOCAL_RATE = 0.1
CLIP = 0.5  # of a visit's typical norm at first: later visits change less
RATES = (0.12, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
ADAM_RATES = (1e-2, 3e-2, 1e-1, 3e-1)
FIRST = (3, 4)  # the neighbouring rates that are tried first
LAST = 2  # an accuracy is the mean of the last looks


@dataclass(frozen=True)
class Rules:
    """How a run goes."""

    batch: int
    max_age: int
    separation: int
    landings: int
    snapshots: int
    epsilons: tuple[float, ...]
    seeds: int
    every: int  # Snapshots from one look at the test images to the next

    @property
    def devices(self) -> int:
        return self.batch * (self.max_age + self.separation)


FULL = Rules(batch=100, max_age=2, separation=75, landings=4, snapshots=300, epsilons=(2, 4, 8), seeds=2, every=20)
QUICK = Rules(batch=20, max_age=2, separation=20, landings=4, snapshots=80, epsilons=(8,), seeds=1, every=20)


@dataclass(frozen=True, eq=False)
class Crowd:
    """The model, and everybody's images behind the frozen backbone."""

    playable: Playable
    player: Player
    kept: NDArray[np.uint8]  # behind the backbone, a row each image
    features: NDArray[np.float32]  # the same by PyTorch
    labels: NDArray[np.int32]
    shares: Sequence[NDArray[np.integer]]  # the images of each device
    public: Sequence[NDArray[np.integer]]  # public images, dealt likewise
    judges: Mapping[str, tuple[NDArray[np.float32], NDArray[np.int32]]]  # features and labels

    def accuracy(self, snapshot: NDArray[np.float32], judge: str = "test") -> float:
        """In per cent."""
        features, labels = self.judges[judge]
        width = features.shape[1]
        weight, bias = snapshot[: CLASSES * width].reshape(CLASSES, width), snapshot[CLASSES * width :]
        return 100 * float((np.argmax(features @ weight.T + bias, axis=1) == labels).mean())

    def deltas(self, shares: Sequence[NDArray[np.integer]], snapshots: NDArray[np.float32]) -> NDArray[np.float32]:
        """What visits with these images change, each from its Snapshot: exactly what the engine's do (`apart`)."""
        count, width = len(shares), self.features.shape[1]
        x, missing = (
            np.zeros((count, MOST_IMAGES, width), np.float32),
            np.zeros((count, MOST_IMAGES, CLASSES), np.float32),
        )
        weight = np.zeros((count, MOST_IMAGES, 1), np.float32)
        for i, share in enumerate(shares):
            x[i, : len(share)] = self.features[share]
            missing[i, np.arange(len(share)), self.labels[share]] = 1
            weight[i, : len(share)] = 1 / len(share)
        matrix = snapshots[:, : CLASSES * width].reshape(count, CLASSES, width).copy()
        bias = snapshots[:, None, CLASSES * width :].copy()
        for _ in range(LOCAL.epochs):
            logits = x @ matrix.transpose(0, 2, 1) + bias
            odds = np.exp(logits - logits.max(axis=2, keepdims=True))
            gradient = (odds / odds.sum(axis=2, keepdims=True) - missing) * weight
            matrix -= LOCAL_RATE * (gradient.transpose(0, 2, 1) @ x)
            bias -= LOCAL_RATE * gradient.sum(axis=1, keepdims=True)
        return np.concatenate([matrix.reshape(count, -1), bias.reshape(count, -1)], axis=1) - snapshots

    def apart(self, shares: Sequence[NDArray[np.integer]], snapshot: NDArray[np.float32]) -> float:
        """The largest norm of the difference from what the engine's visit changes, relative to that."""
        ours = self.deltas(shares, np.tile(snapshot, (len(shares), 1)))
        most = 0.0
        for share, delta in zip(shares, ours, strict=True):
            parts, weights = [np.arange(len(share))] * LOCAL.epochs, np.ones(len(share), np.float32)
            rates = [LOCAL_RATE] * LOCAL.epochs
            visiting = self.player.visit([self.kept[share]], self.labels[share], weights, parts, rates, snapshot)
            visiting.play()
            most = max(most, float(np.linalg.norm(delta - visiting.delta) / np.linalg.norm(visiting.delta)))
        return most


def crowd(rules: Rules, say: Callable[[str], None]) -> Crowd:
    """Fashion-MNIST behind the backbone's convolutions, dealt to the devices."""
    parts = FASHION.parts()
    whole = setting(FASHION, HALF, parts, say).module()
    layers = list(whole.named_children())
    end = 1 + [name for name, _ in layers].index("relu3")
    body = nn.Sequential(OrderedDict([*layers[:end], ("pool", nn.AvgPool2d(2)), ("flat", nn.Flatten())]))

    def features(examples: Examples) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.concatenate([body(part).numpy() for part in torch.from_numpy(examples.x).split(1000)])

    train = FASHION.images("train")
    order = np.random.default_rng(0).permutation(len(train.y))  # as `parts` has it
    apart = PROXIES + HOLDOUT
    mine = train[np.concatenate([order[apart : apart + OWN], order[apart + OWN + FASHION.public :]])]
    width = features(parts.holdout[slice(1)]).shape[1]
    head = nn.Linear(width, CLASSES)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    playable = compile_program(
        nn.Sequential(OrderedDict([*body.named_children(), ("head", head)])).eval(),
        {"x": (mine.x.shape[1:], "float32")},
        "y",
        CLASSES,
        subset=["head.weight", "head.bias"],
        microbatch=LOCAL.minibatch,
        optimizer=Optimizer(LOCAL_RATE),
    ).playable
    player = Player(playable)
    everything = Examples(np.concatenate([parts.proxies.x, mine.x]), np.concatenate([parts.proxies.y, mine.y]))
    kept = player.keep({"x": everything.x})
    assert kept is not None and len(kept) == 1, "the head alone is trained, so the backbone is the prefix"
    dealt = PROXIES + np.random.default_rng(1).permutation(len(mine.y))[: MOST_IMAGES * rules.devices]
    shares = np.array_split(dealt, rules.devices)
    public = list(np.arange(PROXIES // MOST_IMAGES * MOST_IMAGES).reshape(-1, MOST_IMAGES))
    judges = {name: (features(one), one.y) for name, one in (("test", parts.test), ("holdout", parts.holdout))}
    return Crowd(playable, player, kept[0], features(everything), everything.y, shares, public, judges)


def typical_norm(crowd: Crowd) -> float:
    """The median norm of what a visit of public images changes at first."""
    deltas = crowd.deltas(crowd.public, np.tile(crowd.playable.initial, (len(crowd.public), 1)))
    return float(np.median(np.linalg.norm(deltas, axis=1)))


@dataclass(frozen=True)
class Contestant:
    """`epsilon` is None where no noise is added."""

    mechanism: Mechanism
    epsilon: float | None
    server: Literal["plain SGD", "Adam"] = "plain SGD"

    @property
    def name(self) -> str:
        kind = "BLT" if isinstance(self.mechanism, Blt) else "plain"
        noise = "no noise" if self.epsilon is None else f"{kind}, ε = {self.epsilon:g}"
        return noise + ("" if self.server == "plain SGD" else f", {self.server}")


def plan_of(crowd: Crowd, rules: Rules, contestant: Contestant, bound: float, rate: float) -> Plan:
    """Held against everything that a device or keyholder would refuse a Plan for."""
    d, mechanism = crowd.playable.program.d, contestant.mechanism
    if isinstance(mechanism, Blt):
        worst = sensitivity(mechanism, rules.landings, rules.separation, rules.snapshots)
    else:
        worst = rules.landings**0.5
    mu = 1e6 if contestant.epsilon is None else mu_of_epsilon(contestant.epsilon, DELTA)
    author, hpke = SigningKey.from_seed(bytes(32)), SealingKey.from_seed(bytes(32)).public
    signers = [SigningKey.from_seed(bytes([j]) * 32).public for j in range(1, KEYHOLDERS + 1)]
    charter = Charter("noise", "", ("images",), author.public, tuple(signers), 1, mu * mu, "device", 1)
    manifest = Manifest(
        format=FORMAT,
        title=contestant.name,
        charter_id=bytes(32),
        created_at=0,
        program=crowd.playable.program,
        local=LOCAL,
        server=ServerRule(rate),
        quantisation=Quantisation(BITS, BIG_Q, inner_bound(BIG_Q, d), bound),
        batch=BatchRule(rules.batch, rules.batch, rules.batch, rules.max_age, (1,) * (rules.max_age + 1)),
        participation=Participation(rules.landings, rules.separation, rules.devices),
        noise=Noise(mechanism, 1 / mu, worst, rules.snapshots, mu * mu, DELTA),
        keyholders=tuple(KeyholderCard(signer, hpke, key_id(hpke, signer), "") for signer in signers),
        enrolment=bytes(32),
        coordinator=bytes(32),
        limits=Limits(1 << 20, 1 << 30, 60, 1),
        blobs=(),
    )
    return parse_plan(build_plan(manifest, charter, playable_blobs(crowd.playable), author))


def visitors(rules: Rules, seed: int) -> Iterator[list[tuple[int, int]]]:
    """For each batch its devices, each with the version it starts from. A device sends again at next_ok_version."""
    draw = np.random.default_rng(seed)
    next_ok, landed = np.zeros(rules.devices, int), np.zeros(rules.devices, int)
    for t in range(rules.snapshots):
        free = np.flatnonzero((next_ok <= t) & (landed < rules.landings))
        chosen = draw.permutation(free)[: rules.batch]
        assert len(chosen) == rules.batch, "N = n (τ + sep) leaves enough of them"
        oldest = np.maximum(next_ok[chosen], t - rules.max_age).clip(0)
        versions = draw.integers(oldest, t + 1)
        next_ok[chosen] = versions + rules.max_age + rules.separation
        landed[chosen] += 1
        yield [(int(device), int(version)) for device, version in zip(chosen, versions, strict=True)]


class Server:
    """From a sum to the next Snapshot: the product's, or Adam in its place."""

    def __init__(self, manifest: Manifest, kind: Literal["plain SGD", "Adam"]):
        self._manifest, self._kind, self._steps = manifest, kind, 0
        self._mean, self._square = (np.zeros(manifest.words) for _ in range(2))

    def applied(self, snapshot: NDArray[np.float32], total: NDArray[np.int64], count: int) -> NDArray[np.float32]:
        manifest, quant = self._manifest, self._manifest.quantisation
        if self._kind == "plain SGD":
            mean = mean_of(total, [1] * count, manifest)
            after = apply_mean(encode_snapshot(snapshot), mean, manifest.server)
            return decode_snapshot(after.snapshot, manifest.program.d)
        step = dequantise_sum(total, quant.clip, quant.q_in, count)
        self._steps += 1
        self._mean = 0.9 * self._mean + 0.1 * step
        self._square = 0.99 * self._square + 0.01 * step**2
        mean, square = self._mean / (1 - 0.9**self._steps), self._square / (1 - 0.99**self._steps)
        return (snapshot + manifest.server.rate * mean / (np.sqrt(square) + 1e-8)).astype(np.float32)


@dataclass(frozen=True)
class Curve:
    """Accuracy in per cent after so many Snapshots."""

    at: list[int]
    snapshot: list[float]
    average: list[float]

    @property
    def last(self) -> float:
        return statistics.fmean(self.snapshot[-LAST:])


def learnt(crowd: Crowd, rules: Rules, plan: Plan, server: Server, seed: int) -> Mapping[str, Curve]:
    """A whole run, as each judge saw it."""
    manifest = plan.manifest
    random, quant = np.random.default_rng(seed), manifest.quantisation
    buffers: list[bytes | None] = [None] * KEYHOLDERS
    snapshots = deque([crowd.playable.initial], maxlen=rules.max_age + 1)  # the newest last
    passed = [np.zeros(manifest.words)]  # the sum of all Snapshots up to each
    found = {judge: Curve([], [], []) for judge in crowd.judges}
    for t, batch in enumerate(visitors(rules, seed)):
        total = np.zeros(manifest.words, np.int64)
        begun = np.stack([snapshots[version - t - 1] for _, version in batch])
        for delta in crowd.deltas([crowd.shares[device] for device, _ in batch], begun):
            values = clip(delta, quant.clip).values
            total += quantise(values, quant.clip, quant.q, quant.q_in, random.bytes)
        for j in range(KEYHOLDERS):
            drawn = draw(plan, t, sha256(b""), sha256(b"%d/%d/%d" % (seed, j, t)), buffers[j])
            total, buffers[j] = total + drawn.noise, drawn.buffers
        assert np.abs(total).max() < 1 << (quant.bits - 1), "the ring is large enough, as the Plan was checked for"
        snapshots.append(server.applied(snapshots[-1], total, len(batch)))
        passed.append(passed[-1] + snapshots[-1])
        if (t + 1) % rules.every == 0:
            half = (t + 1) // 2
            for judge, curve in found.items():
                curve.at.append(t + 1)
                curve.snapshot.append(crowd.accuracy(snapshots[-1], judge))
                curve.average.append(crowd.accuracy((passed[-1] - passed[half]) / (t + 1 - half), judge))
    return found


@dataclass(frozen=True)
class Result:
    """What a contestant reached at its best rate; `tried` is the accuracy on held-out images by rate."""

    contestant: str
    mechanism: str
    epsilon: float | None
    server: str
    rate: float
    tried: Mapping[str, float]
    curves: Sequence[Curve]

    @property
    def at(self) -> Sequence[int]:
        return self.curves[0].at

    @property
    def snapshot(self) -> NDArray[np.float64]:
        """The mean over seeds."""
        return np.mean([curve.snapshot for curve in self.curves], axis=0)

    @property
    def average(self) -> NDArray[np.float64]:
        return np.mean([curve.average for curve in self.curves], axis=0)

    @property
    def last(self) -> float:
        return float(self.snapshot[-LAST:].mean())


def played(crowd: Crowd, rules: Rules, contestant: Contestant, bound: float, say: Callable[[str], None]) -> Result:
    """At the rate that is best on held-out images, on the test images, by every seed."""
    rates = RATES if contestant.server == "plain SGD" else ADAM_RATES
    tried: dict[str, float] = {}

    @cache
    def at_rate(rung: int, seed: int) -> Mapping[str, Curve]:
        began = time.perf_counter()
        plan = plan_of(crowd, rules, contestant, bound, rates[rung])
        found = learnt(crowd, rules, plan, Server(plan.manifest, contestant.server), seed)
        tried.setdefault(f"{rates[rung]:g}", found["holdout"].last)  # by the first seed
        reached = ", ".join(f"{curve.last:.1f} % {judge}" for judge, curve in found.items())
        say(f"{contestant.name}, rate {rates[rung]:g}, seed {seed}: {reached} in {time.perf_counter() - began:.0f} s")
        return found

    low, high = FIRST if contestant.server == "plain SGD" else (0, len(rates) - 1)  # where it has two tops
    best = climbed(lambda rung: at_rate(rung, 0)["holdout"].last, low, high, len(rates))
    curves = [at_rate(best, seed)["test"] for seed in range(rules.seeds)]
    kind = "blt/1" if isinstance(contestant.mechanism, Blt) else "plain/1"
    return Result(contestant.name, kind, contestant.epsilon, contestant.server, rates[best], tried, curves)


def rows(results: Sequence[Result]) -> list[Row]:
    """Accuracies, and what correlated noise gains."""
    found: list[Row] = []
    for one in results:
        found.append(Row(f"{one.contestant}: Snapshot, rate {one.rate:g}", one.last, "%", "", None))
        found.append(Row(f"{one.contestant}: mean of Snapshots", float(one.average[-1]), "%", "", None))
    known = {(one.mechanism, one.epsilon, one.server): one for one in results}
    for (mechanism, epsilon, server), one in known.items():
        plain = known.get(("plain/1", epsilon, server))
        if mechanism == "blt/1" and plain is not None:
            gain = one.last - plain.last
            goal, holds = ("above 0", gain > 0) if server == "plain SGD" else ("", None)
            found.append(Row(f"{one.contestant} above plain", gain, "points", goal, holds))
    return found


def picture(results: Sequence[Result], path: Path) -> None:
    """A panel for each ε, and one for Adam: Snapshots in full lines, the mean of the last half of them dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "noise", "font.size": 9}
    panels = [(epsilon, "plain SGD") for epsilon in sorted({r.epsilon for r in results if r.epsilon is not None})]
    panels += [(r.epsilon, r.server) for r in results if r.server == "Adam" and r.mechanism == "blt/1"]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.1 * len(panels), 3.2), sharey=True, squeeze=False)
    for axis, (epsilon, server) in zip(axes[0], panels, strict=True):
        for kind, colour, label in (("none", "0.45", "no noise"), ("blt/1", "C0", "BLT"), ("plain/1", "C3", "plain")):
            for one in results:
                noise = "none" if one.epsilon is None else one.mechanism
                if noise != kind or one.server != server or one.epsilon not in (None, epsilon):
                    continue
                for curve in one.curves:
                    axis.plot(curve.at, curve.snapshot, colour, alpha=0.3, linewidth=0.6)
                axis.plot(one.at, one.snapshot, colour, label=label)
                axis.plot(one.at, one.average, colour, linestyle="--", linewidth=1)
        axis.set_title(f"ε = {epsilon:g}" + (", Adam at the server" if server == "Adam" else ""))
        axis.set_xlabel("Snapshots")
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("test accuracy, %")
    axes[0][0].legend(loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def contestants(rules: Rules) -> Iterator[Contestant]:
    fitted = shipped(rules.snapshots, rules.landings, rules.separation)
    yield Contestant(Plain(), None)
    for epsilon in rules.epsilons:
        yield Contestant(Plain(), epsilon)
        yield Contestant(fitted, epsilon)
    middle = rules.epsilons[len(rules.epsilons) // 2]
    yield Contestant(Plain(), None, "Adam")
    yield Contestant(Plain(), middle, "Adam")
    yield Contestant(fitted, middle, "Adam")


def _drawn(crowd: Crowd) -> NDArray[np.float32]:
    """A Snapshot that is not zero."""
    return np.random.default_rng(2).normal(0, 0.05, crowd.playable.program.d).astype(np.float32)


def main() -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--svg", type=Path, metavar="FILE")
    asked, rest = parser.parse_known_args()
    results: list[Result] = []

    def bench(quick: bool) -> Sequence[Row]:
        rules = QUICK if quick else FULL
        people = crowd(rules, say)
        bound = CLIP * typical_norm(people)
        say(f"{rules.devices:,} devices, d = {people.playable.program.d:,}, clip {bound:.3f}")
        apart = max(people.apart(people.shares[:50], one) for one in (people.playable.initial, _drawn(people)))
        for contestant in contestants(rules):
            results.append(played(people, rules, contestant, bound, say))
            if asked.svg and len(results) > 1:
                picture(results, asked.svg)
        return [
            Row("visits apart from the engine's, relative", apart, "", "at most 1e-4", apart <= 1e-4),
            *rows(results),
        ]

    bench.__doc__ = __doc__
    try:
        return run(bench, rest, more=lambda: {"results": [asdict(one) for one in results]})
    except NoData as missing:
        print(f"nothing was measured: {missing}", file=sys.stderr)
        return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
