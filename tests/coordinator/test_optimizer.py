"""The server's rules against the formulas of their papers, and what is promised of their bytes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.coordinator.applying import apply_mean
from tacit.coordinator.memories import KEPT, Memories
from tacit.coordinator.optimizer import Memory, MemoryBroken, begun, remembered, step
from tacit.plan.bundle import encode_snapshot
from tacit.plan.server import Adam, Mean, Momentum, Server, ServerOptimizer, Yogi
from tests.coordinator.direct import open_store
from tests.factory import make_world

shares = st.sampled_from([0.0, 0.5, 0.9, 0.99])
epsilons = st.sampled_from([1e-3, 0.1])
optimizers = st.one_of(
    st.just(Mean()),
    st.builds(Momentum, shares),
    st.builds(Adam, shares, shares, epsilons),
    st.builds(Yogi, shares, shares, epsilons),
)
servers = st.builds(Server, st.sampled_from([0.01, 1.0, 3.0]), optimizers, st.sampled_from([0.0, 0.8]))
values = st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=3).map(np.array)
runs = st.lists(values, min_size=1, max_size=6)
START = np.array([1.0, -2.0, 0.25], np.float32)


def played(server: Server, means: list[NDArray[np.float64]]) -> list[tuple[NDArray[np.float32], Memory]]:
    """Snapshots and memories, one after the other."""
    found = [(START, begun(server, START))]
    for mean in means:
        after = step(server, found[-1][0], mean, found[-1][1])
        found.append((after.values, after.memory))
    return found


def by_the_book(optimizer: ServerOptimizer, rate: float, means: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """One value after the other, in Python's own numbers, and not rounded between batches."""
    result = []
    for at, start in enumerate(START.tolist()):
        x, m = start, 0.0
        v = optimizer.eps**2 if isinstance(optimizer, Adam | Yogi) else 0.0
        for mean in means:
            d = float(mean[at])
            match optimizer:
                case Mean():
                    x += rate * d
                case Momentum(beta):
                    m = beta * m + d
                    x += rate * m
                case Adam(beta1, beta2, eps):
                    m, v = beta1 * m + (1 - beta1) * d, beta2 * v + (1 - beta2) * d * d
                    x += rate * m / (v**0.5 + eps)
                case Yogi(beta1, beta2, eps):
                    sign = (v > d * d) - (v < d * d)
                    m, v = beta1 * m + (1 - beta1) * d, v - (1 - beta2) * d * d * sign
                    x += rate * m / (v**0.5 + eps)
        result.append(x)
    return np.array(result)


@given(servers, runs)
def test_every_rule_is_that_of_its_paper(server: Server, means: list[NDArray[np.float64]]):
    last, _ = played(server, means)[-1]

    assert last == pytest.approx(by_the_book(server.optimizer, server.rate, means), rel=1e-5, abs=1e-4)


@given(st.one_of(st.just(Mean()), st.builds(Momentum, shares)), runs, runs)
def test_mean_and_momentum_keep_the_account_of_noise_because_they_are_linear(optimizer, some, others):
    """What a run of sums and a run of noises come to together is what each comes to by itself."""
    server = Server(1.0, optimizer)
    both = [a + b for a, b in zip(some, others, strict=False)]

    moved = [played(server, means[: len(both)])[-1][0].astype(float) - START for means in (both, some, others)]

    assert moved[0] == pytest.approx(moved[1] + moved[2], abs=1e-3)


@given(servers, runs)
def test_a_run_that_is_taken_up_again_from_its_bytes_has_the_same_bytes(server: Server, means):
    straight = played(server, means)[-1]

    values, kept = encode_snapshot(START), None
    for mean in means:
        memory = None if kept is None else remembered(server, 3, kept)
        following = apply_mean(values, mean, server, memory)
        values, kept = following.snapshot, following.memory.encode()

    assert (values, kept) == (encode_snapshot(straight[0]), straight[1].encode())


@given(servers.filter(lambda server: server.average > 0), runs)
def test_the_average_is_of_snapshots_and_nothing_starts_from_it(server: Server, means):
    run = played(server, means)

    average = START.astype(float)
    for values, memory in run[1:]:
        average = server.average * average + (1 - server.average) * values
        assert memory.average == pytest.approx(average)
    same = Server(server.rate, server.optimizer)
    assert [encode_snapshot(values) for values, _ in run] == [encode_snapshot(v) for v, _ in played(same, means)]


def test_what_is_remembered_has_the_size_that_the_rule_needs():
    sizes = {
        optimizer: len(begun(Server(1.0, optimizer, 0.5), START).encode())
        for optimizer in (Mean(), Momentum(0.5), Adam(0.9, 0.9, 0.1), Yogi(0.9, 0.9, 0.1))
    }

    assert list(sizes.values()) == [24, 48, 72, 72]
    assert begun(Server(), START).encode() == b""
    with pytest.raises(MemoryBroken, match="remembers 24 bytes and 8"):
        remembered(Server(1.0, Momentum(0.5)), 3, bytes(8))


def test_a_memory_belongs_to_its_snapshot_and_the_oldest_are_forgotten(tmp_path: Path):
    world = make_world(tmp_path, server=Server(0.5, Momentum(0.9), 0.8))
    store, server = open_store(world), world.plan.manifest.server
    memories, snapshot, kept = Memories(store.database, store.blobs), world.plan.initial_snapshot, []
    for version in range(1, KEPT + 4):
        following = apply_mean(snapshot, np.full(32, 1.0), server, None)
        snapshot = following.snapshot
        name = store.write_snapshot(snapshot)
        one = memories.write(following, name, version)
        assert one is not None
        kept.append((one, following))
        with store.database.transaction():
            dropped = memories.keep(one)
        store.blobs.delete(dropped)
        assert bool(dropped) == (version > KEPT)

    for one, following in kept[-KEPT:]:
        memory = memories.of(one.snapshot_hash, server, 32)
        assert memory is not None and memory.encode() == following.memory.encode()
        assert one.average is not None and memories.publishes(one.average)
        assert store.blobs.get(f"averages/{one.average.hex()}") == following.average
    assert [memories.of(one.snapshot_hash, server, 32) for one, _ in kept[:-KEPT]] == [None] * 3
    assert {one.name for one in store.blobs.under("averages")} == {n for n in memories.named() if n[0] == "a"}


def test_the_published_average_lags_behind_what_trains():
    server, start = Server(1.0, average=0.5), encode_snapshot(np.zeros(1, np.float32))

    first = apply_mean(start, np.array([8.0]), server)
    second = apply_mean(first.snapshot, np.array([8.0]), server, first.memory)

    assert [first.snapshot, second.snapshot] == [encode_snapshot(np.array([n], np.float32)) for n in (8, 16)]
    assert [first.average, second.average] == [encode_snapshot(np.array([n], np.float32)) for n in (4, 10)]
    assert apply_mean(start, np.array([8.0]), Server()).average is None
