"""The benchmark of attackers: what they send, what meets it, and what is concluded."""

from functools import cache

import numpy as np
import pytest

from bench.attacks import Crowd, Curve, Result, Rules, Stance, digits, integers, learnt, plan_of, rows, typical
from tacit.codec.quantise import square_norm
from tacit.plan.manifest import Median


@cache
def crowd() -> Crowd:
    pytest.importorskip("sklearn")
    return digits(Rules(crowd=15, rounds=12, images=20, seeds=1, every=4))


def tight(groups: int = 1, bound: bool = True) -> Stance:
    return Stance("tight", 0.36 * typical(crowd()), groups, Median(), bound) if groups > 1 else Stance(
        "tight", 0.36 * typical(crowd()), bound=bound
    )  # fmt: skip


def test_attackers_within_the_clip_send_all_that_it_allows_and_no_more():
    manifest = plan_of(crowd(), tight(), 1.0)
    random = np.random.default_rng(1)
    sent = integers(random.normal(size=(4, manifest.words)), 1, manifest, random)
    pushed = integers(random.normal(size=(4, manifest.words)), 86.0, manifest, random)

    assert all(0.9 * manifest.quantisation.q_in**2 < square_norm(q) <= manifest.quantisation.q**2 for q in sent)
    assert all(np.linalg.norm(q) == pytest.approx(86 * manifest.quantisation.q, rel=0.01) for q in pushed)


def test_uniform_words_void_the_group_that_they_are_in_and_no_other():
    stance = tight(groups=5)
    manifest = plan_of(crowd(), stance, 4.0)

    honest = learnt(crowd(), stance, manifest, "none", 0.0, 0)
    wrecked = learnt(crowd(), stance, manifest, "uniform words", 0.04, 0)
    unbounded = learnt(crowd(), tight(bound=False), plan_of(crowd(), tight(), 4.0), "uniform words", 0.04, 0)

    assert (honest.void, wrecked.void > 0) == (0, True)
    assert wrecked.last > honest.last - 10
    assert unbounded.last < 50 < honest.last


def test_a_run_is_the_same_again_and_what_is_published_passed_its_check():
    stance, attack = tight(), "sign flip in concert"
    manifest = plan_of(crowd(), stance, 4.0)

    one, two = (learnt(crowd(), stance, manifest, attack, 0.4, 3) for _ in range(2))

    assert one == two
    assert one.fall <= 2


def result(stance: str, attack: str, share: float, last: float, checked: list[float]) -> Result:
    return Result(stance, attack, share, 1.0, [Curve([1, 2], [last, last], [last, last], checked, [3.0, 4.0], 0)])


def test_a_defence_may_cost_two_points_and_what_is_published_may_fall_by_two():
    found = {
        row.measure: row
        for row in rows(
            [
                result("no defences", "none", 0.0, 81.0, [80, 81]),
                result("no defences", "sign flip", 0.2, 40.0, [80, 40]),
                result("clip", "sign flip", 0.2, 79.5, [80, 79]),
                result("clip", "noise", 0.2, 78.0, [80, 79]),
                result("clip", "sign flip in concert", 0.2, 70.0, [80, 79]),
                result("clip", "at the gate's limit", 0.2, 10.0, [80, 77]),
            ]
        )
    }

    assert found["no defences: sign flip, 20% of devices: lost"].holds is None
    assert found["clip: sign flip, 20% of devices: lost"].holds is True
    assert found["clip: noise, 20% of devices: lost"].holds is False
    assert found["clip: sign flip in concert, 20% of devices: lost"].holds is None
    assert found["clip: at the gate's limit, 20% of devices: what is published fell"].holds is False
