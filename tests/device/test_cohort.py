"""Which devices judge and which train: by lot, for good, and never both."""

import contextlib
import hashlib
import json
import os
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tacit.device import events
from tacit.device.joining import OfAnotherCohort, check_cohort
from tacit.device.ledger import Ledger, SecondOfACharter
from tacit.plan.bundle import PlanRefused, build_plan, parse_plan
from tacit.wire.ids import PlanId, sha256
from tacit.wire.keys import cohort
from tacit.wire.messages import Upload, decode
from tests.device.coordinating import Stage, staged
from tests.device.scripted import Answer
from tests.device.small import examples, judged_world, learning_world, link_to
from tests.factory import World

AUTHOR = bytes(range(32))


def secrets(count: int) -> list[bytes]:
    return [hashlib.sha256(b"%d" % number).digest() for number in range(count)]


def test_five_in_a_hundred_judge():
    """20,000 lots: one standard deviation is 0.15 percentage points. A fair lot fails this once in 1.7 million."""
    judging = sum(cohort(secret, AUTHOR) < 5 for secret in secrets(20_000)) / 20_000

    assert abs(judging - 0.05) < 5 * (0.05 * 0.95 / 20_000) ** 0.5


def test_every_hundredth_is_drawn_alike_and_another_author_draws_anew():
    drawn = [cohort(secret, AUTHOR) for secret in secrets(20_000)]
    counts = [drawn.count(number) for number in range(100)]
    again = [cohort(secret, AUTHOR[::-1]) for secret in secrets(20_000)]

    # Chi square with 99 degrees of freedom is above 180 once in a million.
    assert sum((count - 200) ** 2 / 200 for count in counts) < 180
    assert abs(sum(a == b for a, b in zip(drawn, again, strict=True)) - 200) < 5 * 200**0.5


def test_a_device_is_on_one_side_of_a_charter_and_stays_there(tmp_path: Path):
    trained, judging = judged_world(tmp_path, evaluators=30)
    sides: set[bool] = set()
    for secret in secrets(40):
        judges = cohort(secret, trained.plan.author) < 30
        own, other = (judging, trained) if judges else (trained, judging)
        check_cohort(own.plan, secret)
        with pytest.raises(OfAnotherCohort) as refused:
            check_cohort(other.plan, secret)
        assert refused.value.judges == judges
        sides.add(judges)

    assert sides == {True, False}


def test_without_a_cohort_in_the_charter_everybody_trains(tmp_path: Path):
    plan = learning_world(tmp_path).plan

    for secret in secrets(40):
        check_cohort(plan, secret)


def drawn(judges: bool, author: bytes) -> bytes:
    return next(secret for secret in iter(lambda: os.urandom(32), b"") if (cohort(secret, author) < 50) == judges)


@contextlib.contextmanager
def judging(world: World, folder: Path) -> Generator[Stage]:
    """A stage for a device of the evaluation cohort."""
    with staged(world, folder) as stage:
        Ledger.open(stage.home, lambda _: drawn(True, world.plan.author)).close()
        first = world.plan.initial_snapshot
        stage.pretender.snapshots[0] = first
        stage.script.on(f"GET {sha256(first).hex()}", Answer(body=first))
        stage.pretender.publish(0)
        yield stage


@pytest.mark.parametrize(
    ("batch", "wanted"),
    [
        ({"t": 0, "state": "collecting", "fill": 3, "target": 4}, True),
        ({"t": 0, "state": "collecting", "fill": 4, "target": 4}, False),
        ({"t": 0, "state": "opened", "fill": 3, "target": 4}, False),
        ({"t": 1, "state": "collecting", "fill": 0, "target": 4}, False),
        ({"t": "soon"}, True),
    ],
)
def test_who_would_come_too_late_spends_nothing(tmp_path: Path, batch, wanted):
    _, world = judged_world(tmp_path / "world")
    with judging(world, tmp_path) as stage:
        stage.script.on("GET status", Answer(body=json.dumps({"ended": None, "batch": batch}).encode()))
        stage.run(once=True, most_waits=5)
        uploads = stage.script.bodies("POST updates")

    dropped = {event.reason for event in stage.of(events.Dropped)}
    with Ledger.read(stage.home) as ledger:
        assert (len(uploads), ledger.mu2_spent() > 0, dropped) == (
            (1, True, set()) if wanted else (0, False, {"enough devices have judged it"})
        )


def test_a_batch_that_fills_while_a_device_judges_costs_it_nothing(tmp_path: Path):
    _, world = judged_world(tmp_path / "world")
    full = {"t": 0, "state": "collecting", "fill": 4, "target": 4}
    answers = [{"ended": None, "batch": {**full, "fill": fill}} for fill in (0, 4)]
    with judging(world, tmp_path) as stage:
        stage.script.on("GET status", *(Answer(body=json.dumps(one).encode()) for one in answers))
        stage.run(once=True, most_waits=5)

    assert stage.of(events.Judged) and not stage.of(events.Sent)
    with Ledger.read(stage.home) as ledger:
        assert ledger.mu2_spent() == 0


def test_a_device_that_judges_sends_what_its_examples_say_and_trains_nothing(tmp_path: Path):
    _, world = judged_world(tmp_path / "world")
    with judging(world, tmp_path) as stage:
        stage.run(once=True)
        (sent,) = [decode(Upload, body) for body in stage.script.bodies("POST updates")]

    (judged,) = stage.of(events.Judged)
    assert not stage.of(events.Training)
    # All values of Snapshot 0 are 0: no class is preferred, and the first one counts as chosen.
    assert judged.found.examples == 20 and judged.found.loss == pytest.approx(1.0986, abs=1e-4)
    assert judged.found.correct == int((examples()["y"] == 0).sum())
    assert len(sent.payload) == (23 * world.plan.manifest.quantisation.bits + 7) // 8
    with Ledger.read(stage.home) as ledger:
        assert ledger.mu2_spent() == pytest.approx(world.plan.manifest.debit(1))


def test_a_device_of_the_other_side_is_refused_before_anything_runs(tmp_path: Path):
    trained, judging = judged_world(tmp_path / "world")
    for world, judges in ((trained, True), (judging, False)):
        secret = drawn(judges, world.plan.author)
        (tmp_path / str(judges)).mkdir()
        with staged(world, tmp_path / str(judges)) as stage:
            Ledger.open(stage.home, lambda _, secret=secret: secret).close()
            with pytest.raises(OfAnotherCohort, match="evaluation cohort of"):
                stage.run()
            assert not stage.script.bodies("POST enrol") and not stage.of(events.Joined)


@pytest.mark.parametrize("honest", [True, False])
def test_a_device_of_the_cohort_is_led_from_training_to_judging_under_the_same_charter(tmp_path: Path, honest):
    trained, world = judged_world(tmp_path / "world")
    if not honest:  # a Plan of the same author and of the cohort, and another charter
        charter = msgspec.structs.replace(world.plan.charter, purpose="something else")
        blobs = {name: blob.tobytes() for name, blob in world.plan.blobs.items()}
        data = build_plan(world.plan.manifest, charter, blobs, world.author)
        world.plan_file.write_bytes(data)
        world = replace(world, plan=parse_plan(data))
    with judging(world, tmp_path) as stage:
        script, head = stage.script, stage.pretender.head(0)
        script.on(f"GET {trained.plan_id.hex()}", Answer(body=trained.plan_file.read_bytes()))
        script.on("GET head", replace(head, headers={**head.headers, "Tacit-Evaluation": world.plan_id.hex()}))
        link = str(link_to(trained, script.port))
        if not honest:
            with pytest.raises(PlanRefused, match="not one under the same charter"):
                stage.run(link=link)
            return
        stage.run(link=link, once=True)

    (led,) = stage.of(events.Judging)
    assert (led.plan_id, led.judges, led.evaluators) == (world.plan_id, trained.plan_id, 50)
    assert stage.of(events.Judged) and stage.of(events.Received) and not stage.of(events.Training)
    assert "trains nothing" in events.line(led)


def test_evaluations_of_one_charter_share_its_budget_on_a_device(tmp_path: Path):
    pinned = {"author": AUTHOR, "title": "judging", "server": "", "landings": 1, "delta": 1e-7, "charter": bytes(32)}

    def pin(ledger: Ledger, number: int, mu2: float, shared: float | None) -> None:
        ledger.pin(PlanId(bytes([number]) * 32), lineage=bytes([number]) * 32, mu2_life=mu2, shared=shared, **pinned)

    with Ledger.open(tmp_path, os.urandom) as ledger:
        pin(ledger, 1, 0.2, 0.5)
        pin(ledger, 2, 0.2, 0.5)
        with pytest.raises(SecondOfACharter, match=r"μ² = 0\.2; of the 0\.5 .* take 0\.4"):
            pin(ledger, 3, 0.2, 0.5)
        pin(ledger, 3, 0.1, 0.5)
        with pytest.raises(SecondOfACharter, match="one Plan and those that continue it"):
            pin(ledger, 4, 0.0, None)
