"""A Plan whose sites add their noise: what must hold of one is computed again by every reader."""

import math
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.plan.bundle import PlanRefused, build_plan, parse_plan
from tacit.plan.checks import noise_total
from tacit.plan.manifest import Manifest, OnDevice
from tacit.plan.program import Optimizer, Stretch
from tacit.plan.silo import silo_numbers
from tacit.privacy.account import epsilon_of_mu
from tests.factory import World, make_world

change = msgspec.structs.replace


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("silo"), mechanism=OnDevice("patient", 1.0, 2), sigma=0.7, target=4)


def rebuilt(world: World, edit: Callable[[Manifest], Manifest]) -> bytes:
    plan = world.plan
    blobs = {name: blob.tobytes() for name, blob in plan.blobs.items()}
    return build_plan(edit(plan.manifest), plan.charter, blobs, world.author)


def test_every_pass_of_every_landing_is_counted(world: World):
    manifest = world.plan.manifest
    landings = manifest.participation.landings
    multiplier = manifest.noise.sigma * manifest.noise.sensitivity

    assert manifest.spent(landings) == pytest.approx(2 * landings / multiplier**2)
    assert sum(manifest.debit(j) for j in range(1, landings + 1)) == pytest.approx(1 / manifest.noise.sigma**2)
    assert noise_total(manifest) == 0.0


def mechanism(**changes: object) -> Callable[[Manifest], Manifest]:
    return lambda m: change(m, noise=change(m.noise, mechanism=change(m.noise.mechanism, **changes)))


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (mechanism(passes=1), "noise is for 1 passes and a visit makes 2"),
        (mechanism(passes=3), "claims sensitivity 2.44949; 3 landings have 3"),
        (
            lambda m: change(m, noise=change(m.noise, sensitivity=2e6)),
            "noise of 1.4e+06 clips is more than the 1.05e+06",
        ),
        (mechanism(group=""), "its unit is the patient and its groups are by ''"),
        (lambda m: change(m, batch=change(m.batch, threshold=2)), "sums of 2 sites are opened, and fewer than 3"),
        (lambda m: change(m, participation=change(m.participation, devices=7)), "up to 8 Updates and it counts on 7"),
        (lambda m: change(m, batch=change(m.batch, weights=(2, 1, 1))), "weights other than 1 are not allowed"),
        (lambda m: change(m, noise=change(m.noise, unit="device")), "its noise protects another"),
        (lambda m: change(m, local=change(m.local, whole=True)), "in which groups meet"),
        (lambda m: change(m, program=change(m.program, weight="w")), "has weights by example"),
        (lambda m: change(m, noise=change(m.noise, mu2_total=0.1)), "claims a budget of mu² = 0.1"),
        (
            lambda m: change(
                m,
                local=change(m.local, balance=True),
                program=change(m.program, logit_bias=0),
            ),
            "starts where the labels of its device say",
        ),
        (
            lambda m: change(m, program=change(m.program, scouted=tuple(Stretch(f"p{n}") for n in range(m.program.d)))),
            "asks for statistics of gradients",
        ),
    ],
)
def test_what_would_protect_nobody_is_refused_with_its_values(world: World, edit, why: str):
    with pytest.raises(PlanRefused) as refused:
        parse_plan(rebuilt(world, edit))

    assert why in str(refused.value)


@given(st.floats(0.5, 20), st.sampled_from([1e-5, 1e-7]), st.integers(3, 60), st.integers(1, 50), st.integers(1, 5))
def test_the_numbers_of_a_task_are_worth_what_was_asked(epsilon, delta, sites, rounds, passes):
    found = silo_numbers(
        d=100,
        epsilon=epsilon,
        delta=delta,
        group="patient",
        clip=1.0,
        sites=sites,
        absent=0,
        rounds=rounds,
        passes=passes,
        steps=4 * passes,
        step_groups=50,
        optimizer=Optimizer(0.1, momentum=0.5),
    )
    multiplier = found.noise.sigma * found.noise.sensitivity

    spent = epsilon_of_mu(math.sqrt(rounds * passes) / multiplier, delta)
    assert epsilon * 0.999 <= spent <= epsilon * (1 + 1e-6)
    assert found.batch.threshold == found.batch.most == sites and found.participation.landings == rounds


def test_the_specifications_multipliers_by_passes():
    """N = 1,000 patients, ten passes, δ = 1e-5: what noise ε = 2, 4 and 8 ask for."""
    for epsilon, sigma in ((2, 6.30), (4, 3.42), (8, 1.90)):
        found = silo_numbers(
            d=10, epsilon=epsilon, delta=1e-5, group="", clip=1.0, sites=4, absent=0, rounds=10, passes=1, steps=10,
            step_groups=100, optimizer=Optimizer(0.1),
        )  # fmt: skip
        assert found.noise.sigma * found.noise.sensitivity == pytest.approx(sigma, abs=0.006)
        assert found.noise.unit == "record"
