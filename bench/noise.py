"""Learning under noise: correlated (blt/1) against independent (plain/1) noise at equal ε, and none.

Fashion-MNIST: a backbone pre-trained on public images of every other class stays frozen, and a linear head on it is
trained from zero by as many simulated devices as correlated noise needs, N = n (τ + sep), with up to six images each.
A visit is the engine's; clipping, rounding, noise, account and applying are the product's own functions, for two
keyholders that add full noise each. Masks are left out: they cancel exactly (tests/privacy). Updates are 0 to τ versions
old, devices come in random order, never two landings closer than τ + sep versions, never more than the Plan allows.

Each contestant gets the server's rate that is best on held-out images (by one seed that is not counted) from one ladder,
a thing that a real Plan has to decide on public data. Accuracy is on the test images, of the Snapshot and of the mean of the
last half of all Snapshots so far. Data are taken from TACIT_DATA.

`--svg FILE` writes the picture.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from choice.backbone import HALF
from choice.data import CLASSES, FASHION, HOLDOUT, OWN, PROXIES, Examples, NoData
from choice.settings import setting
from choice.training import climbed
from harness import Row, run
from numpy.typing import NDArray
from torch import nn

from tacit.codec.quantise import dequantise_sum, inner_bound, quantise
from tacit.compiler.compile import compile_program
from tacit.coordinator.applying import apply_sum
from tacit.engine.player import Player
from tacit.keyholder.sums import noise_deviation
from tacit.plan.bundle import decode_snapshot, encode_snapshot, playable_blobs
from tacit.plan.checks import broken_numbers
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
from tacit.privacy.account import mu_of_epsilon
from tacit.privacy.blt import Blt, Correlated, sensitivity
from tacit.privacy.clip import clip
from tacit.privacy.noise import gauss, plain_noise
from tacit.wire.ids import key_id, sha256

FITTED = Blt((0.399578, 0.966917), (0.191968, 0.325262))  # from the table that is shipped
DELTA, KEYHOLDERS, BIG_Q, BITS = 1e-7, 2, 512, 24
MOST_IMAGES = 6  # of a device
LOCAL = LocalTraining(epochs=4, minibatch=8)
LOCAL_RATE = 0.1
CLIP = 0.5  # of a visit's typical norm at first: later visits change less
RATES = (0.12, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
ADAM_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
FIRST = (2, 3)  # the neighbouring rates that are tried first
TUNING_SEED = 100
LAST = 3  # an accuracy is the mean of the last looks


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


FULL = Rules(batch=100, max_age=2, separation=75, landings=4, snapshots=300, epsilons=(2, 4, 8), seeds=2, every=10)
QUICK = Rules(batch=20, max_age=2, separation=20, landings=4, snapshots=80, epsilons=(8,), seeds=1, every=20)


@dataclass(frozen=True, eq=False)
class Crowd:
    """The model, and everybody's images behind the frozen backbone."""

    playable: Playable
    player: Player
    kept: NDArray[np.uint8]  # behind the backbone, a row each image
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

    def delta(
        self, share: NDArray[np.integer], snapshot: NDArray[np.float32], draw: np.random.Generator
    ) -> NDArray[np.float32]:
        """What a visit with these images changes."""
        size = LOCAL.minibatch
        orders = [draw.permutation(len(share)) for _ in range(LOCAL.epochs)]
        parts = [order[at : at + size] for order in orders for at in range(0, len(order), size)]
        weights = np.ones(len(share), np.float32)
        rates = [LOCAL_RATE] * len(parts)
        visiting = self.player.visit([self.kept[share]], self.labels[share], weights, parts, rates, snapshot)
        visiting.play()
        return visiting.delta


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
    public = np.array_split(np.arange(PROXIES), PROXIES // len(shares[0]))
    judges = {name: (features(one), one.y) for name, one in (("test", parts.test), ("holdout", parts.holdout))}
    return Crowd(playable, player, kept[0], everything.y, shares, public, judges)


def typical_norm(crowd: Crowd) -> float:
    """The median norm of what a visit of public images changes at first."""
    draw = np.random.default_rng(0)
    return statistics.median(
        float(np.linalg.norm(crowd.delta(share, crowd.playable.initial, draw))) for share in crowd.public
    )


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


def manifest_of(crowd: Crowd, rules: Rules, contestant: Contestant, bound: float, rate: float) -> Manifest:
    """The Plan's numbers, held against everything that a device or keyholder would refuse them for."""
    d, mechanism = crowd.playable.program.d, contestant.mechanism
    if isinstance(mechanism, Blt):
        worst = sensitivity(mechanism, rules.landings, rules.separation, rules.snapshots)
    else:
        worst = rules.landings**0.5
    mu = 1e6 if contestant.epsilon is None else mu_of_epsilon(contestant.epsilon, DELTA)
    author, blobs = bytes(32), playable_blobs(crowd.playable)
    keys = [(bytes([j]) * 32, bytes([100 + j]) * 32) for j in range(KEYHOLDERS)]
    charter = Charter("noise", "", ("images",), author, tuple(sig for sig, _ in keys), 1, mu * mu, "device", 1)
    manifest = Manifest(
        format=FORMAT,
        title=contestant.name,
        charter_id=bytes(32),
        created_at=0,
        program=crowd.playable.program,
        local=LOCAL,
        server_rate=rate,
        quantisation=Quantisation(BITS, BIG_Q, inner_bound(BIG_Q, d), bound),
        batch=BatchRule(rules.batch, rules.batch, rules.batch, rules.max_age, (1,) * (rules.max_age + 1)),
        participation=Participation(rules.landings, rules.separation, rules.devices),
        noise=Noise(mechanism, 1 / mu, worst, rules.snapshots, mu * mu, DELTA),
        keyholders=tuple(KeyholderCard(sig, hpke, key_id(hpke, sig), "", "") for sig, hpke in keys),
        enrolment=bytes(32),
        coordinator=bytes(32),
        limits=Limits(1 << 20, 1 << 30, 60, 1),
        blobs=(),
    )
    sentence = broken_numbers(manifest, charter, author, {name: len(blob) for name, blob in blobs.items()})
    assert sentence is None, sentence
    return manifest


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


@dataclass(eq=False)
class Holder:
    """One keyholder's noise, as `keyholder/sums.py` makes it."""

    manifest: Manifest
    key: bytes
    correlated: Correlated | None = field(init=False)

    def __post_init__(self) -> None:
        mechanism = self.manifest.noise.mechanism
        self.correlated = Correlated(mechanism, self.manifest.words) if isinstance(mechanism, Blt) else None

    def noise(self, t: int) -> NDArray[np.int64]:
        key, d, sd = sha256(self.key + t.to_bytes(8, "big")), self.manifest.words, noise_deviation(self.manifest)
        if self.correlated is None:
            return plain_noise(key, bytes(32), t, bytes(32), d, sd)
        return np.rint(self.correlated.step(gauss(key, d) * sd)).astype(np.int64)


class Server:
    """From a sum to the next Snapshot: the product's, or Adam in its place."""

    def __init__(self, manifest: Manifest, kind: Literal["plain SGD", "Adam"]):
        self._manifest, self._kind, self._steps = manifest, kind, 0
        self._mean, self._square = (np.zeros(manifest.words) for _ in range(2))

    def applied(self, snapshot: NDArray[np.float32], total: NDArray[np.int64], count: int) -> NDArray[np.float32]:
        manifest, quant = self._manifest, self._manifest.quantisation
        if self._kind == "plain SGD":
            after = apply_sum(encode_snapshot(snapshot), total, [1] * count, manifest)
            return decode_snapshot(after, manifest.program.d)
        step = dequantise_sum(total, quant.clip, quant.q_in, count)
        self._steps += 1
        self._mean = 0.9 * self._mean + 0.1 * step
        self._square = 0.99 * self._square + 0.01 * step**2
        mean, square = self._mean / (1 - 0.9**self._steps), self._square / (1 - 0.99**self._steps)
        return (snapshot + manifest.server_rate * mean / (np.sqrt(square) + 1e-8)).astype(np.float32)


@dataclass(frozen=True)
class Curve:
    """Accuracy in per cent after so many Snapshots."""

    at: tuple[int, ...]
    snapshot: tuple[float, ...]
    average: tuple[float, ...]


def learnt(crowd: Crowd, rules: Rules, manifest: Manifest, server: Server, seed: int, judge: str = "test") -> Curve:
    """A whole run."""
    draw, quant = np.random.default_rng(seed), manifest.quantisation
    holders = [Holder(manifest, sha256(b"%d/%d" % (seed, j))) for j in range(KEYHOLDERS)]
    snapshots = deque([crowd.playable.initial], maxlen=rules.max_age + 1)  # the newest last
    passed = [np.zeros(manifest.words)]  # the sum of all Snapshots up to each
    at: list[int] = []
    single: list[float] = []
    average: list[float] = []
    for t, batch in enumerate(visitors(rules, seed)):
        total = np.zeros(manifest.words, np.int64)
        for device, version in batch:
            delta = crowd.delta(crowd.shares[device], snapshots[version - t - 1], draw)
            values = clip(delta, quant.clip).values
            total += quantise(values, quant.clip, quant.q, quant.q_in, draw.bytes)
        for holder in holders:
            total += holder.noise(t)
        assert np.abs(total).max() < 1 << (quant.bits - 1), "the ring is large enough, as the Plan was checked for"
        snapshots.append(server.applied(snapshots[-1], total, len(batch)))
        passed.append(passed[-1] + snapshots[-1])
        if (t + 1) % rules.every == 0:
            half = (t + 1) // 2
            at.append(t + 1)
            single.append(crowd.accuracy(snapshots[-1], judge))
            average.append(crowd.accuracy((passed[-1] - passed[half]) / (t + 1 - half), judge))
    return Curve(tuple(at), tuple(single), tuple(average))


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

    def at_rate(rung: int, seed: int, judge: str) -> Curve:
        began = time.perf_counter()
        manifest = manifest_of(crowd, rules, contestant, bound, rates[rung])
        found = learnt(crowd, rules, manifest, Server(manifest, contestant.server), seed, judge)
        reached = f"{statistics.fmean(found.snapshot[-LAST:]):.1f} %"
        say(f"{contestant.name}, rate {rates[rung]:g}, {judge}: {reached} in {time.perf_counter() - began:.0f} s")
        return found

    @cache
    def score(rung: int) -> float:
        tried[f"{rates[rung]:g}"] = value = statistics.fmean(at_rate(rung, TUNING_SEED, "holdout").snapshot[-LAST:])
        return value

    best = climbed(score, *FIRST, len(rates))
    curves = [at_rate(best, seed, "test") for seed in range(rules.seeds)]
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


def draw(results: Sequence[Result], path: Path) -> None:
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
    yield Contestant(Plain(), None)
    for epsilon in rules.epsilons:
        yield Contestant(Plain(), epsilon)
        yield Contestant(FITTED, epsilon)
    middle = rules.epsilons[len(rules.epsilons) // 2]
    yield Contestant(Plain(), None, "Adam")
    yield Contestant(Plain(), middle, "Adam")
    yield Contestant(FITTED, middle, "Adam")


def say(sentence: str) -> None:
    print(time.strftime("%H:%M:%S"), sentence, file=sys.stderr, flush=True)


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
        for contestant in contestants(rules):
            results.append(played(people, rules, contestant, bound, say))
        if asked.svg:
            draw(results, asked.svg)
        return rows(results)

    bench.__doc__ = __doc__
    try:
        return run(bench, rest, more=lambda: {"results": [asdict(one) for one in results]})
    except NoData as missing:
        print(f"nothing was measured: {missing}", file=sys.stderr)
        return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
