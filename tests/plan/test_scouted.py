"""A scouting Plan's Snapshot is read as shares, with an error that is the noise's."""

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.codec.quantise import quantise, sigma_total
from tacit.coordinator.applying import apply_mean, mean_of
from tacit.coordinator.page import join_page
from tacit.errors import InputError
from tacit.plan.bundle import Plan, build_plan, encode_snapshot, parse_plan
from tacit.plan.program import Stretch
from tacit.plan.scouted import noise_of_sums, read_scouted
from tacit.plan.server import Server
from tacit.privacy.blt import Blt, column
from tacit.privacy.clip import clip
from tests.factory import make_world

ASKED = (*(Stretch("fc.weight", 8 * i, 8 * i + 8) for i in range(31)), Stretch("fc.bias"))


def scouting(tmp_path, asked: tuple[Stretch, ...] = ASKED) -> Plan:
    world = make_world(tmp_path, sigma=0.05, target=4, most=4, threshold=3, snapshots=5, d=len(asked))
    manifest = msgspec.structs.replace(
        world.plan.manifest,
        program=msgspec.structs.replace(world.plan.manifest.program, scouted=asked),
        server=Server(),
    )
    blobs = {name: blob.tobytes() for name, blob in world.plan.blobs.items()}
    return parse_plan(build_plan(manifest, world.plan.charter, blobs, world.author))


def test_shares_are_those_of_the_mean_direction_within_the_stated_error(tmp_path):
    plan, draw = scouting(tmp_path), np.random.default_rng(0)
    quant, noise = plan.manifest.quantisation, plan.manifest.noise
    deltas = np.abs(draw.normal(size=(4, len(ASKED)))) * np.linspace(0.1, 3, len(ASKED)) * 100
    directions = [clip(delta.astype(np.float32), quant.clip).values for delta in deltas]
    right = sum(directions) / np.sum(directions)
    deviation = sigma_total(1, noise.sigma, noise.sensitivity, 1, quant.q)

    off = []
    for _ in range(60):
        snapshot = encode_snapshot(np.zeros(len(ASKED), np.float32))
        for count in (4, 3, 4):  # one batch closed at its deadline
            whole = sum(
                quantise(one, quant.clip, quant.q, quant.q_in, draw.bytes).astype(np.int64)
                for one in directions[:count]
            )
            summed = whole + np.rint(draw.normal(size=len(ASKED)) * deviation).astype(np.int64)
            mean = mean_of(summed, [1] * count, plan.manifest)
            snapshot = apply_mean(snapshot, mean, plan.manifest.server).snapshot
        found = read_scouted(plan, snapshot, [4, 3, 4])
        assert tuple(found) == ASKED and sum(one.share for one in found.values()) == pytest.approx(1)
        middle = (2 * right + sum(directions[:3]) / np.sum(directions[:3])) / 3
        off += [(one.share - share) / one.error for one, share in zip(found.values(), middle, strict=True)]

    # Near 1, were there no rounding of the mean of two directions: the three batches' lengths differ a little.
    assert 0.85 < math.sqrt(np.mean(np.square(off))) < 1.15
    assert abs(np.mean(off)) < 0.1


@given(st.lists(st.floats(1.0, 9.0), min_size=2, max_size=3))
def test_an_error_is_what_noise_in_every_value_does_to_a_share(world_of: Callable[[int], Plan], values: list[float]):
    plan, x, tiny = world_of(len(values)), np.array(values, np.float32).astype(float), 1e-6
    found = list(read_scouted(plan, encode_snapshot(x.astype(np.float32))).values())
    moved = x + tiny * np.eye(len(x))
    slopes = (moved / moved.sum(axis=1, keepdims=True) - x / x.sum()) / tiny  # by value, of each share

    right = noise_of_sums(plan.manifest) * np.sqrt((slopes**2).sum(axis=0))
    assert [one.error for one in found] == pytest.approx(right, rel=1e-3)


@pytest.fixture(scope="module")
def world_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Plan]:
    plans = {n: scouting(tmp_path_factory.mktemp(f"{n}"), ASKED[:n]) for n in (2, 3)}
    return plans.__getitem__


def test_more_and_larger_batches_leave_less_noise_behind(tmp_path):
    manifest = scouting(tmp_path).manifest

    assert noise_of_sums(manifest) == noise_of_sums(manifest, [4] * 5)
    # Of a sum of means: per batch of signal it falls with the root of their number.
    assert noise_of_sums(manifest, [4] * 4) / 4 == pytest.approx(noise_of_sums(manifest, [4]) / 2)
    assert noise_of_sums(manifest, [8]) == pytest.approx(noise_of_sums(manifest, [4]) / 2, rel=0.01)


def test_the_noise_of_a_snapshot_counts_that_correlated_noises_cancel(tmp_path):
    blt = Blt((0.6, 0.9), (0.4, 0.2))
    manifest = make_world(tmp_path, mechanism=blt, sigma=50.0, landings=1, snapshots=30).plan.manifest
    one = manifest.server.rate * manifest.quantisation.clip / manifest.quantisation.q_in / manifest.batch.target
    drawn = manifest.noise.sigma * manifest.noise.sensitivity * manifest.quantisation.q
    first = column(blt, 30)
    written = np.array([[first[row - at] if row >= at else 0.0 for at in range(30)] for row in range(30)])

    left = one * drawn * np.linalg.norm(np.linalg.inv(written).sum(axis=0))

    assert noise_of_sums(manifest) == pytest.approx(left, rel=1e-3)
    assert noise_of_sums(manifest, [4, 2] * 15) == pytest.approx(left, rel=1e-3)  # divided by four all the same


def test_what_says_nothing_is_refused_with_the_reason(tmp_path):
    plan, zeros = scouting(tmp_path), np.zeros(len(ASKED), np.float32)
    one = noise_of_sums(plan.manifest)

    with pytest.raises(InputError, match="no batch of this Plan has been opened"):
        read_scouted(plan, encode_snapshot(zeros))
    with pytest.raises(InputError, match=r"lost in the noise: the total of 32 groups is 2\.8 times"):
        read_scouted(plan, encode_snapshot(zeros + np.float32(one / 2)))
    with pytest.raises(InputError, match="bytes"):
        read_scouted(plan, b"1234")
    with pytest.raises(InputError, match="asks for no statistics"):
        read_scouted(make_world(tmp_path / "other").plan, encode_snapshot(zeros))


def test_an_invitation_says_what_is_asked(tmp_path):
    plan = scouting(tmp_path)
    page = join_page(plan, "http://h", plan.author.hex(), plan)

    assert "asks for 32 statistics of gradients" in page and "trains nothing" in page
    assert "help train" not in page
