"""What devices say of a Snapshot, and what the sum of it tells: never too long, and right in the mean."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tacit.codec.quantise import quantise
from tacit.coordinator.applying import publish_sum
from tacit.errors import InputError
from tacit.keyholder.sums import noise_deviation
from tacit.plan.bundle import Plan, PlanRefused, build_plan, playable_blobs
from tacit.plan.chain import broken_succession
from tacit.plan.evaluated import (
    Holding,
    Judged,
    Measured,
    answer,
    doubling,
    error_of,
    fairness,
    quantiles,
    read_judged,
)
from tacit.plan.evaluating import Evaluating, evaluation_of
from tacit.plan.manifest import Evaluation
from tacit.privacy.account import epsilon_of_mu
from tests.device.small import D, judged_world, learning_world
from tests.factory import following

FORMS = [
    *(Evaluation(bytes(32), 4.6, right, bins) for right, bins in ((True, 10), (True, 30), (True, 0), (False, 0))),
    Evaluation(bytes(32), 4.6, True, 10, ("phone", "laptop"), 12),
    Evaluation(bytes(32), 4.6, False, 0, ("phone",)),
    Evaluation(bytes(32), 4.6, True, 0, (), 5),
]
anything = st.floats(allow_nan=True, allow_infinity=True)


@given(st.data(), st.sampled_from(FORMS), st.integers(1, 40), st.sampled_from(["phone", "laptop", "", "fridge"]))
def test_no_answer_is_longer_than_one_whatever_the_model_says(data, asked, count, group):
    losses, right, sure = (data.draw(arrays.arrays(np.float64, count, elements=anything)) for _ in range(3))
    weights = data.draw(arrays.arrays(np.float32, count, elements=st.floats(0.125, 8, width=32)))
    said = answer(asked, losses, right, sure, weights, group)

    assert said.shape == (asked.values,) and np.isfinite(said).all()
    assert np.linalg.norm(said.astype(np.float64)) <= 1 + 1e-6


@pytest.mark.parametrize("extreme", [(0.0, 1.0, 1.0), (9.0, 1.0, 1.0), (0.0, 0.0, 1.0)])
def test_an_answer_may_be_as_long_as_one(extreme):
    """So there is no room left that noise could be saved by."""
    loss, right, sure = (np.full(3, value) for value in extreme)
    said = answer(FORMS[0], loss, right, sure, np.ones(3, np.float32))

    assert np.linalg.norm(said) > (0.99 if right.all() else 0.86)


def sums(plan: Plan, devices: list[np.ndarray], batches: int, seed: int) -> list[bytes]:
    """Snapshots as the coordinator makes them, with the noise that the Plan says and every rounding."""
    manifest, draw = plan.manifest, np.random.default_rng(seed)
    quant, count = manifest.quantisation, len(devices)
    snapshots = [plan.initial_snapshot]
    for _ in range(batches):
        total = np.sum([quantise(one, quant.clip, quant.q, quant.q_in, draw.bytes) for one in devices], axis=0)
        noise = (
            draw.normal(0, noise_deviation(manifest), (len(manifest.keyholders), manifest.values)).round().sum(axis=0)
        )
        snapshots.append(publish_sum(snapshots[-1], (total + noise).astype(np.int64), [1] * count, manifest).snapshot)
    return snapshots


def numbers(judged: Judged, asked: Evaluation) -> list[tuple[float, float]]:
    """Every number with its error."""
    all_of = [judged.one, judged.loss, judged.right, *(b.sure for b in judged.bins), *(b.right for b in judged.bins)]
    return [(one.value, one.error) for one in all_of if one is not None]


@pytest.mark.parametrize("keyholders", [1, 2])
def test_what_is_read_is_right_in_the_mean_and_its_error_is_what_it_says(tmp_path: Path, keyholders):
    _, world = judged_world(tmp_path, how=Evaluating(batch=6, noise=0.5), keyholders=keyholders)
    asked = world.plan.manifest.evaluation
    assert asked is not None
    draw = np.random.default_rng(1)
    devices, truth = [], []
    for count in (1, 5, 9, 20, 3, 7):
        right, sure, losses = draw.integers(0, 2, count).astype(float), draw.random(count), draw.exponential(1, count)
        devices.append(answer(asked, losses, right, sure, np.ones(count, np.float32)))
        bins = np.minimum((sure * 10).astype(int), 9)
        parts = [np.bincount(bins, part, 10) / count for part in (sure, right)]
        truth.append(np.hstack([1, np.minimum(losses, asked.most_loss).mean(), right.mean(), *parts]))
    wanted = np.mean(truth, axis=0)
    snapshots = sums(world.plan, devices, 100, seed=2)
    each = [read_judged(world.plan, snapshots[t : t + 2], [6])[0] for t in range(100)]
    away = np.array([[(v - w) / e for (v, e), w in zip(numbers(one, asked), wanted, strict=True)] for one in each])
    (pooled,) = read_judged(world.plan, snapshots, [6] * 100)

    # 2,300 normal numbers: their mean has a deviation of 0.021 and their deviation one of 0.015.
    assert abs(away.mean()) < 5 * 0.021 and abs(away.std() - 1) < 5 * 0.015
    for (value, error), right in zip(numbers(pooled, asked), wanted, strict=True):
        assert abs(value - right) < 5 * error
    assert (pooled.batches, pooled.devices) == (100, 600)
    assert pooled.loss.error == pytest.approx(each[0].loss.error / 10)


def test_groups_are_measured_apart_and_their_errors_are_what_they_say(tmp_path: Path):
    how = Evaluating(batch=60, threshold=10, noise=0.3, groups=("phone", "laptop", "fridge"), counts=6)
    _, world = judged_world(tmp_path, how=how, keyholders=2)
    asked = world.plan.manifest.evaluation
    assert asked is not None
    draw = np.random.default_rng(5)
    answers, of = [], []
    for number in range(60):
        group = "phone" if number < 30 else "laptop" if number < 55 else "fridge"
        count = int(draw.integers(1, 40))
        hits = (draw.random(count) < (0.5 if group == "phone" else 0.9)).astype(float)
        losses = draw.exponential(0.5, count)
        answers.append(answer(asked, losses, hits, draw.random(count), np.ones(count, np.float32), group))
        of.append((group, np.minimum(losses, asked.most_loss).mean(), hits.mean(), doubling(count, 6)))
    away: list[float] = []
    for t in range(60):
        (judged,) = read_judged(world.plan, sums(world.plan, answers, 1, seed=t), [60])
        for one in judged.groups[:2]:
            mine = [row for row in of if row[0] == one.name]
            assert one.loss is not None and one.right is not None
            away.append((one.devices.value - len(mine)) / one.devices.error)
            away.append((one.loss.value - np.mean([row[1] for row in mine])) / one.loss.error)
            away.append((one.right.value - np.mean([row[2] for row in mine])) / one.right.error)
        assert judged.groups[2].loss is None  # five answers, where a sum must have ten
        held = [sum(row[3] == number for row in of) / 60 for number in range(6)]
        away += [(one.share.value - share) / one.share.error for one, share in zip(judged.counts, held, strict=True)]
        fair = fairness(judged)
        assert fair is not None and (fair.best, fair.worst) == ("laptop", "phone")
        assert abs(fair.gap.value - 0.4) < 0.2

    # 720 nearly normal numbers, of which those of one group share an error.
    assert abs(np.mean(away)) < 5 * 0.06
    assert abs(np.std(away) - 1) < 5 * 0.04


@given(st.lists(st.integers(1, 4000), min_size=30, max_size=60))
def test_quantiles_without_noise_lie_within_a_doubling(counts):
    shares = np.bincount([doubling(count, 13) for count in counts], minlength=13) / len(counts)
    found = quantiles([Holding(1 << number, Measured(float(share), 0.0)) for number, share in enumerate(shares)])

    for one in found:
        # Of those that lie between two devices either may be meant.
        place = one.at * (len(counts) - 1)
        low, high = sorted(counts)[max(int(place) - 1, 0)], sorted(counts)[min(int(place) + 2, len(counts) - 1)]
        assert low / 2 <= one.count <= high * 2
        assert one.low == one.count == one.high


def test_a_thousand_answers_and_two_keyholders_tell_a_mean_to_1_4_percent(tmp_path: Path):
    _, world = judged_world(tmp_path, how=Evaluating(), keyholders=2)
    manifest = world.plan.manifest

    assert error_of(manifest, [1000])[2] == pytest.approx(0.0141, rel=0.03)
    assert epsilon_of_mu(manifest.mu2_life**0.5, 1e-7) == pytest.approx(2.2, abs=0.03)
    assert (manifest.batch.threshold, manifest.participation.landings) == (500, 20)


def test_a_batch_that_was_spoilt_says_nothing(tmp_path: Path):
    _, world = judged_world(tmp_path)
    snapshots = sums(world.plan, [np.zeros(23, np.float32)] * 4, 3, seed=0)

    assert read_judged(world.plan, snapshots, [None, None, None]) == []
    (judged,) = read_judged(world.plan, snapshots, [4, None, 4])
    assert (judged.batches, judged.devices) == (2, 8)


@pytest.mark.parametrize(
    ("evaluators", "rules", "how", "start", "says"),
    [
        (0, {}, Evaluating(), None, "no evaluation cohort.*--evaluators 5"),
        (5, {}, Evaluating(), bytes(8), f"has {4 * D} bytes and this one has 8"),
        (5, {"sigma": 4.0, "budgets": 1.0}, Evaluating(noise=5.0), None, "its budget for a device is mu² = 0.0625"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused_with_what_to_do(tmp_path, evaluators, rules, how, start, says):
    plan = with_cohort(learning_world(tmp_path, **rules), evaluators)

    with pytest.raises(InputError, match=says):
        evaluation_of(plan, plan.manifest.keyholders, how, start)


def with_cohort(world, evaluators):
    from tacit.plan.bundle import parse_plan

    charter = msgspec.structs.replace(world.plan.charter, evaluators=evaluators)
    blobs = playable_blobs(world.plan.playable())
    return parse_plan(build_plan(world.plan.manifest, charter, blobs, world.author))


def test_where_the_charter_allows_less_there_is_more_noise(tmp_path: Path):
    _, world = judged_world(tmp_path, sigma=4.0, budgets=1.0)
    manifest = world.plan.manifest

    assert manifest.mu2_life == pytest.approx(1 / 16, rel=1e-5) and manifest.mu2_life < 1 / 16
    assert manifest.noise.sigma * manifest.noise.sensitivity == pytest.approx((20 * 16) ** 0.5)


def test_an_evaluation_is_not_judged_itself(tmp_path: Path):
    _, world = judged_world(tmp_path)

    with pytest.raises(InputError, match="trains nothing"):
        evaluation_of(world.plan, world.plan.manifest.keyholders)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: {"evaluation": None}, "for the cohort 'eval'"),
        (
            lambda m: {"participation": msgspec.structs.replace(m.participation, cohort="train")},
            "for the cohort 'train'",
        ),
        (lambda m: {"batch": msgspec.structs.replace(m.batch, max_age=1, weights=(1, 1))}, "up to 1 versions apart"),
        (lambda m: {"quantisation": msgspec.structs.replace(m.quantisation, clip=2.0)}, "has the clip 1"),
        (lambda m: {"program": msgspec.structs.replace(m.program, score="loss")}, "nothing is right or wrong"),
        (lambda m: {"program": msgspec.structs.replace(m.program, output_shape=(3, 1))}, "does not choose one class"),
        (
            lambda m: {"evaluation": msgspec.structs.replace(m.evaluation, of=b"")},
            "judges the Snapshots of other Plans",
        ),
        (lambda m: {"evaluation": msgspec.structs.replace(m.evaluation, bins=9)}, "Snapshot 0 has"),
    ],
)
def test_a_plan_that_misstates_its_evaluation_is_refused(tmp_path: Path, change, says):
    _, world = judged_world(tmp_path)
    plan = world.plan
    blobs = {name: blob.tobytes() for name, blob in plan.blobs.items()}

    with pytest.raises(PlanRefused, match=says):
        build_plan(msgspec.structs.replace(plan.manifest, **change(plan.manifest)), plan.charter, blobs, world.author)


def test_a_plan_of_the_cohort_needs_a_charter_that_names_one(tmp_path: Path):
    _, world = judged_world(tmp_path)
    plan = world.plan
    charter = msgspec.structs.replace(plan.charter, evaluators=0)

    with pytest.raises(PlanRefused, match="its charter names none"):
        build_plan(plan.manifest, charter, {name: blob.tobytes() for name, blob in plan.blobs.items()}, world.author)


def test_nothing_goes_on_from_an_evaluation(tmp_path: Path):
    _, judging = judged_world(tmp_path)

    assert (
        broken_succession(judging.plan, following(judging, 0, d=64).plan) == "nothing is trained there that could go on"
    )
