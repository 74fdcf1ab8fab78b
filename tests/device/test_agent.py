"""The agent against coordinators that are absent, forgetful or dishonest; and one in its right mind."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tacit.device import events
from tacit.device.agent import run
from tacit.device.client import Refused
from tacit.device.home import HomeBusy, agent_lock, device_receipts, device_status
from tacit.device.ledger import Ledger
from tacit.device.trainer import PrefixTooSlow
from tacit.device.trust import HeadRefused
from tacit.engine.player import Player
from tacit.errors import InputError
from tacit.keyholder.keys import load_card
from tacit.plan.bundle import decode_snapshot
from tacit.plan.manifest import Places
from tacit.privacy.seal import SealBroken, open_seal
from tacit.wire.codes import Code
from tacit.wire.ids import Digest, KeyId, UpdateId, sha256
from tacit.wire.keys import SealingKey
from tacit.wire.messages import Ask, Outcome, Place, Receipt, Upload, decode, encode, entry_of, entry_seal_info
from tacit.wire.signed import check_ask, sign_proof, sign_rekeyed
from tests.device.coordinating import Stage, in_threads, refusal, staged
from tests.device.scripted import Answer, Asked, Reply
from tests.device.small import examples, learning_world, playable, save_examples, settings_for, with_plan
from tests.factory import World, identity, running

LANDINGS = 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = Path(tmp_path_factory.mktemp("world"))
    return learning_world(folder, prefix=True, rate=0.5, landings=LANDINGS, max_age=1)


@pytest.fixture
def stage(world: World, tmp_path: Path) -> Iterator[Stage]:
    with staged(world, tmp_path) as made:
        yield made


def states(home: Path) -> list[str]:
    return [line.state for line in device_receipts(home)]


# -- In its right mind ------------------------------------------------------------------------------------


def test_three_devices_train_one_model_to_the_end_of_their_landings(tmp_path: Path):
    world = learning_world(tmp_path, prefix=True, target=3, threshold=3, landings=LANDINGS, rate=0.5, epochs=4)
    seen: list[events.Event] = []
    with running(world) as site:
        site.wait_version(0)
        homes = [tmp_path / f"device{number}" for number in range(3)]
        all_settings = [
            settings_for(world, site.coordinator.port, home, save_examples(tmp_path / f"{number}.npz", 20, number))
            for number, home in enumerate(homes)
        ]
        in_threads(*(lambda settings=settings: run(settings, seen.append) for settings in all_settings))
        head = site.wait_version(LANDINGS)
        snapshot = decode_snapshot(site.snapshot(head), world.plan.manifest.program.d)
        opened = [update_id for _, ids in site.opened_ids() for update_id in ids]
        in_threads(*(lambda settings=settings: run(settings, seen.append) for settings in all_settings))

    test = examples(200, seed=99)
    player = Player(playable())
    player.load(snapshot)
    _, right, count = player.evaluate({"x": test["x"]}, test["y"])
    sent = [line for home in homes for line in device_receipts(home)]
    assert right / count > 0.9
    assert sorted(opened) == sorted(line.update_id.hex() for line in sent)
    assert len(opened) == len(set(opened)) == 3 * LANDINGS
    # The second run found nothing to do but to ask what became of the last Updates.
    assert {line.state for line in sent} == {"Settled"}
    assert sum(isinstance(event, events.Received) for event in seen) == 3 * LANDINGS


# -- The rounds of one device -------------------------------------------------------------------------------


def test_once_ends_with_the_first_accepted_update(stage: Stage):
    ended = stage.run(once=True)

    assert ended.accepted == 1 and stage.events[-1] == ended
    assert [type(event) for event in stage.events] == [
        events.Joined,
        events.Prepared,
        events.Training,
        events.Trained,
        events.Sent,
        events.Received,
        events.Ended,
    ]
    assert states(stage.home) == ["Receipted"]


def test_a_device_ends_with_its_landings(stage: Stage):
    stage.pretender.publish(0, 0, 1, 1, 2, 2)
    stage.script.on("POST proof", stage.pretender.proof("opened"))

    ended = stage.run()

    assert (ended.reason, ended.accepted) == ("all 3 landings that this Plan gives a device are used", 3)
    assert states(stage.home) == ["Settled"] * 3
    versions = [decode(Upload, body).base_version for body in stage.script.bodies("POST updates")]
    assert versions == [0, 1, 2]
    assert device_status(stage.home).mu2_spent == pytest.approx(stage.world.plan.manifest.noise.mu2_total)


def test_a_second_update_waits_until_the_first_has_landed(stage: Stage):
    stage.pretender.publish(0, 0, 1)

    stage.run(most_waits=20)

    assert len(stage.script.bodies("POST updates")) == 1
    assert stage.of(events.Waiting)[-1].reason == "the last Update waits for its batch"
    assert states(stage.home) == ["Receipted"]


def test_an_update_that_no_keyholder_would_open_any_more_is_given_up_and_the_device_goes_on(stage: Stage):
    stage.pretender.publish(0, 0, 2)  # max_age is 1, and the coordinator keeps saying "queued"

    stage.run(most_waits=20)

    (gone,) = stage.of(events.Expired)
    assert gone.reason == "no batch took it before it was too old"
    assert states(stage.home) == ["Expired", "Receipted"]


def test_an_update_is_sealed_to_the_card_that_the_head_names(stage: Stage, world: World):
    """The keyholder lost its state: its new card stands in the HEAD, and what is made is for that one alone."""
    new = SealingKey.from_seed(os.urandom(32))
    rekeyed = sign_rekeyed(identity(world), world.plan_id, 0, new.public)
    old_id = KeyId(world.plan.manifest.keyholders[0].key_id)
    old = load_card(world.keyholder_home(), old_id)
    stage.script.on("GET head", stage.pretender.head(0, rekeyed=(rekeyed,)))

    stage.run(once=True)

    entry = entry_of(decode(Upload, stage.script.bodies("POST updates")[0]), 1)
    assert len(open_seal(entry.sealed, new.private, entry_seal_info(entry, 1, rekeyed.key_id))) == 32
    assert old is not None
    with pytest.raises(SealBroken):
        open_seal(entry.sealed, old.private, entry_seal_info(entry, 1, old_id))


def test_the_prefix_is_computed_once_and_found_after_a_restart(stage: Stage):
    stage.run(once=True)
    stage.pretender.publish(1)
    stage.script.on("POST proof", stage.pretender.proof("opened"))
    stage.run(once=True)

    assert [event.reused for event in stage.of(events.Prepared)] == [False, True]


def test_a_device_that_is_slow_on_purpose_waits_after_every_minibatch(stage: Stage):
    stage.run(once=True, pace=0.2)

    assert stage.waits == [0.2] * stage.of(events.Training)[0].minibatches


def test_a_device_that_is_asked_to_stop_while_it_trains_has_spent_nothing(stage: Stage):
    ended = stage.run(pace=1.0, until=lambda: len(stage.waits) > 1)

    assert ended.reason == "asked to stop"
    assert states(stage.home) == [] and not stage.script.bodies("POST updates")


def test_training_beyond_the_plan_s_seconds_is_dropped_and_not_tried_again(stage: Stage):
    slow_from(stage, events.Training)

    stage.run(most_waits=5)

    (dropped,) = stage.of(events.Dropped)
    assert "more than the 60 s" in dropped.reason
    assert stage.of(events.Waiting)[-1].reason == "the visit to Snapshot 0 was dropped; the next one is tried"


def slow_from(stage: Stage, kind: type[events.Event]) -> None:
    """From this event on every look at the clock takes 25 s; the Plan allows 60."""
    ticks = iter(range(0, 10**9, 25))
    stage.changes["monotonic"] = lambda: next(ticks) if stage.of(kind) else 0


def test_evaluation_beyond_the_plan_s_seconds_is_dropped_before_anything_is_trained(stage: Stage):
    slow_from(stage, events.Prepared)

    stage.run(most_waits=5, validation=0.9)

    (dropped,) = stage.of(events.Dropped)
    assert "more than the 60 s" in dropped.reason
    assert not stage.of(events.Training)


def test_a_prefix_that_takes_longer_than_the_plan_s_seconds_ends_the_agent_with_what_to_do(stage: Stage):
    slow_from(stage, events.Joined)

    with pytest.raises(PrefixTooSlow, match=r"allows 60 s for one visit.* 18 examples; .*Give fewer examples"):
        stage.run()

    assert not stage.of(events.Prepared) and states(stage.home) == []


def test_a_device_that_is_asked_to_stop_while_the_prefix_is_computed_stops(stage: Stage):
    looks = iter(range(10**9))

    ended = stage.run(until=lambda: bool(stage.of(events.Joined)) and next(looks) > 3)

    assert ended.reason == "asked to stop" and not stage.of(events.Prepared)


def test_prefix_results_beyond_the_owner_s_memory_are_computed_anew_at_every_step(stage: Stage, tmp_path: Path):
    limits = msgspec.structs.replace(stage.world.plan.manifest.limits, max_memory=2000)
    world = with_plan(learning_world(tmp_path / "w", prefix=True, rate=0.5), playable(True, 0.5), limits=limits)
    seen: list[events.Trained] = []
    for memory in (1 << 20, 8000):  # 900 examples of 16 bytes are kept, or not
        with staged(world, tmp_path / str(memory)) as one:
            one.folder.mkdir()
            save_examples(one.folder / "examples.npz", 1000)
            one.changes["random"] = lambda count: bytes(count)
            assert one.run(once=True, memory=memory).accepted == 1
            seen += one.of(events.Trained)
            assert bool(one.of(events.Prepared)) == (memory == 1 << 20)

    assert (seen[0].first_loss, seen[0].last_loss) == (seen[1].first_loss, seen[1].last_loss)


def test_a_visit_that_diverges_is_dropped_in_one_line_and_the_next_snapshot_is_tried(stage: Stage):
    data = examples()
    data["x"][:, 0] = 3e38
    np.savez(stage.folder / "examples.npz", allow_pickle=False, **data)
    stage.pretender.publish(0, 0, 0, 0, 0, 0, 1)

    stage.run(most_waits=30)

    assert [event.version for event in stage.of(events.Dropped)] == [0, 1]
    assert states(stage.home) == []


def test_an_update_that_became_too_old_while_training_is_not_made(stage: Stage):
    stage.pretender.publish(0, 2)

    stage.run(once=True)

    (dropped,) = stage.of(events.Dropped)
    assert "Snapshot 2 is out" in dropped.reason
    assert [decode(Upload, body).base_version for body in stage.script.bodies("POST updates")] == [2]
    assert len(states(stage.home)) == 1


# -- Absent -------------------------------------------------------------------------------------------------


def test_a_coordinator_that_is_away_is_waited_for_and_said_once(stage: Stage):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        link = stage.settings().link.replace(str(stage.script.port), str(taken.getsockname()[1]))

    ended = stage.run(most_waits=40, link=link)

    (waiting,) = stage.of(events.Waiting)
    assert "does not answer" in waiting.reason
    assert ended.reason == "asked to stop"


def test_a_retry_sends_identical_bytes_after_every_kind_of_failure(stage: Stage):
    forged = Answer(body=encode(Receipt(update_hash=Digest(bytes(32)), received_hour=1, signature=bytes(64))))
    stage.script.on(
        "POST updates",
        Answer(silent=True),
        Answer(503, b"<html>gateway</html>"),
        refusal(Code.E_RATE, status=429, wait=7),
        refusal(Code.E_VERSION_FUTURE, status=503),
        Answer(body=b"not a receipt"),
        forged,
        stage.pretender.received,
    )

    ended = stage.run(once=True, most_waits=5000)

    bodies = stage.script.bodies("POST updates")
    assert len(bodies) == 7 and len(set(bodies)) == 1
    assert ended.accepted == 1 and states(stage.home) == ["Receipted"]
    assert [event.again for event in stage.of(events.Sent)] == [False] + [True] * 6
    assert any("does not answer" in event.reason for event in stage.of(events.Waiting))


def test_what_anything_on_the_way_says_leaves_the_update_in_the_outbox(stage: Stage):
    """A captive portal, a proxy's page, a gateway in between: said in one line, and sent again."""
    page = b"<html>no</html>"
    stage.script.on(
        "POST updates",
        Answer(302, page, {"Location": "http://login.example/"}),
        Answer(403, page),
        Answer(404, page),
        Answer(500, page),
        Answer(200, page),
        stage.pretender.received,
    )

    ended = stage.run(once=True, most_waits=5000)

    bodies = stage.script.bodies("POST updates")
    assert len(bodies) == 6 and len(set(bodies)) == 1
    assert ended.accepted == 1 and states(stage.home) == ["Receipted"]
    assert not stage.of(events.Expired) and not stage.script.bodies("POST proof")
    said = [event.reason for event in stage.of(events.Waiting)]
    assert "HTTP 302 Found, not in the words of a coordinator" in said[0]
    assert len(said) == 5 and not any("\n" in reason for reason in said)


def test_a_wait_of_years_is_one_of_an_hour(stage: Stage):
    stage.script.on(
        "POST updates",
        refusal(Code.E_RATE, status=429, wait=2**53 - 1),
        Answer(503, b"", {"Retry-After": "9" * 400}),
        stage.pretender.received,
    )

    ended = stage.run(once=True, most_waits=10**6)

    assert ended.accepted == 1
    assert all(3600 < event.seconds <= 3900 for event in stage.of(events.Waiting))


def test_a_device_trains_once_it_has_a_place_and_asks_with_its_key(tmp_path: Path):
    places = Places(selected=4, seconds=60)
    with staged(learning_world(tmp_path, places=places, max_age=0), tmp_path) as stage:
        stage.script.on("POST places", refusal(Code.E_RATE, "all are taken", 429, wait=9), place_of(stage))

        stage.run(once=True)

        asks = [decode(Ask, body) for body in stage.script.bodies("POST places")]
        assert len(asks) == 2 and asks[0] == asks[1]
        check_ask(asks[0])
        (upload,) = (decode(Upload, body) for body in stage.script.bodies("POST updates"))
        assert (asks[0].dpk, asks[0].version, asks[0].plan_id) == (upload.dpk, 0, stage.world.plan_id)
        assert sum(stage.waits) >= 9, stage.waits
        # Nothing is trained for a batch that is full.
        kinds = [type(event) for event in stage.events]
        assert kinds.index(events.Waiting) < kinds.index(events.Training)


def place_of(stage: Stage) -> Reply:
    def given(asked: Asked) -> Answer:
        ask = decode(Ask, asked.body)
        return Answer(body=encode(Place(plan_id=ask.plan_id, version=ask.version, until=2**40)))

    return given


def test_what_was_asked_for_by_retry_after_is_waited(stage: Stage):
    stage.script.on("POST updates", refusal(Code.E_RATE, status=429, wait=7), stage.pretender.received)

    stage.run(once=True)

    assert sum(stage.waits) >= 7


def test_an_update_that_could_not_leave_leaves_at_the_next_start_before_anything_is_trained(stage: Stage):
    stage.script.on("POST updates", Answer(silent=True))
    stage.run(most_waits=5)
    stage.script.on("POST updates", stage.pretender.received)
    stage.events.clear()

    ended = stage.run(once=True)

    assert ended.accepted == 1
    assert [type(event) for event in stage.events] == [
        events.Joined,
        events.Sent,
        events.Received,
        events.Ended,
    ]
    assert len(set(stage.script.bodies("POST updates"))) == 1


def test_an_update_is_made_and_kept_while_the_coordinator_goes_away_during_training(stage: Stage):
    stage.script.on("GET head", stage.pretender.head(0), Answer(silent=True))
    stage.script.on("POST updates", Answer(silent=True))

    stage.run(most_waits=5)

    assert states(stage.home) == ["Sent"]


def test_jitter_delays_an_update_by_the_same_time_after_a_restart(stage: Stage):
    stage.run(most_waits=3, jitter=500.0)
    first = stage.of(events.Waiting)[0]
    stage.events.clear()
    ended = stage.run(once=True, jitter=500.0, most_waits=10_000)

    assert first.reason == "the Update waits a random while, so that its time says little"
    assert 0 < first.seconds <= 500
    assert stage.of(events.Waiting)[0].seconds < first.seconds
    assert ended.accepted == 1


# -- Forgetful and dishonest -----------------------------------------------------------------------------------


def test_a_refusal_after_a_lost_receipt_does_not_lose_an_accepted_update(stage: Stage):
    stage.script.on("POST updates", Answer(silent=True), refusal(Code.E_STALE))
    stage.script.on("POST proof", stage.pretender.proof("opened", t=0))

    ended = stage.run(once=True)

    assert ended.accepted == 1
    assert states(stage.home) == ["Settled"]


def test_a_refusal_that_somebody_on_the_way_made_up_does_not_lose_an_accepted_update(stage: Stage):
    """The coordinator took it at the first attempt; E_STALE is not signed, and anybody can say it."""

    def taken_and_denied(asked: Asked) -> Answer:
        stage.pretender.received(asked)
        return refusal(Code.E_STALE)

    stage.script.on("POST updates", taken_and_denied, taken_and_denied, stage.pretender.received)
    stage.script.on("POST proof", stage.pretender.proof("queued"))

    ended = stage.run(once=True, most_waits=1000)

    assert ended.accepted == 1 and states(stage.home) == ["Receipted"]
    assert len(stage.script.bodies("POST proof")) == 2 and not stage.of(events.Expired)
    assert len(set(stage.script.bodies("POST updates"))) == 1
    assert "says it holds; it stays in the outbox" in stage.of(events.Waiting)[0].reason


@pytest.mark.parametrize("code", [Code.E_STALE, Code.E_SIG, Code.E_HALTED])
def test_an_update_that_was_opened_is_settled_whatever_refusal_came_before(stage: Stage, code: Code):
    stage.script.on("POST updates", refusal(code))
    stage.script.on("POST proof", stage.pretender.proof("opened", t=0))

    ended = stage.run(once=True)

    assert ended.accepted == 1 and states(stage.home) == ["Settled"]


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ("expired", "no batch took it before it was too old"),
        ("spoilt", "batch 0 was void, and it with it"),
        ("refused", "a keyholder would not open it"),
    ],
)
def test_what_the_coordinator_signs_is_why_an_update_ends(stage: Stage, outcome: Outcome, reason: str):
    stage.script.on("POST updates", refusal(Code.E_STALE), stage.pretender.received)
    stage.script.on("POST proof", stage.pretender.proof(outcome))
    stage.pretender.publish(0, 0, 1)

    stage.run(once=True)

    assert [event.reason for event in stage.of(events.Expired)] == [reason]
    assert states(stage.home) == ["Expired", "Receipted"]


def test_a_refusal_without_a_signed_word_on_the_update_ends_nothing(stage: Stage):
    def forged(asked: Asked) -> Answer:
        return Answer(body=stage.pretender.proof("unknown")(asked).body[:-64] + bytes(64))

    stage.script.on("POST updates", refusal(Code.E_STALE))
    stage.script.on("POST proof", forged, Answer(silent=True), Answer(404, b"<html>"))

    stage.run(most_waits=50)

    assert states(stage.home) == ["Sent"] and not stage.of(events.Expired)
    assert len(set(stage.script.bodies("POST updates"))) == 1


def test_a_refused_update_is_not_sent_again_and_its_budget_stays_spent(stage: Stage):
    stage.script.on("POST updates", refusal(Code.E_STALE, "too old"), stage.pretender.received)
    stage.script.on("POST proof", stage.pretender.proof("unknown"))
    stage.pretender.publish(0, 0, 1)

    stage.run(once=True)

    (gone,) = stage.of(events.Expired)
    assert gone.reason == "the coordinator refused it: too old"
    assert len(set(stage.script.bodies("POST updates"))) == 2
    assert states(stage.home) == ["Expired", "Receipted"]
    assert device_status(stage.home).plans[0].standing.landings_used == 2


@pytest.mark.parametrize("code", [Code.E_BUDGET, Code.E_EXPIRED, Code.E_HALTED, Code.E_PARTICIPATION])
def test_the_end_of_a_run_ends_the_device(stage: Stage, code: Code):
    stage.script.on("POST updates", refusal(code, "it is over"))
    stage.script.on("POST proof", stage.pretender.proof("unknown"))

    ended = stage.run()

    assert ended.reason == "the coordinator takes no more Updates: it is over"
    assert len(stage.script.bodies("POST updates")) == 1


def test_a_refusal_about_the_run_leaves_the_update_in_the_outbox_for_the_next_start(stage: Stage):
    stage.script.on("POST updates", refusal(Code.E_HALTED, "it is over"), stage.pretender.received)
    stage.script.on("POST proof", stage.pretender.proof("unknown"))

    stage.run()
    kept = states(stage.home)
    ended = stage.run(once=True)

    assert kept == ["Sent"] and not stage.of(events.Expired)
    assert ended.accepted == 1 and states(stage.home) == ["Receipted"]
    assert len(set(stage.script.bodies("POST updates"))) == 1


@pytest.mark.parametrize("code", [Code.E_SIG, Code.E_CRED, Code.E_MALFORMED, Code.E_PLAN])
def test_a_refusal_that_every_update_would_meet_is_an_error_and_not_a_loop(stage: Stage, code: Code):
    stage.script.on("POST updates", refusal(code))
    stage.script.on("POST proof", stage.pretender.proof("unknown"))

    with pytest.raises(Refused):
        stage.run()

    assert len(stage.script.bodies("POST updates")) == 1 and states(stage.home) == ["Expired"]


def test_the_coordinator_s_word_that_the_run_is_over_ends_a_device_that_waits(stage: Stage):
    stage.script.on("GET status", Answer(body=b'{"ended": null}'), Answer(body=b'{"ended": "no more"}'))
    stage.script.on("POST proof", stage.pretender.proof("expired"))

    ended = stage.run()

    assert ended.reason == "the coordinator ended the run: no more"
    assert states(stage.home) == ["Expired"]


def test_a_mirror_without_a_status_is_no_obstacle(stage: Stage):
    stage.script.on("GET status", Answer(404, b"<html>"))

    assert stage.run(most_waits=10).reason == "asked to stop"


def test_a_snapshot_of_an_older_version_is_not_trained_from_even_after_a_restart(stage: Stage):
    stage.pretender.publish(2)
    stage.run(once=True)
    stage.pretender.publish(1)
    stage.script.on("POST proof", stage.pretender.proof("opened", 2))

    stage.run(most_waits=20)

    assert "offered Snapshot 1 and this device has seen 2" in stage.of(events.Waiting)[-1].reason
    assert len(stage.script.bodies("POST updates")) == 1


def test_two_snapshots_of_one_version_end_the_agent_with_an_error(stage: Stage):
    stage.run(once=True)
    other = stage.pretender.head(0, Digest(b"x" * 32))
    stage.script.on("GET head", other)

    with pytest.raises(HeadRefused, match="another Snapshot 0"):
        stage.run()


def test_a_head_that_is_not_signed_ends_the_agent_before_anything_is_trained(stage: Stage):
    body = bytearray(stage.pretender.head(0).body)
    body[-1] ^= 1
    stage.script.on("GET head", Answer(body=bytes(body)))

    with pytest.raises(HeadRefused):
        stage.run()

    assert not stage.of(events.Training)


def test_a_snapshot_that_is_not_the_signed_one_is_dropped_and_asked_for_again(stage: Stage):
    """Twice wrong: as what it differs by from the Plan's own, and whole."""
    stage.pretender.publish(1)
    wrong, right = Answer(body=stage.pretender.snapshots[0]), Answer(body=stage.pretender.snapshots[1])
    stage.script.on(f"GET {sha256(stage.pretender.snapshots[1]).hex()}", wrong, wrong, right)

    ended = stage.run(once=True)

    assert ended.accepted == 1
    assert "is not the one that was signed" in stage.of(events.Waiting)[0].reason


def test_a_304_that_nobody_asked_for_is_not_an_answer(stage: Stage):
    stage.script.on("GET head", Answer(304), stage.pretender.head(0))

    assert stage.run(once=True).accepted == 1


def test_a_proof_by_somebody_else_proves_nothing(stage: Stage):
    def forged(asked: Asked) -> Answer:
        honest = stage.pretender.proof("expired")(asked)
        return Answer(body=honest.body[:-64] + bytes(64))

    stage.pretender.publish(0, 0, 1)
    stage.script.on("POST proof", forged)

    stage.run(most_waits=20)

    assert states(stage.home) == ["Receipted"]
    assert "proof is worth nothing" in stage.of(events.Waiting)[-1].reason


def test_a_proof_whose_list_lacks_the_update_proves_nothing(stage: Stage):
    def without(asked: Asked) -> Answer:
        key, plan_id = stage.world.coordinator.sig, stage.world.plan_id
        return Answer(body=encode(sign_proof(key, plan_id, UpdateId(asked.body), "opened", 0, [])))

    stage.pretender.publish(0, 0, 1)
    stage.script.on("POST proof", without)

    stage.run(most_waits=20)

    assert states(stage.home) == ["Receipted"]


def test_nothing_but_the_protocol_s_fields_leaves(stage: Stage):
    """No metrics, no counts: the only requests with a body are enrol, updates and proof."""
    stage.run(once=True)

    assert {f"{one.method} {one.path.rsplit('/', 1)[-1]}" for one in stage.script.asked if one.body} == {
        "POST enrol",
        "POST updates",
    }
    told = {name for one in stage.script.asked for name in one.headers}
    signed = {name for name in told if name.startswith("Tacit-")}
    assert signed == {f"Tacit-{name}" for name in ("From", "To", "Time", "Nonce", "Digest", "Signature")}
    assert all(one.body for one in stage.script.asked if "Tacit-From" in one.headers)
    assert all(int(one.headers["Tacit-Time"]) % 1000 == 0 for one in stage.script.asked if one.body)
    assert told - signed <= {
        "Host",
        "Accept-Encoding",
        "Accept",
        "Connection",
        "Content-Type",
        "Content-Length",
        "If-None-Match",
    }


# -- The home --------------------------------------------------------------------------------------------------


def test_two_agents_do_not_share_a_home(stage: Stage):
    stage.run(once=True)
    with agent_lock(stage.home), pytest.raises(HomeBusy, match="another agent is at work"):
        stage.run(once=True)


def test_the_data_are_read_before_anything_is_promised(stage: Stage):
    np.savez(stage.folder / "examples.npz", x=np.zeros((3, 9)), y=np.zeros(3, int))

    with pytest.raises(InputError, match="example 0: x has shape"):
        stage.run()

    assert not stage.of(events.Joined)
    with Ledger.read(stage.home) as ledger:
        assert ledger.plans() == []
