"""A device and a Plan that continues its own: it moves over by itself, once, and its ledger follows the chain."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tacit.cli.device import _status
from tacit.device import events
from tacit.device.agent import run
from tacit.device.home import device_receipts, plan_file
from tacit.device.joining import AnotherCharter, PlanOverMemory
from tacit.device.kept import kept_bytes
from tacit.device.ledger import _CHAIN, _UNIT, FILE, BudgetRefused, Ledger, SecondOfACharter, StepRefused
from tacit.plan.bundle import build_plan, decode_snapshot, parse_plan
from tacit.plan.manifest import Continues
from tacit.privacy.trust import Trust
from tacit.wire.codes import Code
from tacit.wire.ids import PlanId
from tacit.wire.keys import SigningKey
from tests.device.coordinating import Stage, refusal, staged
from tests.device.scripted import Answer
from tests.device.small import D, learning_world, link_to, playable, save_examples, settings_for, with_plan
from tests.device.test_ledger import LANDINGS, OTHER, PLAN, made
from tests.factory import PATIENCE_S, Site, World, coordinator_process, following, running

change = msgspec.structs.replace
ROOT = Path(__file__).parents[2]
RULES: dict[str, Any] = {"target": 1, "threshold": 1, "landings": 3, "max_age": 50, "snapshots": 200}


def learning_on(world: World, version: int, snapshot: bytes, *, other_prefix: bool = False, **rules: Any) -> World:
    """The next Plan of a world of `learning_world`: at another rate, and with another prefix if so asked."""
    after = following(world, version, snapshot, d=D, **{**RULES, **rules})
    model = replace(playable(prefix=True, rate=0.2), initial=decode_snapshot(snapshot, D))
    if other_prefix:
        kept = tuple(change(one, name="another") for one in model.program.kept)
        model = replace(model, program=change(model.program, kept=kept))
    return with_plan(after, model, program=model.program, local=world.plan.manifest.local)


@dataclass(eq=False)
class OnTheMove:
    """One device whose Plan has ended after its first Update, and the coordinator that serves what continues it."""

    old: World
    site: Site  # of the new Plan
    home: Path
    data: Path

    @property
    def new(self) -> World:
        return self.site.world

    def run(self, **changes: Any) -> list[events.Event]:
        seen: list[events.Event] = []
        port = self.site.coordinator.port
        run(settings_for(self.old, port, self.home, self.data, **{"once": True, **changes}), seen.append)
        return seen

    def ledger(self) -> Ledger:
        return Ledger.read(self.home)


@pytest.fixture(params=[{}])
def moving(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[OnTheMove]:
    world = learning_world(tmp_path, prefix=True, rate=0.5, **RULES)
    home, data = tmp_path / "device", save_examples(tmp_path / "examples.npz")
    with running(world) as old:
        old.wait_version(0)
        run(settings_for(world, old.coordinator.port, home, data, once=True), lambda _: None)
        snapshot = old.snapshot(old.wait_version(1))
        old.coordinator.stop()
        after = learning_on(world, 1, snapshot, **request.param)
        coordinator = coordinator_process(after, old.keyholders)
        site = Site(after, coordinator, old.keyholders)
        coordinator.start()
        site.wait_version(0)
        try:
            yield OnTheMove(world, site, home, data)
        finally:
            coordinator.stop()


def of(kind: type, seen: list[events.Event]) -> list[Any]:
    return [event for event in seen if isinstance(event, kind)]


def check_moved(device: OnTheMove) -> None:
    """What must be true after a move, whatever happened on the way."""
    old, new = device.old.plan_id, device.new.plan_id
    with device.ledger() as ledger:
        first, second = ledger.plans()
        assert (first.succeeded_by, second.continues, second.began) == (new, old, 1)
        assert ledger.last_of_chain(old) == new and ledger.before(new) == old
        assert second.standing.landings_used == 2 and (first.updates, second.updates) == (1, 1)
        assert second.standing.mu2_spent == pytest.approx(2 * device.old.plan.manifest.debit(1))
        assert [one.state for one in ledger.receipts(old)] == ["Settled"]
    assert not plan_file(device.home, old).exists() and plan_file(device.home, new).exists()
    assert kept_bytes(device.home, old) == 0 < kept_bytes(device.home, new)
    assert {one for _, ids in device.site.opened_ids() for one in ids} <= {
        line.update_id.hex() for line in device_receipts(device.home)
    }


def test_a_device_moves_over_by_itself_and_goes_on_with_what_it_kept(moving: OnTheMove):
    seen = moving.run()

    (moved,) = of(events.Moved, seen)
    assert (moved.plan_id, moved.before, moved.version) == (moving.new.plan_id, moving.old.plan_id, 1)
    assert "continues Plan" in events.line(moved)
    assert [event.landings_used for event in of(events.Joined, seen)] == [1, 1]
    assert [event.reused for event in of(events.Prepared, seen)] == [True]
    assert [event.opened_in for event in of(events.Settled, seen)] == [0]
    check_moved(moving)
    # From now on it begins where it is, whatever link it is started with.
    assert of(events.Moved, moving.run()) == []


@pytest.mark.parametrize("moving", [{"other_prefix": True}], indirect=True)
def test_what_was_kept_goes_where_the_prefix_is_another(moving: OnTheMove):
    seen = moving.run()

    assert [event.reused for event in of(events.Prepared, seen)] == [False]
    check_moved(moving)


@pytest.mark.parametrize("moving", [{"landings": 1}], indirect=True)
def test_landings_are_limited_over_the_chain(moving: OnTheMove):
    seen = moving.run(once=False)

    assert of(events.Moved, seen) and not of(events.Training, seen)
    assert seen[-1] == events.Ended("all 1 landings that this Plan gives a device are used", 0)


def test_an_update_that_was_never_accepted_expires_with_its_plan_and_stays_paid_for(tmp_path: Path):
    world = learning_world(tmp_path, prefix=True, rate=0.5, **RULES)
    home, data = tmp_path / "device", save_examples(tmp_path / "examples.npz")
    with running(world) as old:
        snapshot = old.snapshot(old.wait_version(0))
        waits: list[events.Event] = []
        settings = settings_for(world, old.coordinator.port, home, data, jitter=1e6)
        run(settings, waits.append, should_stop=lambda: bool(of(events.Waiting, waits)))
        assert [line.state for line in device_receipts(home)] == ["Debited"]
        old.coordinator.stop()
        after = learning_on(world, 0, snapshot)
        device = OnTheMove(world, Site(after, coordinator_process(after, old.keyholders).start(), []), home, data)
        device.site.wait_version(0)
        try:
            seen = device.run()
        finally:
            device.site.coordinator.stop()

    (gone,) = of(events.Expired, seen)
    assert after.plan_id.hex() in gone.reason
    assert [line.state for line in device_receipts(home)] == ["Expired", "Receipted"]
    with device.ledger() as ledger:
        assert ledger.mu2_spent() == pytest.approx(2 * world.plan.manifest.debit(1))


def test_a_device_whose_owner_allows_less_than_the_successor_wants_stays_and_says_so(moving: OnTheMove):
    with pytest.raises(PlanOverMemory):
        moving.run(memory=100)

    with moving.ledger() as ledger:
        assert [plan.succeeded_by for plan in ledger.plans()] == [None]


@pytest.mark.parametrize(
    "point", ["move.fetched", "move.before_commit", "move.committed", "move.kept", "debited", "sent"]
)
def test_a_device_that_is_killed_on_the_move_is_there_after_the_next_start(moving: OnTheMove, point: str):
    environment = {**os.environ, "TACIT_CRASH_AT": f"device.{point}"}
    link = str(link_to(moving.old, moving.site.coordinator.port))
    command = [sys.executable, "-m", "tests.device.one_device", link, str(moving.data), str(moving.home), "1e14"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment, text=True) as process:
        lines = process.communicate(timeout=PATIENCE_S)[0].splitlines()
        assert process.returncode == -signal.SIGKILL, lines

    first = json.loads(lines[0])
    assert first["event"] == "joined"
    moving.run()

    check_moved(moving)


# -- Offers that are none -----------------------------------------------------------------------------------


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    world = learning_world(tmp_path / "world", prefix=True, landings=LANDINGS, max_age=1)
    with staged(world, tmp_path) as made_stage:
        yield made_stage


def offer(stage: Stage, plan_id: bytes, data: bytes) -> None:
    """The coordinator says that this Plan goes on from here."""
    head = stage.pretender.head(0)
    stage.script.on("GET head", replace(head, headers={"Tacit-Successor": plan_id.hex()}))
    stage.script.on(f"GET {plan_id.hex()}", Answer(body=data))


def nothing_happened(stage: Stage) -> bool:
    with Ledger.read(stage.home) as ledger:
        return len(ledger.plans()) == 1 and ledger.mu2_spent() == 0 and not stage.of(events.Training)


def test_a_successor_by_another_author_is_not_followed_and_nothing_is_trained_meanwhile(stage: Stage):
    stranger = replace(stage.world, author=SigningKey.from_seed(os.urandom(32)))
    charter = change(stage.world.plan.charter, author=stranger.author.public)
    after = following(stranger, 0, d=D, charter=charter)
    offer(stage, after.plan_id, bytes(after.plan.raw))

    stage.run(most_waits=5)

    assert "is signed by" in stage.of(events.Waiting)[-1].reason
    assert nothing_happened(stage)


def test_a_plan_that_does_not_continue_this_one_is_not_followed(stage: Stage):
    manifest = change(stage.world.plan.manifest, title="something else")
    blobs = {name: blob.tobytes() for name, blob in stage.world.plan.blobs.items()}
    other = parse_plan(build_plan(manifest, stage.world.plan.charter, blobs, stage.world.author))
    offer(stage, other.plan_id, bytes(other.raw))

    stage.run(most_waits=5)

    assert "it does not name Plan" in stage.of(events.Waiting)[-1].reason
    assert nothing_happened(stage) and not plan_file(stage.home, other.plan_id).exists()


def test_another_charter_is_the_owners_to_agree_to(stage: Stage):
    charter = change(stage.world.plan.charter, purpose="to sell you something")
    after = following(stage.world, 0, d=D, charter=charter)
    offer(stage, after.plan_id, bytes(after.plan.raw))

    with pytest.raises(AnotherCharter, match=f"to sell you something.*tacit join .*{after.plan_id.hex()}"):
        stage.run()
    assert nothing_happened(stage)


def test_a_header_that_names_no_plan_is_not_there(stage: Stage):
    stage.script.on("GET head", replace(stage.pretender.head(0), headers={"Tacit-Successor": "soon"}))

    assert stage.run(once=True).accepted == 1


def test_a_refusal_because_the_plan_has_ended_ends_the_update_and_not_the_run(stage: Stage):
    stage.script.on("POST updates", refusal(Code.E_SUCCEEDED, "Plan 00 continues it", 410), stage.pretender.received)
    stage.script.on("POST proof", stage.pretender.proof("unknown"))
    stage.pretender.publish(0, 0, 1)

    ended = stage.run(once=True)

    assert ended.accepted == 1
    assert stage.of(events.Expired)[0].reason == "the coordinator refused it: Plan 00 continues it"


# -- The ledger ---------------------------------------------------------------------------------------------


def pinned(home: Path, plan: PlanId = PLAN, **changes: Any) -> Ledger:
    ledger = Ledger.open(home, os.urandom)
    pin(ledger, plan, **changes)
    return ledger


def pin(ledger: Ledger, plan: PlanId, **changes: Any) -> None:
    facts = {"author": b"a" * 32, "lineage": PLAN, "title": "t", "server": "s", "landings": 3, "delta": 1e-7}
    ledger.pin(plan, **{**facts, "charter": b"c" * 32, "mu2_life": 1.5, **changes})


CONTINUES = Continues(PLAN, 5, bytes(32), PLAN, 1)


def test_the_ledger_counts_landings_and_spends_along_the_chain(tmp_path: Path):
    ledger = pinned(tmp_path)
    made(ledger, version=4)
    pin(ledger, OTHER, continues=CONTINUES, now=9)

    standing = ledger.standing(OTHER)
    assert (standing.landings_used, standing.mu2_spent, standing.unanswered) == (1, 0.5, 0)
    assert [line.reason for line in ledger.receipts(PLAN)] == [f"Plan {OTHER.hex()[:8]} continues its Plan"]
    made(ledger, version=0, plan=OTHER)
    made(ledger, version=1, plan=OTHER)
    assert ledger.standing(OTHER).landings_used == 3 and ledger.spent_in(PLAN) == 1.5
    with pytest.raises(StepRefused, match="all 3 landings"):
        made(ledger, version=2, plan=OTHER)


def test_the_ledger_never_spends_more_in_a_chain_than_its_last_plan_says(tmp_path: Path):
    ledger = pinned(tmp_path)
    made(ledger, mu2=1.2)
    pin(ledger, OTHER, continues=CONTINUES)

    with pytest.raises(BudgetRefused):
        made(ledger, plan=OTHER, mu2=0.4)
    made(ledger, plan=OTHER, mu2=0.3)


@pytest.mark.parametrize(("version", "separation", "first"), [(4, 3, 2), (4, 1, 0), (7, 1, 0), (7, 3, 2), (1, 9, 5)])
def test_the_next_version_is_counted_from_where_the_plan_before_ended(
    tmp_path: Path, version: int, separation: int, first: int
):
    from tacit.device.participation import Debt, debited, trained
    from tacit.wire.ids import Digest, UpdateId

    ledger = pinned(tmp_path)
    state = trained(ledger.offer(PLAN, version, Digest(bytes(32)), 1))
    ledger.move(state, 1)
    debt = Debt(UpdateId(os.urandom(16)), Digest(bytes(32)), 0.5, version + separation, 3, 7)
    ledger.debit(debited(state, debt), b"upload", 1)
    pin(ledger, OTHER, continues=CONTINUES)

    assert ledger.standing(OTHER).next_ok_version == first


def test_of_one_charter_a_device_takes_part_in_one_chain(tmp_path: Path):
    ledger = pinned(tmp_path)

    with pytest.raises(SecondOfACharter, match="of one charter"):
        pin(ledger, OTHER, lineage=OTHER)
    pin(ledger, OTHER, lineage=OTHER, charter=b"d" * 32)
    assert len(ledger.plans()) == 2


@pytest.mark.parametrize("sent", [False, True])
def test_another_class_may_be_joined_only_while_nothing_was_spent_in_the_first(tmp_path: Path, sent: bool):
    ledger = pinned(tmp_path)
    if sent:
        made(ledger)
    ledger.forget(PLAN, 1)

    if sent:
        with pytest.raises(SecondOfACharter):
            pin(ledger, OTHER, lineage=OTHER)
    else:
        pin(ledger, OTHER, lineage=OTHER)


@pytest.mark.parametrize(
    "lie",
    [
        {"author": b"b" * 32},
        {"continues": CONTINUES, "lineage": b"x" * 32, "charter": b"d" * 32},
    ],
)
def test_a_plan_that_lies_about_its_chain_is_not_joined(tmp_path: Path, lie: dict[str, Any]):
    ledger = pinned(tmp_path)

    with pytest.raises(StepRefused, match="not joined"):
        pin(ledger, OTHER, **lie)


def test_a_ledger_of_the_format_before_is_brought_up_to_date_and_keeps_what_was_spent(tmp_path: Path):
    with pinned(tmp_path) as ledger:
        made(ledger)
    database = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    for column in (*_CHAIN, _UNIT):
        database.execute(f"ALTER TABLE plan DROP COLUMN {column.split()[0]}")
    database.execute("UPDATE device SET format = 1")
    database.close()

    with Ledger.read(tmp_path) as ledger:
        assert ledger.standing(PLAN).mu2_spent == 0.5
        pin(ledger, PLAN)
        with pytest.raises(BudgetRefused):
            made(ledger, version=1, mu2=1.1)


def test_the_owner_sees_the_chain(tmp_path: Path):
    ledger = pinned(tmp_path, device_class="phone")
    made(ledger)
    pin(ledger, OTHER, continues=CONTINUES, device_class="phone")
    made(ledger, plan=OTHER)
    first, second = ledger.plans()

    assert _status(first, Trust.SINGLE_OPERATOR, False).endswith(
        f"continued by {OTHER.hex()[:8]}; 1 Updates, 0 opened within sums, 1 expired"
    )
    assert "for devices of the class phone" in _status(second, Trust.SINGLE_OPERATOR, False)
    assert f"continues {PLAN.hex()[:8]} from its Snapshot 5" in _status(second, Trust.SINGLE_OPERATOR, False)
    assert "2 of 3 Updates with the Plans before it, 1 here" in _status(second, Trust.SINGLE_OPERATOR, False)
    assert json.loads(_status(first, Trust.SINGLE_OPERATOR, True))["succeeded_by"] == OTHER.hex()
