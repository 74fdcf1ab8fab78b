"""The invariants of the protocol that are tested nowhere else; tests/README.md says where each of them is."""

import re
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tacit.codec.quantise import ring_fits
from tacit.codec.ring import RING_BITS, center, wrap
from tacit.device.decision import next_ok_version
from tacit.keyholder.checks import Knowledge, examine
from tacit.keyholder.keys import load_card
from tacit.plan.checks import broken_numbers
from tacit.plan.manifest import KeyholderCard, Manifest, Plain
from tacit.privacy.blt import Blt, Correlated, broken, column, squared_sensitivities
from tacit.privacy.noise import gauss
from tacit.privacy.trust import Trust
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import Digest, KeyId, key_id, sha256
from tacit.wire.messages import MAX_KEYHOLDERS, Entry, decode, encode, entry_of
from tests.factory import Device, World, make_world
from tests.privacy.schedules import several

SCHEDULES = 40  # for each of the seeds; `python -m tests.privacy.campaign` plays as many as there is time for
HOUR = int(time.time()) // 3600
VERSIONS = range(4)
TESTS = Path(__file__).parents[1]


def strategies() -> st.SearchStrategy[Blt]:
    """Strategies that `broken` lets pass."""
    buffers = st.lists(st.tuples(st.floats(0.01, 0.999), st.floats(0.01, 1.0)), min_size=1, max_size=4)

    def scaled(drawn: list[tuple[float, float]]) -> Blt:
        total = max(1.0, sum(omega for _, omega in drawn) * (1 + 1e-9))
        return Blt(tuple(theta for theta, _ in drawn), tuple(omega / total for _, omega in drawn))

    return buffers.map(scaled)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), 2, max_age=2)


def head_hash(world: World, version: int) -> Digest:
    return world.head_hash(version, sha256(bytes([version])))


def knowledge(world: World, t: int = 2, **known: Any) -> Knowledge:
    """What the first keyholder knows in batch t."""
    card = load_card(world.keyholder_home(), KeyId(world.plan.manifest.keyholders[0].key_id))
    assert card is not None
    heads = {version: head_hash(world, version) for version in VERSIONS if version <= t}
    return replace(Knowledge(world.plan, 1, card.private, t, heads, frozenset(), {}, HOUR), **known)


def entry_for(world: World, version: int, device: Device | None = None, **given: Any) -> Entry:
    return entry_of((device or Device(world)).update(version, head_hash(world, version), **given), 1)


# I3


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_bit_of_an_entry_can_be_changed(world: World, data: st.DataObject):
    good = encode(entry_for(world, 1))
    assert [len(part) for part in examine([decode(Entry, good)], knowledge(world))] == [1, 0]
    at, bit = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 7))
    bad = good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :]

    try:
        entry = decode(Entry, bad)
    except Refusal:
        return  # not the bytes of an entry any more

    accepted, rejected = examine([entry], knowledge(world))
    assert (accepted, len(rejected)) == ([], 1), f"bit {bit} of byte {at}"


def test_a_seed_that_the_coordinator_knows_is_not_taken_under_an_honest_header(world: World):
    mine, honest = entry_for(world, 1), entry_for(world, 1)

    _, rejected = examine([msgspec.structs.replace(honest, sealed=mine.sealed)], knowledge(world))

    assert [one.code for one in rejected] == [Code.E_SEAL_HASH]


# I4, I5, I16


@pytest.mark.parametrize("seed", range(4))
def test_a_lying_coordinator_gets_nothing_that_the_rules_do_not_give(seed: int):
    """What must hold is written in `tests.privacy.schedules`. Lists are opened, or it would say nothing."""
    assert several(seed, SCHEDULES) > SCHEDULES


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 100)), min_size=2, max_size=6),
    st.integers(0, 20),
    st.integers(1, 50),
)
def test_windows_alone_keep_landings_apart(world: World, steps: list[tuple[int, int]], max_age: int, separation: int):
    """The separation lemma: a device that waits and a keyholder that looks at ages; nothing else is used."""
    manifest = world.plan.manifest
    noise = msgspec.structs.replace(manifest.noise, mechanism=Blt((0.5,), (0.5,)))
    batch = msgspec.structs.replace(manifest.batch, max_age=max_age)
    part = msgspec.structs.replace(manifest.participation, separation=separation)
    manifest = msgspec.structs.replace(manifest, noise=noise, batch=batch, participation=part)
    landed: list[int] = []
    next_ok = 0
    for later, age in steps:
        version = next_ok + later
        landed.append(version + age % (max_age + 1))  # whenever the coordinator likes, within the window
        next_ok = next_ok_version(manifest, version)

    assert all(after - before >= separation for before, after in pairwise(landed))


# I6


@settings(deadline=None)
@given(strategies(), st.integers(1, 4), st.integers(1, 6), st.integers(4, 24), st.data())
def test_debits_cover_every_pattern_of_landings(
    blt: Blt, landings: int, separation: int, snapshots: int, data: st.DataObject
):
    """Landings that skip batches, come late or never cost no more than was debited for as many."""
    assert broken(blt) is None
    matrix = np.zeros((snapshots, snapshots))
    for at in range(snapshots):
        matrix[at:, at] = column(blt, snapshots)[: snapshots - at]
    landed, t = [], data.draw(st.integers(0, snapshots - 1))
    while t < snapshots and len(landed) < landings:
        landed.append(t)
        t += separation + data.draw(st.integers(0, 5))
    squares = squared_sensitivities(blt, landings, separation, snapshots)
    debits = np.diff(squares)

    moved = matrix[:, landed].sum(axis=1)
    assert (debits >= -1e-12).all()
    assert moved @ moved <= debits[: len(landed)].sum() * (1 + 1e-12)


# I8


@given(weights=st.lists(st.integers(1, 9), min_size=3, max_size=3), t=st.sampled_from([2, 3]), age=st.integers(0, 2))
@settings(max_examples=30, deadline=None)
def test_a_weight_is_that_of_its_age(world: World, weights: list[int], t: int, age: int):
    table = tuple(sorted(weights, reverse=True))
    batch = msgspec.structs.replace(world.plan.manifest.batch, weights=table)
    plan = replace(world.plan, manifest=msgspec.structs.replace(world.plan.manifest, batch=batch))
    known = knowledge(world, t, plan=plan, head_hashes={t - age: head_hash(world, t - age)})

    accepted, _ = examine([entry_for(world, t - age)], known)

    assert [one.weight for one in accepted] == [table[age]]


# I9


def test_correlated_noise_has_the_covariance_of_the_inverse():
    """40,000 coordinates: every entry of the 8 x 8 covariance within 5 standard errors of C^-1 C^-T."""
    blt, d, steps = Blt((0.9, 0.5), (0.3, 0.3)), 40_000, 8
    matrix = np.zeros((steps, steps))
    for at in range(steps):
        matrix[at:, at] = column(blt, steps)[: steps - at]
    inverse = np.linalg.inv(matrix)
    expected = inverse @ inverse.T
    noise = Correlated(blt, d)
    drawn = np.array([noise.step(gauss(sha256(bytes([t])), d)) for t in range(steps)])

    error = np.sqrt((expected**2 + np.outer(np.diag(expected), np.diag(expected))) / d)
    assert (np.abs(drawn @ drawn.T / d - expected) < 5 * error).all()
    assert np.abs(drawn @ drawn.T / d - np.eye(steps)).max() > 20 * error.max()  # independent noise would not pass


# I10


@given(
    bits=st.sampled_from(RING_BITS),
    most=st.integers(1, 2000),
    weight=st.integers(1, 8),
    big_q=st.integers(6, 2**20 - 1),
    sd=st.floats(0, 1e6),
    sign=st.sampled_from([-1, 1]),
)
def test_the_largest_sum_of_any_plan_does_not_wrap(bits: int, most: int, weight: int, big_q: int, sd: float, sign: int):
    """All devices say the most that one coordinate can hold, and the noise is eight deviations off."""
    assume(ring_fits(bits, most, weight, big_q, sd))
    total = np.array([sign * (most * weight * big_q + int(8 * sd))])

    assert center(wrap(total, bits), bits).tolist() == total.tolist()


# I12


BAD = {
    "another plan": {"plan_id": bytes(32)},
    "another HEAD": {"head_hash": bytes(32)},
    "another payload": {"payload_hash": bytes(32)},
    "another seal": {"sealed": bytes(80)},
    "another signature": {"signature": bytes(64)},
    "the future": {"base_version": 9},
}


def said(entry: Entry, known: Knowledge) -> list[tuple[Code, str]]:
    """What is said of one entry, without its id."""
    return [(one.code, one.reason.replace(one.update_id.hex(), "ID")) for one in examine([entry], known)[1]]


@pytest.mark.parametrize("change", sorted(BAD))
def test_what_is_said_of_a_bad_entry_does_not_depend_on_its_integers(world: World, change: str):
    device, known = Device(world), knowledge(world)
    largest = np.zeros(world.plan.manifest.program.d, np.int64)
    largest[0] = 512
    entries = [entry_for(world, 1, device, q=q) for q in (np.zeros_like(largest), largest, -largest)]

    words = {repr(said(msgspec.structs.replace(entry, **BAD[change]), known)) for entry in entries}

    assert len(words) == 1
    assert words != {"[]"}


def test_what_is_said_of_a_seal_does_not_depend_on_what_it_holds(world: World):
    """Sealed to another key, bound to another place, or no ciphertext at all: one word for all of them."""
    device, known = Device(world), knowledge(world)
    card = world.plan.manifest.keyholders[0]
    others = [
        msgspec.structs.replace(card, hpke_pk=world.plan.manifest.keyholders[1].hpke_pk),
        msgspec.structs.replace(card, key_id=bytes(16)),
    ]
    entries = [entry_for(world, 1, device, cards=[other, card]) for other in others]

    assert {repr(said(entry, known)) for entry in entries} == {repr(said(entries[0], known))}
    assert [code for code, _ in said(entries[0], known)] == [Code.E_UNSEAL]


# I14, I17


def reason(world: World, manifest: Manifest) -> str | None:
    blobs = {name: blob.size for name, blob in world.plan.blobs.items()}
    return broken_numbers(manifest, world.plan.charter, world.plan.author, blobs)


def operated(manifest: Manifest, operators: list[str], claimed: Trust) -> Manifest:
    cards = tuple(
        msgspec.structs.replace(card, operator=name) for card, name in zip(manifest.keyholders, operators, strict=True)
    )
    return msgspec.structs.replace(manifest, keyholders=cards, trust=claimed)


@given(operators=st.lists(st.sampled_from(["", "a", "b"]), min_size=2, max_size=2), claimed=st.sampled_from(Trust))
def test_a_plan_claims_no_more_trust_than_its_keyholders_could_give(world: World, operators: list[str], claimed: Trust):
    distinct = len(set(operators) - {""})

    said = reason(world, operated(world.plan.manifest, operators, claimed))

    assert (said is not None and "claims to be" in said) == (list(Trust).index(claimed) > distinct)


@given(
    claimed=st.sampled_from(Trust),
    weights=st.sampled_from([(1, 1, 1), (2, 1, 1), (8, 6, 5), (3, 3, 3)]),
    steps=st.floats(1e-3, 100),
)
def test_weights_are_refused_where_no_noise_hides_them(world: World, claimed: Trust, weights: tuple, steps: float):
    """`steps` is the noise that one keyholder adds for a weight of 1, in steps of the ring."""
    manifest = operated(world.plan.manifest, ["a", "b"], claimed)
    sigma = steps / (manifest.noise.sensitivity * manifest.quantisation.q)
    noise = msgspec.structs.replace(manifest.noise, mechanism=Plain(), sigma=sigma, mu2_total=1 / sigma**2 * 1.01)
    manifest = msgspec.structs.replace(
        manifest, noise=noise, batch=msgspec.structs.replace(manifest.batch, weights=weights)
    )
    charter = msgspec.structs.replace(world.plan.charter, mu2_total=noise.mu2_total * 2)
    blobs = {name: blob.size for name, blob in world.plan.blobs.items()}

    said = broken_numbers(manifest, charter, world.plan.author, blobs)

    hidden = claimed is Trust.SINGLE_OPERATOR or (claimed is Trust.THREE_PARTY and steps >= 4)
    assume(abs(steps - 4) > 1e-9)
    assert (said is None) == (max(weights) == 1 or hidden), said


@pytest.mark.parametrize("count", [0, 1, MAX_KEYHOLDERS, MAX_KEYHOLDERS + 1])
def test_a_plan_names_as_many_keyholders_as_an_update_has_seals_for(world: World, count: int):
    """One more would make a Plan that no device can send anything to."""
    cards: list[KeyholderCard] = []
    for j in range(count):
        sig_pk, hpke_pk = bytes([j]) * 32, bytes([j + 100]) * 32
        cards.append(KeyholderCard(sig_pk, hpke_pk, key_id(hpke_pk, sig_pk), "http://127.0.0.1:1"))
    manifest = msgspec.structs.replace(world.plan.manifest, keyholders=tuple(cards))
    charter = msgspec.structs.replace(world.plan.charter, keyholders=tuple(card.sig_pk for card in cards))
    blobs = {name: blob.size for name, blob in world.plan.blobs.items()}

    said = broken_numbers(manifest, charter, world.plan.author, blobs)

    assert (said is None) == (1 <= count <= MAX_KEYHOLDERS), said


# The table in tests/README.md


def test_every_test_that_the_table_names_is_there():
    rows = re.findall(r"^\| (I\d+) \|.*\| (.*) \|$", (TESTS / "README.md").read_text(), re.MULTILINE)

    assert [name for name, _ in rows] == [f"I{n}" for n in range(1, 18)]
    for name, cells in rows:
        named = re.findall(r"`([\w/]+)\.py::(\w+)`", cells)
        assert named, name
        for path, test in named:
            text = (TESTS / f"{path}.py").read_text()
            assert re.search(rf"^(class|def) {test}\b", text, re.MULTILINE), f"{name}: {path}.py has no {test}"
