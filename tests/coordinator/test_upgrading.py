"""A running coordinator takes in the Plan that goes on from the one it serves: all of its processes, and no restart."""

import json
from pathlib import Path

import pytest

from tacit.cli import main
from tests.factory import Device, Site, coordinator_process, following, make_world, running, wait_for


def tacit(*words: object) -> int:
    return main([str(word) for word in words])


def test_every_process_takes_in_the_next_plan_and_no_update_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    world = make_world(tmp_path, target=3, threshold=3)
    with running(world) as site:
        second = coordinator_process(world, site.keyholders).start()
        try:
            head = site.wait_version(0)
            for _ in range(3):
                site.send(Device(world).update(0, world.hash_of(head)))
            head = site.wait_version(1)
            after = following(world, 1, site.snapshot(head), target=3, threshold=3)
            tacit("admin", "token", "--home", world.folder, "--role", "operator", "--name", "me")
            (tmp_path / "token").write_text(capsys.readouterr().out)

            there = ("--url", site.coordinator.url, "--token", tmp_path / "token")
            assert tacit("admin", "upgrade", after.plan_file, *there) == 0
            assert "goes on from" in capsys.readouterr().out
            new, twin = Site(after, site.coordinator, site.keyholders), Site(after, second, site.keyholders)
            first = new.wait_version(0)
            wait_for(lambda: twin.head() == first, "the other process serves it too")
            wait_for(lambda: site.status()["ended_code"] == "E_SUCCEEDED", "the Plan before has ended")

            for process in (site.coordinator, second):
                status, headers, _ = process.request("GET", f"{site.path}/head")
                assert (status, headers["tacit-successor"]) == (200, after.plan_id.hex())
            for sender in (new, twin, new):
                sender.send(Device(after).update(0, after.hash_of(first)))
            assert new.wait_version(1).version == 1
            assert len(new.opened_ids()[0][1]) == 3
            assert site.status()["updates"]["opened"] == 3
            assert tacit("admin", "upgrade", after.plan_file, *there) == 0  # again: nothing changes
            assert [one["status"]["ended_code"] for one in json.loads(said(capsys, *there))] == ["E_SUCCEEDED", None]
        finally:
            second.stop()


def said(capsys: pytest.CaptureFixture[str], *there: object) -> str:
    capsys.readouterr()
    assert tacit("admin", "status", "--json", *there) == 0
    plans = sorted(json.loads(capsys.readouterr().out), key=lambda one: one["status"]["continues"] or "")
    return json.dumps(plans)


def test_what_could_not_be_served_after_a_restart_is_not_taken_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    world = make_world(tmp_path)
    with running(world) as site:
        head = site.wait_version(0)
        other, elsewhere = make_world(tmp_path / "other"), following(world, 0, b"\1" * len(site.snapshot(head)))
        wrong = tmp_path / "wrong.tacit"
        wrong.write_bytes(b"no Plan")

        for file, reason in (
            (other.plan_file, "continues none of this coordinator's"),
            (elsewhere.plan_file, "not published here"),
            (wrong, "Plan"),
            (tmp_path / "nowhere", "cannot be read"),
        ):
            assert tacit("admin", "upgrade", file, "--home", tmp_path) in (1, 2)
            assert reason in capsys.readouterr().err
        assert len(list((world.coordinator_home / "plans").iterdir())) == 1
