"""A Plan's file: what was signed is what is read, and whatever does not hold is refused in a sentence."""

import hashlib
import os
import struct
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tacit.plan import manifest as canonical
from tacit.plan.bundle import PlanRefused, build_plan, decode_snapshot, encode_snapshot, parse_plan, read_plan
from tacit.plan.checks import room_text
from tacit.plan.claim import claim
from tacit.plan.manifest import FORMAT, Gate, OnDevice, Places
from tacit.plan.program import KeptTensor, Optimizer, Resources, Stretch
from tacit.plan.server import Momentum, Server
from tacit.plan.tape import Number
from tacit.privacy.trust import Trust
from tacit.wire.keys import SigningKey
from tests.factory import World, make_world

change = msgspec.structs.replace


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("plan"), keyholders=2)


def rebuilt(world: World, edit) -> bytes:
    """The same Plan with an edited manifest, signed again by its author."""
    plan = world.plan
    blobs = {name: blob.tobytes() for name, blob in plan.blobs.items()}
    return build_plan(edit(plan.manifest), plan.charter, blobs, world.author)


def test_a_plan_is_read_back_from_its_file_without_torch(world: World):
    plan = read_plan(world.plan_file)

    assert plan.plan_id == world.plan.plan_id
    assert plan.manifest == world.plan.manifest
    assert decode_snapshot(plan.initial_snapshot, plan.manifest.program.d).tolist()[:3] == [0, 0.125, 0.25]
    assert plan.playable().program.d == plan.manifest.program.d


def test_the_same_parts_give_the_same_bytes(world: World):
    assert rebuilt(world, lambda m: m) == bytes(world.plan.raw)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_changed_byte_is_refused(world: World, data: st.DataObject):
    raw = bytearray(world.plan.raw)
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))

    with pytest.raises(PlanRefused):
        parse_plan(bytes(raw))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_cut_or_added_byte_is_refused(world: World, data: st.DataObject):
    raw = bytes(world.plan.raw)
    cut = data.draw(st.integers(0, len(raw) - 1))

    for damaged in (raw[:cut], raw + data.draw(st.binary(min_size=1, max_size=100))):
        with pytest.raises(PlanRefused):
            parse_plan(damaged)


@given(st.binary(max_size=400))
def test_bytes_from_anywhere_are_refused_in_a_sentence(data: bytes):
    for attempt in (data, b"TACITPLN" + data):
        with pytest.raises(PlanRefused):
            parse_plan(attempt)


def test_a_plan_of_a_newer_format_says_so(world: World):
    raw = bytearray(world.plan.raw)
    struct.pack_into("<I", raw, 8, FORMAT + 1)

    with pytest.raises(PlanRefused, match=rf"format {FORMAT + 1}.*newer tacit; update"):
        parse_plan(bytes(raw))


def test_bytes_between_the_charter_and_what_follows_are_refused(world: World):
    raw = bytearray(world.plan.raw)
    end = 192 + sum(struct.unpack_from("<II", raw, 12))
    assert end % 64, "this world's manifest and charter leave room behind them"
    raw[end] = 1

    with pytest.raises(PlanRefused, match="bytes follow its charter"):
        parse_plan(bytes(raw))


def test_an_unsigned_plan_says_so(world: World):
    raw = bytearray(world.plan.raw)
    raw[56:120] = bytes(64)

    with pytest.raises(PlanRefused, match="not signed"):
        parse_plan(bytes(raw))


def test_a_plan_signed_by_somebody_else_says_so(world: World):
    raw = bytearray(world.plan.raw)
    raw[24:56] = SigningKey.from_seed(os.urandom(32)).public

    with pytest.raises(PlanRefused, match="signature"):
        parse_plan(bytes(raw))


def test_a_key_given_twice_in_the_manifest_is_refused(world: World):
    plan = world.plan
    once = f'"format":{FORMAT}'.encode()
    doubled = canonical.encode(plan.manifest).replace(once, once + b"," + once, 1)
    charter = canonical.encode(plan.charter)
    raw = bytes(plan.raw)
    header = bytearray(raw[:192])
    struct.pack_into("<II", header, 12, len(doubled), len(charter))
    plan_id = hashlib.sha256(doubled).digest()
    header[56:120] = world.author.sign(b"TACIT1/plan\0" + plan_id)
    padded = (bytes(header) + doubled + charter).ljust(-(-(192 + len(doubled) + len(charter)) // 64) * 64, b"\0")

    with pytest.raises(PlanRefused, match="canonical"):
        parse_plan(padded)


def test_a_ring_too_small_for_a_sum_serves_where_the_plan_rotates(tmp_path):
    rules = {"d": 4096, "bits": 12, "target": 4, "most": 4, "threshold": 3, "max_upload_bytes": 8192}

    plan = make_world(tmp_path / "rotated", rotation="hadamard/1", **rules).plan

    assert room_text(plan.manifest) == "6·n·W·Q/√B + 8·σ_tot = 6·4·1·512/√4096 + 8·0.0 = 192"
    with pytest.raises(PlanRefused, match="a sum may wrap: n·W·Q"):
        make_world(tmp_path / "as it is", **rules)
    with pytest.raises(PlanRefused, match="a sum may wrap: 6·n·W·Q/√B"):
        make_world(tmp_path / "eight bits", rotation="hadamard/1", **{**rules, "bits": 8})


def test_every_landing_pays_for_its_sketch(tmp_path: Path):
    world = make_world(tmp_path, sigma=1.25, gate=Gate(32, 8.0, 4.15))
    manifest = world.plan.manifest

    assert [manifest.debit(n) for n in (1, 2, 3)] == pytest.approx([1 / 3 / 1.25**2 + 1 / 64] * 3, rel=1e-12)
    assert manifest.delta == manifest.noise.delta + 3 * manifest.noise.gate.delta
    assert claim(manifest, 0.5, Trust.SINGLE_OPERATOR).delta == manifest.delta
    with pytest.raises(PlanRefused, match=r"it claims a budget of mu² = 0\.64; sigma = 1\.25 spends 0\.686875"):
        rebuilt(world, with_noise(mu2_total=0.64))


def test_a_gate_is_for_noise_of_keyholders(tmp_path: Path):
    with pytest.raises(PlanRefused, match="whose keyholders add the noise"):
        make_world(tmp_path, gate=Gate(32, 8.0, 4.15), mechanism=OnDevice("patient", 1.0, 1))


def with_batch(**changes):
    return lambda m: change(m, batch=change(m.batch, **changes))


def with_noise(**changes):
    return lambda m: change(m, noise=change(m.noise, **changes))


def with_quant(**changes):
    return lambda m: change(m, quantisation=change(m.quantisation, **changes))


def with_program(**changes):
    return lambda m: change(m, program=change(m.program, **changes))


def with_place(**changes):
    return lambda m: change(
        m, program=change(m.program, places=(change(m.program.places[0], **changes), *m.program.places[1:]))
    )


NUMBERS = {
    "a sum may wrap: n·W·Q + 8·σ_tot": with_quant(bits=12),
    "a ring of 13 bits": with_quant(bits=13),
    "Q_in = ": with_quant(q_in=512),
    "Q = 1048576": with_quant(q=1 << 20),
    "- at `$.quantisation.clip`": with_quant(clip=0.0),
    "threshold 9": with_batch(threshold=9),
    "age weights for ages": with_batch(weights=(1,)),
    "its age weights": with_batch(weights=(1, 2, 1)),
    "in two-party mode": lambda m: change(m, trust=Trust.TWO_PARTY, batch=change(m.batch, weights=(2, 1, 1))),
    "it claims to be three-party": lambda m: change(m, trust=Trust.THREE_PARTY),
    "- at `$.noise.sigma`": with_noise(sigma=0.0),
    "delta = ": with_noise(delta=0.5),
    "it claims sensitivity": with_noise(sensitivity=1.0),
    "it claims a budget": with_noise(mu2_total=1.0),
    "its gate has 8 rows": with_noise(gate=Gate(8, 8.0, 9.0)),
    "more than one answer holds": lambda m: change(
        m, batch=change(m.batch, most=9000), noise=change(m.noise, gate=Gate(256, 8.0, 2.0))
    ),
    "to δ for each landing": with_noise(gate=Gate(32, 8.0, 4.1)),
    "sketches need a ring of 20 bits, and it has 16": lambda m: change(
        m, quantisation=change(m.quantisation, bits=16), noise=change(m.noise, gate=Gate(32, 8.0, 4.15))
    ),
    "more than the charter's": with_noise(mu2_total=1e17),
    "landings, separation": lambda m: change(m, participation=change(m.participation, landings=0)),
    "it outlives its charter": lambda m: change(m, limits=change(m.limits, expires_at=2**40)),
    "is not in the charter": lambda m: change(
        m, keyholders=(change(m.keyholders[0], sig_pk=bytes(32)), m.keyholders[1])
    ),
    "an id that is not that of its keys": lambda m: change(
        m, keyholders=(change(m.keyholders[0], key_id=bytes(16)), m.keyholders[1])
    ),
    "named twice": lambda m: change(m, keyholders=(m.keyholders[0],) * 2),
    "it names 0 keyholders": lambda m: change(m, keyholders=()),
    "32 bytes each": lambda m: change(m, coordinator=b"short"),
    "its runtime is": with_program(runtime="tape/9"),
    "it says d = ": with_program(d=31),
    "micro-batches of 0": with_program(microbatch=0),
    "a visit has no step": lambda m: change(m, local=change(m.local, epochs=0)),
    "- at `$.server.rate`": lambda m: change(m, server=Server(0.0)),
    "is read as their mean": lambda m: change(
        m, program=change(m.program, scouted=(Stretch("head"),)), server=Server(1.0, Momentum(0.5))
    ),
    "- at `$.server.optimizer.beta`": lambda m: change(m, server=Server(0.5, Momentum(1.0))),
    "3 places of 60 s do not fill a batch of 4": lambda m: change(m, batch=change(m.batch, places=Places(3, 60))),
    "places are for one Snapshot": with_batch(places=Places(4, 60), groups=2),
    "a variance weight is for": lambda m: change(
        m, local=change(m.local, variance_weight=True), noise=change(m.noise, mechanism=OnDevice("", 1.0, 1))
    ),
    "not a multiple of 64": with_place(offset=4),
    "a dense weight has two": with_place(form="dense"),
    "a convolution's weight": with_place(form="conv"),
    "held in float32, float16 or int8": with_place(number=Number.BFLOAT16),
    "only frozen weights": with_place(number=Number.INT8),
    "balanced training": lambda m: change(m, local=change(m.local, balance=True)),
    "balanced training needs": lambda m: change(
        m,
        local=change(m.local, balance=True),
        program=change(m.program, logit_bias=0, label=change(m.program.label, classes=None, dtype="float32")),
    ),
    "asks for 1 statistics": with_program(scouted=(Stretch("head.bias"),)),
    "head.bias[9:3], which is no range": with_program(scouted=tuple(Stretch("head.bias", 9, 3 + i) for i in range(32))),
    "the gradients of 7, which": with_program(scouted=tuple(Stretch(f"{i}", stop=9) for i in range(7, 39))),
    "only a Plan that trains": with_program(scouted=tuple(Stretch(f"{i}") for i in range(32)), logit_bias=0),
    "- at `$.batch.max_age`": with_batch(max_age=-1, weights=()),
    "- at `$.participation.landings`": lambda m: change(m, participation=change(m.participation, landings=2**60)),
    "- at `$.noise.snapshots`": with_noise(snapshots=2**70),
    "- at `$.limits.max_seconds`": lambda m: change(m, limits=change(m.limits, max_seconds=2**60)),
    "- at `$.program.optimizer.decay`": with_program(optimizer=Optimizer(0.1, 0.0, 1e300)),
    "- at `$.program.optimizer.momentum`": with_program(optimizer=Optimizer(0.1, -7.0)),
    "- at `$.program.resources.arena`": with_program(resources=Resources(-1, *[0] * 7, "head", 0, 0)),
    "does not serve d = 32": with_quant(q=5),
    "its manifest 7": lambda m: change(m, format=7),
    "tape/prefix is missing": with_program(kept=(KeptTensor("flat", 0, 64),)),
}


@pytest.mark.parametrize("said", NUMBERS)
def test_numbers_that_do_not_hold_are_refused_with_their_values(world: World, said: str):
    with pytest.raises(PlanRefused) as refused:
        rebuilt(world, NUMBERS[said])

    assert said in str(refused.value)


def test_a_missing_or_useless_blob_is_refused(world: World):
    plan = world.plan
    blobs = {name: blob.tobytes() for name, blob in plan.blobs.items()}

    for wrong in ({k: v for k, v in blobs.items() if k != "tape/train"}, {**blobs, "readme": b"hello"}):
        with pytest.raises(PlanRefused, match=r"tape/train is missing|readme has no use"):
            build_plan(plan.manifest, plan.charter, wrong, world.author)


def test_a_file_that_is_missing_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(PlanRefused, match="tacit compile"):
        read_plan(tmp_path / "none.tacit")


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=40))
def test_a_snapshot_is_its_values(values):
    array = np.array(values, np.float32)

    assert np.array_equal(decode_snapshot(encode_snapshot(array), len(values)), array)
