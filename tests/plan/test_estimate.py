"""What a visit costs: arithmetic that can be done on paper, on a tape and a device made by hand."""

import os
import tracemalloc
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.codec.ring import packed_size
from tacit.device.update import make_update
from tacit.plan.compute import Compute, Level, tape_seconds
from tacit.plan.estimate import (
    CODEC_BYTES_PER_VALUE,
    RECEIPT_BYTES,
    ROTATION_WORK_PER_VALUE,
    TRAINED_BYTES_PER_VALUE,
    UPDATE_WORK_PER_VALUE,
    Estimate,
    NoSuchRadio,
    Visit,
    estimate,
    head_bytes,
    plays,
    update_bytes,
    visit_of,
)
from tacit.plan.manifest import LocalTraining, Quantisation
from tacit.plan.profile import Battery, Power, Profile, Radio, Source, checked
from tacit.plan.program import Resources
from tacit.plan.tape import Kind, Op, Operand, Record, Region, Tape
from tacit.wire.ids import Digest, Lineage, PlanId
from tacit.wire.messages import Credential, Head, Receipt, encode
from tests.factory import make_world

ENOUGH = 1 << 30
MB = 1_000_000


def zeroing(kind: Kind, size: int) -> Tape:
    region = {Kind.PREFIX: Region.KEPT, Kind.TRAIN: Region.GRADIENT, Kind.APPLY: Region.STATE}.get(kind, Region.OUTPUT)
    return Tape(kind, {Region.ARENA: 64 * kind, region: size}, (Record(Op.ZERO, (Operand(region, 0, size),), (size,)),))


VISIT = Visit(
    tapes={kind: zeroing(kind, 4 * MB * (1 + kind)) for kind in Kind},
    examples=10,
    held_back=3,
    local=LocalTraining(epochs=2, minibatch=4),
    microbatch=2,
    upload=20_000,
    download=50_000,
    plan_bytes=300_000,
    delivered_bytes=250_000,
    example_bytes=100,
    resources=Resources(64, 0, 64, 3000, 200, 500, 900, 40, "head", 1, 4096),
    d=250,
    seconds=60,
)
PHONE = checked(
    Profile(
        name="on-paper",
        title="A phone on paper",
        # one byte at a time, and nothing to compute: a tape takes as long as its bytes
        compute=Compute(1e12, (Level("memory", None, 1e9),), {"zero": {}}),
        power=Power(awake_watts=2.0, busy_watts=3.0),
        radios={"wifi": Radio(10_000, 50_000, 2e-6, 1e-6, 0.5, 1e-9, 0.25)},
        battery=Battery(watt_hours=10.0, volts=4.0),
        memory_bytes=1 << 30,
        base_bytes=5_000_000,
        metered=False,
        sources={
            path: Source("assumed", "to be easy to reckon with")
            for path in ("compute", "power", "radios", "battery", "memory_bytes", "base_bytes")
        },
    )
)


def on(visit: Visit, profile: Profile = PHONE, radio: str = "wifi", memory: int = ENOUGH) -> Estimate:
    return estimate(visit, profile, radio, memory)


def test_a_visit_plays_whole_micro_batches_and_applies_once_a_minibatch():
    # 10 examples are minibatches of 4, 4 and 2: five micro-batches of 2, twice
    assert plays(VISIT, kept=True) == {Kind.EVALUATE: 2, Kind.TRAIN: 10, Kind.APPLY: 6}
    # the last minibatch of 9 has one example, which takes a micro-batch
    assert plays(replace(VISIT, examples=9), kept=True)[Kind.TRAIN] == 10
    # and is left out where only whole ones are trained
    whole = replace(VISIT, examples=9, local=LocalTraining(epochs=2, minibatch=4, whole=True))
    assert plays(whole, kept=True) == {Kind.EVALUATE: 2, Kind.TRAIN: 8, Kind.APPLY: 4}


def test_where_nothing_is_kept_the_prefix_goes_before_every_step():
    assert plays(VISIT, kept=False)[Kind.PREFIX] == plays(VISIT, kept=False)[Kind.TRAIN]


def test_where_each_patient_is_clipped_by_itself_none_shares_a_micro_batch():
    assert plays(replace(VISIT, grouped=True), kept=True) == {Kind.EVALUATE: 2, Kind.TRAIN: 20, Kind.APPLY: 6}


def test_the_figures_are_those_that_paper_gives():
    one = {kind: tape_seconds(PHONE.compute, tape) for kind, tape in VISIT.tapes.items()}
    compute = 2 * one[Kind.EVALUATE] + 10 * one[Kind.TRAIN] + 6 * one[Kind.APPLY] + (4e7 + 250 * 3100) / 1e12
    down, up = 0.25 + 50_000 / 50_000, 0.25 + 20_000 / 10_000
    radio = 2.0 * (down + up) + (50_000 * 1e-6 + 0.5) + (20_000 * 2e-6 + 0.5)

    found = on(VISIT)

    assert compute > 0
    assert found.compute_seconds == pytest.approx(compute)
    assert found.radio_seconds == pytest.approx(down + up)
    assert found.seconds == pytest.approx(compute + down + up)
    assert found.compute_joules == pytest.approx(5.0 * compute)
    assert found.radio_joules == pytest.approx(radio)
    assert found.joules == pytest.approx(5.0 * compute + radio)
    assert found.battery_share == pytest.approx(found.joules / 36_000)
    assert found.milliamp_hours == pytest.approx(found.joules / 3600 / 4.0 * 1000)
    assert found.fits == ""


def test_a_first_visit_fetches_the_plan_and_plays_the_prefix_once_an_example():
    found, prefix = on(VISIT), 5 * tape_seconds(PHONE.compute, VISIT.tapes[Kind.PREFIX])
    fetching = 0.25 + 250_000 / 50_000

    assert prefix > 0
    assert found.first_seconds - found.seconds == pytest.approx(prefix + fetching)
    # its tail is cut off by the next message, which follows at once
    assert found.first_joules - found.joules == pytest.approx(5.0 * prefix + 2.0 * fetching + 250_000 * 1e-6)


def test_the_radio_that_is_still_up_for_the_next_message_has_no_second_tail():
    slow = msgspec.structs.replace(PHONE.radios["wifi"], tail_seconds=1e6)
    lasting = msgspec.structs.replace(PHONE, radios={"wifi": slow})

    saved = on(VISIT).joules - on(VISIT, lasting).joules

    assert saved == pytest.approx(0.5, rel=1e-4)


def test_making_the_update_takes_its_time_for_every_value():
    seconds = on(replace(VISIT, d=1_000_250)).compute_seconds - on(VISIT).compute_seconds

    assert seconds == pytest.approx(1e6 * UPDATE_WORK_PER_VALUE / PHONE.compute.peak)
    turned = on(replace(VISIT, rotated=True)).compute_seconds - on(VISIT).compute_seconds
    assert turned == pytest.approx(VISIT.d * ROTATION_WORK_PER_VALUE / PHONE.compute.peak)


def test_without_a_radio_a_visit_is_what_it_computes():
    found = on(VISIT, radio="none")

    assert found.seconds == found.compute_seconds
    assert found.joules == found.compute_joules
    assert found.radio_seconds == found.radio_joules == 0


def test_on_mains_there_is_no_share_of_a_battery():
    found = on(VISIT, msgspec.structs.replace(PHONE, battery=None))

    assert found.battery_share is None and found.milliamp_hours is None


def test_memory_is_what_is_there_while_the_update_is_made():
    kept, arena = 10 * 40, 64 * Kind.EVALUATE  # the tape of predictions has a larger one, and is not played
    per_value = (TRAINED_BYTES_PER_VALUE + CODEC_BYTES_PER_VALUE) * 250

    found = on(VISIT)

    assert found.kept_bytes == kept
    assert found.training_bytes == 64 + 3000 + 200 + 500
    assert found.process_bytes == 5_000_000 + 300_000 + 13 * 100 + kept + 3000 + 200 + arena + per_value
    assert found.peak == "head"


def test_what_the_prefix_leaves_is_not_kept_where_it_is_more_than_the_owner_allows():
    found = on(VISIT, memory=399)

    assert found.kept_bytes == 0
    assert found.compute_seconds > on(VISIT).compute_seconds


def test_what_does_not_fit_is_said_with_its_numbers():
    assert "it plays on" in on(VISIT, memory=1000).fits and "1,000" in on(VISIT, memory=1000).fits
    small = msgspec.structs.replace(PHONE, memory_bytes=5_100_000)
    assert f"its process takes {on(VISIT).process_bytes:,} bytes and the device has 5,100,000" in on(VISIT, small).fits
    assert "the Plan allows 0" in on(replace(VISIT, seconds=0)).fits
    whole = replace(VISIT, examples=3, local=LocalTraining(epochs=1, minibatch=4, whole=True))
    assert on(whole).fits == "it trains on whole minibatches of 4 and there are 3 examples"


def test_a_radio_that_a_device_has_not_is_refused():
    with pytest.raises(NoSuchRadio, match="on-paper has no radio lte; it has wifi, none"):
        on(VISIT, radio="lte")


@given(
    field=st.sampled_from(["upload", "download", "delivered_bytes", "examples", "held_back", "d"]),
    more=st.integers(1, 1 << 20),
    base=st.integers(1, 1 << 20),
)
def test_more_of_anything_never_costs_less(field, more, base):
    less_of, more_of = (on(replace(VISIT, **{field: count})) for count in (base, base + more))

    for cost in ("seconds", "first_seconds", "joules", "first_joules", "process_bytes"):
        assert getattr(more_of, cost) >= getattr(less_of, cost) * (1 - 1e-12), cost


def test_a_device_with_twice_the_power_takes_twice_the_joules_to_compute():
    twice = msgspec.structs.replace(PHONE, power=Power(4.0, 6.0))

    assert on(VISIT, twice).compute_joules == pytest.approx(2 * on(VISIT).compute_joules)


@pytest.mark.parametrize("keyholders", [1, 3, 16])
def test_bytes_are_those_of_the_messages(keyholders):
    head = Head(
        plan_id=PlanId(os.urandom(32)),
        version=1 << 15,
        snapshot_hash=Digest(os.urandom(32)),
        signatures=(os.urandom(64),) * keyholders,
    )

    assert head_bytes(keyholders) == len(encode(head))
    assert len(encode(Receipt(update_hash=Digest(bytes(32)), received_hour=500_000, signature=bytes(64)))) == (
        RECEIPT_BYTES
    )
    assert update_bytes(1000, 12, keyholders) - update_bytes(10, 12, keyholders) == packed_size(990, 12) + 1


def test_an_update_that_is_made_has_the_bytes_that_were_foretold(tmp_path):
    world = make_world(tmp_path)
    manifest = world.plan.manifest

    visit = visit_of_world(world)
    update = encode(updated(world, manifest))

    assert visit.upload - 4 <= len(update) <= visit.upload  # numbers are shorter in early Snapshots
    assert visit.download == head_bytes(len(manifest.keyholders)) + 4 * manifest.program.d + RECEIPT_BYTES
    assert visit.plan_bytes == len(world.plan.raw) > visit.delivered_bytes


@pytest.mark.parametrize("rotation", ["none", "hadamard/1"])
def test_the_codec_takes_what_is_counted_for_it(tmp_path, rotation):
    """Measured where the values are so many that nothing else counts, of a delta that is longer than its clip."""
    d = 400_000
    world = make_world(tmp_path)
    large = msgspec.structs.replace(
        world.plan.manifest,
        program=msgspec.structs.replace(world.plan.manifest.program, d=d),
        quantisation=Quantisation(bits=24, q=2000, q_in=1950, clip=1.0, rotation=rotation),
    )
    delta = np.linspace(-1e-2, 1e-2, d, dtype=np.float32)
    updated(world, world.plan.manifest)  # whatever a first time loads

    tracemalloc.start()
    updated(world, large, delta)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert 0.85 * CODEC_BYTES_PER_VALUE <= peak / d <= 1.05 * CODEC_BYTES_PER_VALUE


def visit_of_world(world):
    """The visit of a Plan whose tapes are of no use, which are left out."""
    plan = replace(world.plan, blobs={name: blob for name, blob in world.plan.blobs.items() if "tape" not in name})
    return visit_of(plan, 1)


def updated(world, manifest, delta=None):
    return make_update(
        np.zeros(manifest.program.d, np.float32) if delta is None else delta,
        manifest=manifest,
        plan_id=world.plan_id,
        base_version=1,
        head_hash=Digest(bytes(32)),
        key=world.author,
        hedge_key=bytes(32),
        credential=Credential(lineage=Lineage(bytes(32)), expires_hour=500_000, signature=bytes(64)),
        random=os.urandom,
    )
