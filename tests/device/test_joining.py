"""Bad Plans, and good ones that ask for too much: nothing is run, and the sentence says what to do."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tacit.device import events, playing
from tacit.device.home import plan_file
from tacit.device.joining import EnrolmentRefused, PlanOverBudget, PlanOverMemory
from tacit.device.ledger import DELTA, Ledger, StepRefused
from tacit.device.playing import PlanMisstated
from tacit.engine.tape import TapeRefused
from tacit.errors import InputError
from tacit.plan.bundle import PlanRefused
from tacit.plan.tape import Kind
from tacit.privacy.account import mu_of_epsilon
from tacit.wire.ids import Digest, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.messages import Enrol, Upload, decode, encode
from tacit.wire.signed import sign_credential
from tests.device.coordinating import A_MONTH_S, Stage, staged
from tests.device.scripted import Answer, Asked
from tests.device.small import learning_world, link_to, playable, with_plan
from tests.factory import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return learning_world(Path(tmp_path_factory.mktemp("world")))


@pytest.fixture
def stage(world: World, tmp_path: Path) -> Iterator[Stage]:
    with staged(world, tmp_path) as made:
        yield made


def serve(stage: Stage, data: bytes) -> None:
    stage.script.on(f"GET {stage.world.plan_id.hex()}", Answer(body=data))


def untouched(stage: Stage) -> bool:
    """Nothing was trained, spent, or kept that a later start would use."""
    with Ledger.read(stage.home) as ledger:
        return (
            not stage.of(events.Training)
            and ledger.mu2_spent() == 0
            and not plan_file(stage.home, stage.world.plan_id).exists()
            and not stage.script.bodies("POST enrol")
        )


def test_a_plan_with_one_changed_byte_anywhere_is_refused(stage: Stage):
    data = stage.world.plan_file.read_bytes()
    for at in (0, 30, 60, 200, len(data) // 2, len(data) - 65):
        changed = bytearray(data)
        changed[at] ^= 1
        serve(stage, bytes(changed))

        with pytest.raises(PlanRefused):
            stage.run()

        assert untouched(stage)


@pytest.mark.parametrize("cut", [0, 10, 191, 500, -64])
def test_a_plan_that_is_cut_short_is_refused(stage: Stage, cut: int):
    serve(stage, stage.world.plan_file.read_bytes()[:cut])

    with pytest.raises(PlanRefused):
        stage.run()

    assert untouched(stage)


def test_another_plan_than_the_link_names_is_refused(stage: Stage, tmp_path: Path):
    other = learning_world(tmp_path / "other")
    serve(stage, other.plan_file.read_bytes())

    with pytest.raises(PlanRefused, match=r"sent Plan .* and the link names"):
        stage.run()

    assert untouched(stage)


def test_the_same_plan_signed_by_another_author_is_refused(stage: Stage):
    link = link_to(stage.world, stage.script.port)
    thief = SigningKey.from_seed(os.urandom(32))

    with pytest.raises(PlanRefused, match=r"signed by .* and the link names"):
        stage.run(link=str(link).replace(link.author.hex(), thief.public.hex()))

    assert untouched(stage)


def test_a_plan_kept_in_the_home_is_checked_again_at_every_start(stage: Stage):
    stage.run(once=True)
    kept = plan_file(stage.home, stage.world.plan_id)
    data = bytearray(kept.read_bytes())
    data[-65] ^= 1
    kept.write_bytes(bytes(data))

    with pytest.raises(PlanRefused):
        stage.run()


def test_a_plan_is_fetched_once(stage: Stage):
    stage.run(once=True)
    stage.run(most_waits=1)

    assert sum(one.path.endswith(stage.world.plan_id.hex()) for one in stage.script.asked) == 1


def test_an_expired_plan_is_refused(stage: Stage):
    stage.changes["now"] = lambda: float(stage.world.plan.manifest.limits.expires_at)

    with pytest.raises(PlanRefused, match="has expired"):
        stage.run()


def test_a_plan_that_may_take_more_than_the_owner_s_memory_is_refused_with_both_sizes(stage: Stage):
    with pytest.raises(PlanOverMemory, match="wants up to 1024 KiB to train and this device allows 1023 KiB"):
        stage.run(memory=(1 << 20) - 1024)

    assert untouched_but_fetched(stage)


def test_a_plan_that_takes_more_memory_than_it_says_is_refused_before_it_is_joined(tmp_path: Path):
    """What it says fits, what its tapes are played on does not."""
    world, model = learning_world(tmp_path / "world"), playable()
    small = msgspec.structs.replace(model.program.resources, arena=0, state=0, io=64)
    program = msgspec.structs.replace(model.program, resources=small)
    limits = msgspec.structs.replace(world.plan.manifest.limits, max_memory=64)
    with staged(with_plan(world, model, program=program, limits=limits), tmp_path) as stage:
        with pytest.raises(InputError, match=r"plays on \d+ bytes and 1024 are allowed"):
            stage.run(memory=1024)
        with pytest.raises(PlanMisstated, match="says that training takes 64 bytes and it takes 1,152"):
            stage.run()

        assert untouched_but_fetched(stage)


def test_a_plan_that_takes_less_memory_than_it_says_is_refused_too(tmp_path: Path):
    world, model = learning_world(tmp_path / "world"), playable()
    large = msgspec.structs.replace(model.program.resources, arena=192)
    with staged(
        with_plan(world, model, program=msgspec.structs.replace(model.program, resources=large)), tmp_path
    ) as stage:
        with pytest.raises(PlanMisstated):
            stage.run()

        assert untouched_but_fetched(stage)


def test_a_tape_that_takes_more_operations_than_its_seconds_allow_is_refused(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(playing, "MOST_RATE", 2)  # a second; 60 are allowed, and the train tape has 120 and more

    with pytest.raises(TapeRefused, match="limits"):
        stage.run()

    assert untouched_but_fetched(stage)


def test_a_plan_is_measured_again_before_it_trains_where_it_only_delivered_at_first(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    stage.script.on("POST updates", Answer(silent=True))
    stage.run(most_waits=5)
    stage.script.on("POST updates", stage.pretender.received)
    stage.pretender.publish(0, 0, 1)
    stage.script.on("POST proof", stage.pretender.proof("opened"))
    stage.events.clear()
    monkeypatch.setattr(playing, "MOST_RATE", 2)

    with pytest.raises(TapeRefused, match="limits"):
        stage.run()

    assert stage.of(events.Received) and stage.of(events.Settled) and not stage.of(events.Training)


def test_a_plan_over_the_device_s_budget_is_refused_until_the_owner_allows_it(tmp_path: Path):
    world = learning_world(tmp_path / "world", sigma=0.2)  # μ² = 25
    with staged(world, tmp_path) as stage:
        with pytest.raises(PlanOverBudget) as refused:
            stage.run(allow_mu2=None)
        sentence = str(refused.value)
        allowed = mu_of_epsilon(float(sentence.split("--accept-epsilon ")[1].split()[0]), DELTA) ** 2
        nothing = untouched_but_fetched(stage)
        ended = stage.run(allow_mu2=allowed, once=True)

    for part in (
        "Over the Plan's whole life, at most: no meaningful differential privacy (ε = 37.9). Unit: one device",
        "(one device's contributions replaced by zeros; that it took part is not hidden), δ = 1e-07",
        "Trust: single-operator. That is μ² = 25; of the 2.03 that this device may spend in its life,",
        "over all Plans (ε = 8.01 at δ = 1e-07), 0 are spent",
    ):
        assert part in sentence
    assert nothing and ended.accepted == 1 and 25 <= allowed < 25.1


def untouched_but_fetched(stage: Stage) -> bool:
    with Ledger.read(stage.home) as ledger:
        return not (stage.of(events.Joined) or stage.of(events.Training)) and ledger.mu2_spent() == 0


def test_what_other_plans_spent_counts(tmp_path: Path):
    world = learning_world(tmp_path / "world", sigma=1.0)  # μ² = 1
    with staged(world, tmp_path) as stage:
        stage.run(once=True, allow_mu2=None)
        with Ledger.open(stage.home, os.urandom) as ledger:
            ledger._run("UPDATE participation SET mu2 = 1.5")
        other = learning_world(tmp_path / "other", sigma=1.0)
        with staged(other, tmp_path) as second, pytest.raises(PlanOverBudget, match=r"1\.5 are spent"):
            second.run(allow_mu2=None)


def test_trust_and_privacy_are_said_with_what_the_owner_knows(stage: Stage):
    card = stage.world.plan.manifest.keyholders[0]
    stage.run(once=True)
    stage.pretender.publish(1)
    stage.run(most_waits=1, operators={card.sig_pk: "a university"})

    alone, known = stage.of(events.Joined)
    assert alone.trust == "single-operator" and known.trust == "two-party"
    assert alone.trust_sentence.startswith("Single-operator mode: whoever runs this server can unmask")
    assert alone.privacy_sentence.startswith("Over the Plan's whole life, at most: no meaningful differential privacy")
    assert alone.purpose == "to test <sums> & nothing else" and alone.data_sources == ("integers <1..9>",)


def test_a_tape_that_the_verifier_refuses_is_not_played(tmp_path: Path):
    world = learning_world(tmp_path / "world")
    model = playable()
    broken = bytearray(model.tapes[Kind.TRAIN])
    broken[256 + 8 + 8] = 255  # the first record's first operand reaches outside its region
    bad = with_plan(world, replace(model, tapes={**model.tapes, Kind.TRAIN: bytes(broken)}))
    with staged(bad, tmp_path) as stage:
        with pytest.raises(TapeRefused):
            stage.run()

        assert untouched_but_fetched(stage)


def test_a_credential_by_somebody_else_is_refused_before_training(stage: Stage):
    def forged(asked: Asked) -> Answer:
        enrol = decode(Enrol, asked.body)
        key = SigningKey.from_seed(os.urandom(32))
        return Answer(body=encode(sign_credential(key, enrol.dpk, enrol.lineage, 10**6)))

    stage.script.on("POST enrol", forged)

    with pytest.raises(EnrolmentRefused):
        stage.run()

    assert not stage.of(events.Training)


def test_a_credential_is_kept_until_it_is_about_to_end(stage: Stage):
    stage.run(once=True)
    stage.pretender.publish(1)
    stage.script.on("POST proof", stage.pretender.proof("opened"))
    stage.run(once=True)
    kept = len(stage.script.bodies("POST enrol"))
    later = stage.world.plan.manifest.limits.expires_at - A_MONTH_S + 24 * 3600
    stage.changes["now"] = lambda: float(later)
    stage.pretender.publish(2)
    stage.script.on("POST enrol", lambda asked: Answer(body=encode(long_lived(stage, asked))))
    stage.run(once=True)

    uploads = [decode(Upload, body) for body in stage.script.bodies("POST updates")]
    assert kept == 1 and len(stage.script.bodies("POST enrol")) == 2
    assert [one.credential == uploads[0].credential for one in uploads] == [True, True, False]
    assert len({one.dpk for one in uploads}) == 1


def long_lived(stage: Stage, asked: Asked):
    return stage.world.credential(decode(Enrol, asked.body).dpk, hours=900)


def test_a_plan_known_by_another_author_is_not_joined(stage: Stage):
    stage.home.mkdir()
    with Ledger.open(stage.home, os.urandom) as ledger:
        plan_id = stage.world.plan_id
        ledger.pin(plan_id, author=b"x" * 32, lineage=plan_id, title="t", server="s", landings=1, delta=1e-7)

    with pytest.raises(StepRefused, match="another author"):
        stage.run()


def test_two_devices_have_unlinkable_keys_and_one_device_keeps_its_own(stage: Stage, tmp_path: Path):
    stage.run(once=True)
    with staged(stage.world, tmp_path) as again:
        again.pretender.publish(1)
        again.script.on("POST proof", again.pretender.proof("expired"))
        again.run(once=True)
        first = decode(Upload, stage.script.bodies("POST updates")[0]).dpk
        second = decode(Upload, again.script.bodies("POST updates")[0]).dpk
    (tmp_path / "other").mkdir()
    with staged(stage.world, tmp_path / "other") as stranger:
        stranger.run(once=True)
        third = decode(Upload, stranger.script.bodies("POST updates")[0]).dpk

    assert first == second != third


def test_the_head_hash_signed_is_that_of_the_head_trained_from(stage: Stage):
    stage.run(once=True)

    upload = decode(Upload, stage.script.bodies("POST updates")[0])
    assert upload.head_hash == stage.world.head_hash(0, _hash_of_snapshot(stage))


def _hash_of_snapshot(stage: Stage) -> Digest:
    return sha256(stage.pretender.snapshots[0])
