"""Runs in virtual time: the same bytes for the same seed, however they are played and however often they are killed."""

import fcntl
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tacit.codec.difference import worth
from tacit.engine.player import Player
from tacit.fleet import run as running
from tacit.fleet.availability import DayNight
from tacit.fleet.coordinating import NOTHING
from tacit.fleet.folder import FORMAT, Fate, Folder, RunBroken, Summary
from tacit.fleet.run import ScenarioWrong, World, play
from tacit.fleet.settings import Scenario, Spent
from tacit.plan.bundle import decode_snapshot
from tacit.plan.estimate import visit_of
from tacit.privacy.account import epsilon_text
from tacit.wire.messages import OpenedMark
from tests.fleet.playing import DEVICES, examples, plan, world

SAME = ("visits.bin", "points.jsonl", "final.snapshot", "summary.json")


def scenario(**more: Any) -> Scenario:
    return Scenario("test", **({"at_work": 12, "every": 2, "judged": 200} | more))


def played(world: World, scenario: Scenario, path: Path, workers: int = 2) -> tuple[Summary, dict[str, bytes]]:
    summary = play(world, scenario, Folder(path), {}, workers=workers)
    return summary, {name: (path / name).read_bytes() for name in SAME}


def test_the_same_seed_gives_the_same_bytes_however_many_workers(tmp_path: Path) -> None:
    here = world(plan())
    one, bytes_of_one = played(here, scenario(dropout=0.1, loss=0.1), tmp_path / "one", workers=1)
    _, bytes_of_three = played(here, scenario(dropout=0.1, loss=0.1), tmp_path / "three", workers=3)
    assert bytes_of_one == bytes_of_three
    _, others = played(here, scenario(dropout=0.1, loss=0.1, seed=1), tmp_path / "other")
    assert all(others[name] != bytes_of_one[name] for name in SAME)
    assert one.versions == 8 and one.updates == 48
    assert one.accuracy > 0.5


def test_real_masks_come_to_the_same_model_as_counted_ones(tmp_path: Path) -> None:
    """Every Update masked, sealed, signed, opened: not one bit of a Snapshot is another."""
    here = world(plan(snapshots=3))
    _, real = played(here, scenario(masking="real"), tmp_path / "real")
    _, counted = played(here, scenario(masking="counted"), tmp_path / "counted")
    assert real == counted


def test_noise_moves_the_model_and_its_price_is_told(tmp_path: Path) -> None:
    quiet, bytes_of_quiet = played(world(plan(noise=1e-6)), scenario(), tmp_path / "quiet")
    loud, bytes_of_loud = played(world(plan(noise=0.8)), scenario(), tmp_path / "loud")
    assert bytes_of_quiet["final.snapshot"] != bytes_of_loud["final.snapshot"]
    assert quiet.epsilon is None and "No meaningful" in quiet.statement
    assert loud.loss > quiet.loss
    assert loud.mu2 == pytest.approx(plan(noise=0.8).manifest.spent(loud.most_landings))


@pytest.mark.parametrize("more", [{"trigger": 0.5}, {"clip": "median"}, {"before": Spent(visits=3)}], ids=str)
def test_what_nobody_accounts_for_claims_nothing_however_little_landed(more: dict[str, Any], tmp_path: Path) -> None:
    here = world(plan(noise=1.2))  # which claims nothing for its whole life, and something for few landings
    accounted, _ = played(here, scenario(target=0.15), tmp_path / "accounted")
    summary, _ = played(here, scenario(target=0.15, **more), tmp_path / "told more")
    assert 0 < accounted.most_landings < 8
    assert accounted.epsilon is not None and f"ε = {epsilon_text(accounted.epsilon)} at" in accounted.statement
    assert summary.epsilon is None
    assert summary.statement.startswith("No claim: devices told more than their noised sums")


def test_what_a_run_says_adds_up(tmp_path: Path) -> None:
    summary, _ = played(world(plan()), scenario(dropout=0.2, loss=0.2, at_work=20), tmp_path)
    folder = Folder(tmp_path)
    visits, points = folder.visits(), folder.points()
    applied = visits[visits["fate"] == Fate.APPLIED]
    assert len(visits) == summary.visits == sum(summary.fates.values())
    assert len(applied) == summary.updates
    assert int(visits["up"].sum()) == summary.up and int(visits["down"].sum()) == summary.down
    assert {Fate.DROPPED, Fate.OPEN} <= set(map(Fate, visits["fate"]))
    # No batch has two Updates of one device, none is too old, and no device landed too often.
    manifest = plan().manifest
    assert (np.bincount(applied["batch"]) == manifest.batch.target).all()
    for t in range(summary.versions):
        assert len(set(applied["device"][applied["batch"] == t])) == manifest.batch.target
    ages = applied["batch"] - applied["base"].astype(int)
    assert ages.min() >= 0 and ages.max() <= manifest.batch.max_age
    assert np.bincount(applied["device"]).max() == summary.most_landings <= manifest.participation.landings
    assert [point.version for point in points] == [0, 2, 4, 6, 8]
    assert all(before.time <= after.time for before, after in pairwise(points))
    # A device fetches the Plan once, if it does not give up meanwhile.
    for device in range(DEVICES):
        assert visits["first"][(visits["device"] == device) & (visits["fate"] != Fate.DROPPED)].sum() <= 1


def test_what_is_judged_is_what_people_get(tmp_path: Path) -> None:
    """The average of Snapshots, where the Plan publishes one: not the newest of them."""
    here = world(plan())
    summary = play(here, Scenario("tacit", at_work=12, judged=100), Folder(tmp_path / "run"), {})
    final = decode_snapshot((tmp_path / "run" / "final.snapshot").read_bytes(), here.plan.manifest.program.d)
    player, test = Player(here.plan.playable()), examples()[1]
    player.load(final)

    loss, right, count = player.evaluate(test.inputs, test.labels)
    assert (summary.accuracy, summary.loss) == (pytest.approx(right / count), pytest.approx(loss / count))
    points = Folder(tmp_path / "run").points()
    assert [point.version for point in points] == list(range(summary.versions + 1))
    assert 0 < points[-1].accuracy <= summary.best_accuracy == max(point.accuracy for point in points)


def test_devices_train_when_they_are_there(tmp_path: Path) -> None:
    nights = DayNight(3)
    here = world(plan(), availability=nights)
    played(here, scenario(days=4), tmp_path)
    visits = Folder(tmp_path).visits()
    devices = visits["device"].astype(np.int64)
    opens, closes = nights.windows(devices, visits["began"])
    assert (opens <= visits["began"]).all() and (visits["began"] < closes).all()


def test_a_trigger_carries_on_what_is_short_and_sends_it_in_the_end(tmp_path: Path) -> None:
    often, _ = played(world(plan()), scenario(), tmp_path / "often")
    seldom, _ = played(world(plan()), scenario(trigger=5.0, carried=3), tmp_path / "seldom")
    assert "carried" not in often.fates
    # Nothing is ever long enough, so every third visit sends.
    assert seldom.fates["carried"] >= 2 * seldom.updates
    visits = Folder(tmp_path / "seldom").visits()
    assert (visits["up"][visits["fate"] == Fate.CARRIED] == 0).all()
    lengths = visits["norm"][visits["fate"] == Fate.APPLIED]
    assert np.median(lengths) > 1.5 * np.median(visits["norm"][visits["fate"] == Fate.CARRIED])


def test_deltas_at_random_go_through_the_same_batches(tmp_path: Path) -> None:
    drawn, _ = played(world(plan()), scenario(training="none"), tmp_path)
    assert drawn.updates == 48 and drawn.fates["applied"] == 48


class TestAKill:
    """A process is killed with -9, again and again: the run ends with the bytes of one that was never killed."""

    def test_a_run_that_was_killed_ends_as_if_it_had_not_been(self, tmp_path: Path) -> None:
        asked = scenario(dropout=0.1, loss=0.1, trigger=0.4, carried=3)
        _, whole = played(world(plan()), asked, tmp_path / "whole")
        killed, kills = tmp_path / "killed", 0
        (tmp_path / "plan").write_bytes(plan().raw)
        (tmp_path / "scenario").write_bytes(msgspec.json.encode(asked))
        while not Folder(killed).is_over:
            files = [str(tmp_path / "plan"), str(tmp_path / "scenario"), str(killed), str(21 + 40 * kills)]
            child = subprocess.run([sys.executable, "-m", "tests.fleet.killed", *files], capture_output=True)
            assert child.returncode in (0, -signal.SIGKILL), child.stderr.decode()
            kills += child.returncode != 0
        assert kills > 1
        assert {name: (killed / name).read_bytes() for name in SAME} == whole
        assert not (killed / "checkpoint.bin").exists()

    def test_what_stands_for_a_keyholders_mark_is_read_again_from_a_checkpoint(self) -> None:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(NOTHING), type=OpenedMark) == NOTHING

    def test_ctrl_c_leaves_a_run_that_goes_on(self, tmp_path: Path) -> None:
        _, whole = played(world(plan(snapshots=40, participations=32)), scenario(), tmp_path / "whole")
        path = tmp_path / "stopped"
        with pytest.raises(KeyboardInterrupt):
            play(world(plan(snapshots=40, participations=32)), scenario(), Folder(path), {}, stop=_after(1))
        assert (path / "checkpoint.bin").exists()
        with pytest.raises(RunBroken, match="is not over: the same command goes on"):
            Folder(path).summary()
        _, again = played(world(plan(snapshots=40, participations=32)), scenario(), path)
        assert again == whole

    def test_devices_that_come_and_go_do_so_after_it_as_well(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run: Any = running._Run
        some = run._some
        monkeypatch.setattr(run, "_some", lambda self, end: some(self, end, 25))
        here = world(plan(snapshots=40, participations=32), availability=DayNight(3))
        asked = scenario(days=6, opening=2000.0)
        _, whole = played(here, asked, tmp_path / "whole")
        stopped, stops = tmp_path / "stopped", 0
        while not Folder(stopped).is_over:
            try:
                play(here, asked, Folder(stopped), {}, stop=_after(1))
            except KeyboardInterrupt:
                stops += 1
        assert stops > 2
        assert {name: (stopped / name).read_bytes() for name in SAME} == whole

    def test_a_damaged_checkpoint_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            play(world(plan(snapshots=40, participations=32)), scenario(), Folder(tmp_path), {}, stop=_after(1))
        checkpoint = tmp_path / "checkpoint.bin"
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1] + b"?")
        with pytest.raises(RunBroken, match=r"checkpoint\.bin is damaged; to begin that run anew delete"):
            play(world(plan(snapshots=40, participations=32)), scenario(), Folder(tmp_path), {})


class TestWhatCannotHold:
    """Refused before the first event."""

    @pytest.mark.parametrize(
        ("asked", "why"),
        [
            ({"trigger": 0.5}, None),
            ({"clip": "median"}, None),
            ({"replay": 2}, "replay needs public examples"),
            ({"training": "none", "target": 0.9}, "a target needs training"),
        ],
    )
    def test_settings(self, asked: dict[str, Any], why: str | None, tmp_path: Path) -> None:
        here = world(plan()) if why else world(plan(noise=3.0))
        with pytest.raises(ScenarioWrong, match=why or "this Plan claims an ε"):
            play(here, scenario(**asked), Folder(tmp_path / "run"), {})
        assert not (tmp_path / "run").exists()

    def test_a_threshold_above_the_devices(self, tmp_path: Path) -> None:
        with pytest.raises(ScenarioWrong, match="opened with 5 Updates at least and there are 4 devices"):
            play(world(plan(threshold=5), devices=4), scenario(), Folder(tmp_path), {})

    def test_another_run_in_the_folder(self, tmp_path: Path) -> None:
        played(world(plan(snapshots=2)), scenario(), tmp_path)
        with pytest.raises(RunBroken, match="holds a run with other settings"):
            play(world(plan(snapshots=2)), scenario(seed=5), Folder(tmp_path), {})

    def test_a_folder_of_a_newer_version(self, tmp_path: Path) -> None:
        played(world(plan(snapshots=2)), scenario(), tmp_path)
        settings = msgspec.json.decode((tmp_path / "settings.json").read_bytes())
        (tmp_path / "settings.json").write_bytes(msgspec.json.encode(settings | {"format": 99}))
        said = f"format 99 and this tacit reads format {FORMAT}: it was made by a newer tacit"
        with pytest.raises(RunBroken, match=said):
            play(world(plan(snapshots=2)), scenario(), Folder(tmp_path), {})

    def test_a_folder_in_which_another_process_plays(self, tmp_path: Path) -> None:
        _, alone = played(world(plan(snapshots=2)), scenario(), tmp_path / "alone")
        (tmp_path / "run").mkdir()
        with (tmp_path / "run" / "visits.bin").open("wb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            (tmp_path / "run" / "settings.json").write_bytes((tmp_path / "alone" / "settings.json").read_bytes())
            with pytest.raises(RunBroken, match="another process plays the run in"):
                play(world(plan(snapshots=2)), scenario(), Folder(tmp_path / "run"), {})
        _, again = played(world(plan(snapshots=2)), scenario(), tmp_path / "run")
        assert again == alone

    def test_files_that_are_no_run(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("mine")
        with pytest.raises(RunBroken, match="holds files and no run"):
            play(world(plan()), scenario(), Folder(tmp_path), {})


def _after(looks: int) -> Any:
    seen = iter(range(looks))
    return lambda: next(seen, None) is None


def test_a_first_visit_fetches_the_plan_packed_and_what_its_snapshot_differs_by(tmp_path: Path) -> None:
    here = world(plan())
    played(here, scenario(), tmp_path)
    visits, manifest = Folder(tmp_path).visits(), here.plan.manifest
    whole, talk = 4 * manifest.program.d, visit_of(here.plan, 1).download - 4 * manifest.program.d
    delivered = here.plan.delivered_bytes
    first, begins = visits["first"].astype(bool), visits["base"] == 0
    # Snapshot 0 is in the Plan.
    assert set(visits["down"][first & begins].tolist()) == {delivered + talk}
    assert set(visits["down"][~first & begins].tolist()) <= {talk}
    assert set(visits["down"][~first & ~begins].tolist()) == {whole + talk}
    differs = visits["down"][first & ~begins].astype(int) - delivered - talk
    assert len(differs) and (differs > 0).all() and (differs <= whole).all()
    last = (tmp_path / "final.snapshot").read_bytes()
    assert len(worth(bytes(here.plan.initial_snapshot), last)) < whole
    assert delivered < len(here.plan.raw)
