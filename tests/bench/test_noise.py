"""The benchmark of learning under noise: who takes part when, and what is concluded."""

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.noise import Curve, Result, Rules, rows, visitors


@given(
    st.integers(1, 6),
    st.integers(0, 3),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=50, deadline=None)
def test_as_many_devices_as_correlated_noise_asks_for_are_enough_and_never_land_too_often_or_too_soon(
    batch, max_age, separation, landings, seed
):
    """N = n (τ + sep): a device sends from v, lands at t in v .. v + τ, and sends again from v + τ + sep on."""
    snapshots = landings * (max_age + separation)
    rules = Rules(batch, max_age, separation, landings, snapshots, epsilons=(), seeds=1, every=1)
    landed: dict[int, list[int]] = defaultdict(list)

    for t, chosen in enumerate(visitors(rules, seed)):
        assert len({device for device, _ in chosen}) == batch
        for device, version in chosen:
            assert max(0, t - max_age) <= version <= t
            landed[device].append(t)

    assert len(landed) <= rules.devices and sum(map(len, landed.values())) == batch * snapshots
    assert all(len(times) <= landings for times in landed.values())
    assert all((np.diff(times) >= separation).all() for times in landed.values())


def reached(mechanism: str, epsilon: float | None, accuracy: float, server: str = "plain SGD") -> Result:
    curve = Curve([1, 2], [accuracy, accuracy], [accuracy, accuracy])
    return Result(f"{mechanism} {epsilon} {server}", mechanism, epsilon, server, 1.0, {}, [curve])


def test_correlated_noise_is_asked_to_gain_at_the_same_epsilon_and_under_the_default_server_alone():
    gained = [reached("plain/1", 2.0, 70.0), reached("blt/1", 2.0, 71.0)]
    lost = [reached("plain/1", 4.0, 70.0), reached("blt/1", 4.0, 69.0)]
    adam = [reached("plain/1", 2.0, 70.0, "Adam"), reached("blt/1", 2.0, 60.0, "Adam")]

    found = {row.measure: row for row in rows([reached("plain/1", None, 80.0), *gained, *lost, *adam])}

    assert found["blt/1 2.0 plain SGD above plain"].holds is True
    assert found["blt/1 4.0 plain SGD above plain"].holds is False
    assert (found["blt/1 2.0 Adam above plain"].value, found["blt/1 2.0 Adam above plain"].holds) == (-10.0, None)
