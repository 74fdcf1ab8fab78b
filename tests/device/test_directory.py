"""Whom a device trusts: its own directory, and no word of a Plan or a coordinator."""

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.device.directory import TrustOverclaimed, WeightsTellApart, operators, pin, trusted, unpin
from tacit.errors import InputError
from tacit.keyholder.keys import new_card
from tacit.plan.bundle import Plan, PlanRefused, build_plan, parse_plan
from tacit.plan.manifest import Manifest
from tacit.privacy.trust import Trust, trust_of
from tests.factory import World, make_plan, make_world

NAMES = ("a university", "a patients' union")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def plan_of(world: World, names: tuple[str, ...] = NAMES, claim: Trust = Trust.THREE_PARTY, **changes: object) -> Plan:
    """A Plan with keyholders that call themselves so, and which claims that."""
    homes = [world.folder / f"of{j}" for j in range(len(names))]
    pairs = zip(homes, names, strict=True)
    cards = [new_card(home, "https://keys.example.org", os.urandom, name) for home, name in pairs]
    made = parse_plan(make_plan(world.author, world.coordinator, cards))
    manifest: Manifest = msgspec.structs.replace(made.manifest, trust=claim, **changes)
    blobs = {name: blob.tobytes() for name, blob in made.blobs.items()}
    return parse_plan(build_plan(manifest, made.charter, blobs, world.author))


def pinned(plan: Plan, count: int) -> dict[bytes, str]:
    return {card.sig_pk: card.operator for card in plan.manifest.keyholders[:count]}


def test_a_claim_is_believed_as_far_as_the_directory_bears_it_out(world: World):
    plan = plan_of(world)

    assert trusted(plan, pinned(plan, 2), None) is Trust.THREE_PARTY
    for count, found in ((0, Trust.SINGLE_OPERATOR), (1, Trust.TWO_PARTY)):
        with pytest.raises(TrustOverclaimed) as caught:
            trusted(plan, pinned(plan, count), None)
        assert (caught.value.claimed, caught.value.found) == (Trust.THREE_PARTY, found)
        for card in plan.manifest.keyholders[count:]:
            assert f"{card.sig_pk.hex()}" in str(caught.value)
        assert f"--accept-trust {found}" in str(caught.value)


def test_an_owner_may_accept_less_than_is_claimed_and_is_told_what_it_is(world: World):
    plan = plan_of(world)

    assert trusted(plan, pinned(plan, 1), Trust.TWO_PARTY) is Trust.TWO_PARTY
    assert trusted(plan, {}, Trust.SINGLE_OPERATOR) is Trust.SINGLE_OPERATOR
    with pytest.raises(TrustOverclaimed):
        trusted(plan, {}, Trust.TWO_PARTY)


def test_a_plan_that_claims_little_needs_no_word_and_is_worth_what_the_directory_gives(world: World):
    plan = plan_of(world, claim=Trust.SINGLE_OPERATOR)

    assert trusted(plan, {}, None) is Trust.SINGLE_OPERATOR
    assert trusted(plan, pinned(plan, 2), None) is Trust.THREE_PARTY


@given(
    st.dictionaries(st.integers(0, 3), st.sampled_from(NAMES)),
    st.sampled_from(list(Trust)),
    st.none() | st.sampled_from(list(Trust)),
)
def test_no_claim_and_no_name_in_a_plan_gives_more_than_the_directory(world: World, known, claim, accepted):
    """I14: the label is never above what is computed; a keyholder outside the directory counts as embedded."""
    plan = plan_of(world, claim=claim)
    keys = [*(card.sig_pk for card in plan.manifest.keyholders), bytes(32), bytes([1]) * 32]
    directory = {keys[index]: name for index, name in known.items()}
    computed = trust_of(keys[:2], directory)

    try:
        shown = trusted(plan, directory, accepted)
    except TrustOverclaimed:
        assert not claim.at_most(computed)
        assert accepted is None or not accepted.at_most(computed)
    else:
        assert shown is computed
        assert len({directory[key] for key in keys[:2] if key in directory}) == list(Trust).index(shown)


def test_a_claim_that_no_directory_could_bear_out_is_no_plan(world: World):
    for names in (("", ""), ("one", "one")):
        with pytest.raises(PlanRefused, match="claims to be three-party"):
            plan_of(world, names)


def test_age_weights_are_refused_by_the_trust_that_was_found_not_the_one_that_is_claimed(world: World):
    """I17: weights above 1 where a keyholder that sees the sum knows the noise, or where the noise is too small."""
    batch = msgspec.structs.replace(world.plan.manifest.batch, weights=(8, 6, 5))
    small = plan_of(world, claim=Trust.SINGLE_OPERATOR, batch=batch)
    loud = msgspec.structs.replace(world.plan.manifest.noise, sigma=1.0)
    large = plan_of(world, claim=Trust.THREE_PARTY, batch=batch, noise=loud)

    assert trusted(small, {}, None) is Trust.SINGLE_OPERATOR  # claims nothing against the operator
    with pytest.raises(WeightsTellApart, match="two-party"):
        trusted(small, pinned(small, 1), None)
    with pytest.raises(WeightsTellApart, match="need noise of at least 4 steps"):
        trusted(small, pinned(small, 2), None)
    assert trusted(large, pinned(large, 2), None) is Trust.THREE_PARTY
    with pytest.raises(WeightsTellApart):
        trusted(large, pinned(large, 1), Trust.TWO_PARTY)


def test_the_directory_is_the_owner_s_alone_and_in_one_form(tmp_path: Path):
    pin(tmp_path, NAMES[1], "0B" * 32)
    pin(tmp_path, NAMES[0], "0a" * 32)
    path = tmp_path / "operators.json"

    assert path.read_text() == f'{{"{"0a" * 32}":"{NAMES[0]}","{"0b" * 32}":"{NAMES[1]}"}}\n'
    assert path.stat().st_mode & 0o777 == 0o600
    for wrong in (b"{", b'{"aa":"x"}\n', path.read_bytes()[:-1], path.read_bytes().replace(b",", b", ")):
        good = path.read_bytes()
        path.write_bytes(wrong)
        with pytest.raises(InputError, match="pin your operators again"):
            operators(tmp_path)
        path.write_bytes(good)
    path.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        operators(tmp_path)


def test_a_key_has_one_name_and_an_operator_may_have_several(tmp_path: Path):
    pin(tmp_path, "uni", "0a" * 32)
    pin(tmp_path, "uni", "0b" * 32)

    with pytest.raises(InputError, match="pinned as 'uni'"):
        pin(tmp_path, "another", "0a" * 32)
    for name, key in (("uni", "0a"), ("", "0a" * 32), ("a\nb", "0c" * 32)):
        with pytest.raises(InputError):
            pin(tmp_path, name, key)
    assert set(operators(tmp_path).values()) == {"uni"}
    unpin(tmp_path, "0a" * 32)
    assert list(operators(tmp_path)) == [bytes.fromhex("0b" * 32)]
    with pytest.raises(InputError, match="not in the directory"):
        unpin(tmp_path, "nobody")
