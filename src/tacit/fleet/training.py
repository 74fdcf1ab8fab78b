"""Visits of virtual devices, on the engine and with the very tapes that a device plays.

A worker is a thread with a player of its own, and the engine lets go of the interpreter while it plays; so two cores
train two devices at once. What a visit gives is a function of the device, its examples, the Snapshot and the seed
alone: no worker keeps anything, and how many there are changes no byte.
"""

import math
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.device.examples import Examples
from tacit.device.visit import Diverged, Rows, Stopped, Visit, train
from tacit.engine.player import Inputs, Kept, Player
from tacit.engine.visit import NotFinite
from tacit.fleet.draws import secret
from tacit.fleet.opening import Integers, integers_of, upload_of
from tacit.fleet.settings import Scenario
from tacit.plan.bundle import Plan, decode_snapshot, encode_snapshot
from tacit.plan.program import rate_at
from tacit.privacy.clip import clip
from tacit.wire.messages import Upload

Floats = NDArray[np.float32]

# Of the devices' learning rate. A device's steps are averaged over a batch of devices, the server's are not: at the
# full rate they cost 0.7 points of the holdout (two seeds), at a tenth they cost nothing (bench/RESULTS.md).
REPLAYED = 0.1


@dataclass(frozen=True, eq=False)
class Made:
    """What a visit came to: its delta's length, and what leaves of it; None where local training left the numbers.

    `delta` is there where it may have to be carried on.
    """

    said: Integers | Upload | None
    norm: float
    first_loss: float
    last_loss: float
    delta: Floats | None = None


@dataclass(frozen=True)
class Asked:
    """One visit: which device with which examples, from which Snapshot, on top of what it carries already."""

    device: int
    number: int  # counts the visits of a run
    version: int
    rows: NDArray[np.int64]
    snapshot: bytes
    bound: float  # that the delta is clipped to, where that is below the Plan's clip
    carried: Floats | None = None


class Pool:
    """The workers of one Plan."""

    def __init__(self, plan: Plan, examples: Examples | None, scenario: Scenario, workers: int = 0):
        self._plan, self._manifest, self._scenario = plan, plan.manifest, scenario
        self._playable = plan.playable()
        self._examples = examples
        self._own = threading.local()
        self.workers = workers or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(self.workers)
        self._kept: Kept | None = None
        if examples is not None and scenario.training == "engine" and scenario.keep:
            self._kept = self._keep(examples)

    def visit(self, asked: Asked) -> "Future[Made]":
        """Begins as soon as a worker is free."""
        return self._threads.submit(self._visit, asked)

    def judge(self, snapshot: bytes, test: Examples, most: int) -> tuple[float, float]:
        """The mean loss, and the share of right answers, on the first `most` test examples."""
        n = min(most, len(test))
        values = decode_snapshot(snapshot, self._manifest.program.d)

        def judge(part: slice) -> tuple[float, float]:
            return self._judge(values, test, part)

        found = list(self._threads.map(judge, self._parts(n)))
        loss, right = (math.fsum(parts) for parts in zip(*found, strict=True))
        return loss / n, right / n

    def right(self, snapshot: bytes, each: Sequence[NDArray[np.int64]]) -> list[float]:
        """The share of right answers on each of these sets of the devices' examples."""
        examples = self._examples
        assert examples is not None, "somebody has examples"
        values = decode_snapshot(snapshot, self._manifest.program.d)

        def one(rows: NDArray[np.int64]) -> float:
            own = examples.take(rows)
            self._player().load(values)
            return self._player().evaluate(own.inputs, own.labels)[1] / max(1, len(own))

        return list(self._threads.map(one, each))

    def replay(self, snapshot: bytes, public: Examples, version: int) -> bytes:
        """The Snapshot after the server has trained on some minibatches of public examples."""
        manifest, count = self._manifest, self._scenario.replay
        size = manifest.local.minibatch
        draw = np.random.default_rng([self._scenario.seed, 3, version])
        parts = [draw.integers(0, len(public), size) for _ in range(count)]
        values = decode_snapshot(snapshot, manifest.program.d)
        rates = [REPLAYED * rate_at(manifest.program.optimizer, version)] * count
        rows = np.unique(np.concatenate(parts))
        own = public.take(rows)
        parts = [np.searchsorted(rows, part) for part in parts]
        visiting = self._player().visit(own.inputs, own.labels, own.weights, parts, rates, values)
        try:
            visiting.play()
        except NotFinite:
            return snapshot
        return encode_snapshot(values + visiting.delta)

    def close(self) -> None:
        """What has not begun never does."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _visit(self, asked: Asked) -> Made:
        examples, manifest = self._examples, self._manifest
        assert examples is not None, "who trains has examples"
        rows: Rows
        if self._kept is None:
            rows = {name: values[asked.rows] for name, values in examples.inputs.items()}
        else:
            rows = [values[asked.rows] for values in self._kept]
        snapshot = decode_snapshot(asked.snapshot, manifest.program.d)
        start = snapshot if asked.carried is None else snapshot + asked.carried
        outcome = train(
            self._player(),
            rows,
            examples.labels[asked.rows],
            examples.weights[asked.rows],
            manifest,
            start,
            asked.version,
            secret(self._scenario.seed, b"order", asked.device),
            _never,
        )
        match outcome:
            case Visit(delta, first, last):
                return self._made(asked, delta if asked.carried is None else delta + asked.carried, first, last)
            case Diverged() | Stopped():
                return Made(None, math.nan, math.nan, math.nan)

    def _made(self, asked: Asked, delta: Floats, first: float, last: float) -> Made:
        seed, norm = self._scenario.seed, float(np.linalg.norm(delta.astype(np.float64)))
        shorter = clip(delta, asked.bound).values.astype(np.float32, copy=False)
        if self._scenario.masking == "real":
            said = upload_of(shorter, self._plan, seed, asked.device, asked.number, asked.version)
        else:
            said = integers_of(shorter, self._manifest, seed, asked.number)
        return Made(said, norm, first, last, None if self._scenario.trigger is None else delta)

    def _judge(self, values: Floats, test: Examples, part: slice) -> tuple[float, float]:
        player = self._player()
        player.load(values)
        inputs = {name: array[part] for name, array in test.inputs.items()}
        loss, right, _ = player.evaluate(inputs, test.labels[part])
        return loss, right

    def _player(self) -> Player:
        player: Player | None = getattr(self._own, "player", None)
        if player is None:
            player = self._own.player = Player(self._playable)
        return player

    def _keep(self, examples: Examples) -> Kept | None:
        """What the frozen prefix makes of everybody's examples, once."""
        if not self._manifest.program.kept:
            return None

        def keep(part: slice) -> Kept:
            inputs: Inputs = {name: values[part] for name, values in examples.inputs.items()}
            kept = self._player().keep(inputs)
            assert kept is not None, "this Plan has a prefix"
            return kept

        parts = list(self._threads.map(keep, self._parts(len(examples))))
        return [np.concatenate(rows) for rows in zip(*parts, strict=True)]

    def _parts(self, count: int) -> list[slice]:
        """Stretches of examples that do not depend on the number of workers: sums of losses must not."""
        step = max(256, -(-count // 64))
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def drawn(plan: Plan, scenario: Scenario, device: int, number: int, version: int) -> Made:
    """Instead of training: as long a delta as may be, in a random direction."""
    manifest, seed = plan.manifest, scenario.seed
    quantisation, d = manifest.quantisation, manifest.program.d
    bits = np.random.Generator(np.random.Philox(key=[seed, number])).bytes(-(-d // 8))
    signs = np.unpackbits(np.frombuffer(bits, np.uint8), count=d).astype(np.int32) * 2 - 1
    if scenario.masking == "counted":
        return Made(signs * max(1, math.isqrt(quantisation.q_in**2 // d)), quantisation.clip, math.nan, math.nan)
    delta = signs * np.float32(quantisation.clip / math.sqrt(d))
    return Made(upload_of(delta, plan, seed, device, number, version), quantisation.clip, math.nan, math.nan)


def _never() -> bool:
    return False
