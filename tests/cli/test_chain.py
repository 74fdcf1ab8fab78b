"""What `tacit compile` is told about the Plans around this one."""

import argparse
import json
import os
import shutil
from pathlib import Path

import pytest

from tacit.cli import main
from tacit.cli.chain import assembled, describe_chain, learnt
from tacit.cli.figures import charter_promise, promise, summary
from tacit.compiler.assemble import Parties
from tacit.coordinator.keys import load_or_make
from tacit.coordinator.records import local_store
from tacit.device.trust import HeadRefused
from tacit.errors import InputError
from tacit.keyholder.keys import new_card
from tacit.plan.bundle import build_plan, read_plan
from tests.compiled import AUTHOR
from tests.compiler.test_succession import TASK
from tests.device.small import link_to
from tests.factory import Device, make_world, running


def given(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    describe_chain(parser)
    parser.set_defaults(explain=False)
    return parser.parse_args(list(words))


def compiled(folder: Path, name: str, *words: str) -> Path:
    """What `tacit compile` writes, without its process."""
    keys = load_or_make(folder / "coordinator", os.urandom)
    card = new_card(folder / "keyholder", "embedded:", os.urandom)
    parties = Parties(AUTHOR.public, keys.sig.public, keys.enrolment.public, (card,))
    made = assembled(given(*words), TASK, parties, folder, lambda line: None, None)
    path = folder / name
    path.write_bytes(build_plan(made.manifest, made.charter, made.blobs, AUTHOR))
    return path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--continues", "a", "--plans", "3"], "said once, with the first Plan"),
        (["--charter-of", "a", "--classes", "b"], "said once, with the first Plan"),
        (["--continues", "a", "--class", "b"], "leave --charter-of and --class out"),
        (["--from-snapshot", "a"], "needs --continues"),
        (["--class", "phone"], "name every class"),
        (["--classes", "phone", "laptop"], "name every class"),
        (["--classes", "laptop", "--class", "phone"], "name every class"),
        (["--plans", "-1"], "one Plan at least"),
        (["--continues", "nowhere.tacit"], "there is no file nowhere.tacit"),
    ],
)
def test_words_that_do_not_go_together_are_told_why(words: list[str], said: str, tmp_path: Path):
    with pytest.raises(InputError, match=said):
        compiled(tmp_path, "a.tacit", *words)


def test_a_plan_says_how_many_its_charter_has_room_for_and_what_they_cost_together(tmp_path: Path):
    plan = read_plan(compiled(tmp_path, "a.tacit", "--plans", "3"))

    assert plan.charter.most_plans == 3
    assert charter_promise(plan) == promise(plan)
    assert "Plan 1 of at most 3; for one device, over all of them, at most ε = " in summary(plan, 0)


def test_two_classes_share_a_charter_and_nothing_else(tmp_path: Path):
    laptop = read_plan(compiled(tmp_path, "laptop.tacit", "--classes", "laptop", "phone", "--class", "laptop"))
    phone = read_plan(
        compiled(tmp_path, "phone.tacit", "--charter-of", str(tmp_path / "laptop.tacit"), "--class", "phone")
    )

    assert laptop.charter == phone.charter and laptop.charter.most_plans == 16
    assert (laptop.manifest.device_class, phone.manifest.device_class) == ("laptop", "phone")
    assert laptop.lineage != phone.lineage
    assert "for the class phone of laptop, phone" in summary(phone, 0)


def test_a_successor_starts_from_what_this_home_has_served_or_from_what_was_fetched(tmp_path: Path, capsys):
    world = make_world(tmp_path, target=3, threshold=3)
    file = tmp_path / "snapshot.bin"
    with running(world) as site:
        head = site.wait_version(0)
        for device in [Device(world) for _ in range(3)]:
            site.send(device.update(0, world.hash_of(head)))
        snapshot = site.snapshot(site.wait_version(1))
        assert main(["fetch", str(link_to(world, site.coordinator.port)), "-o", str(file)]) == 0

    served, fetched = learnt(world.plan, tmp_path, None), learnt(world.plan, tmp_path / "elsewhere", file)

    assert (served.version, served.snapshot) == (fetched.version, fetched.snapshot) == (1, snapshot)
    with pytest.raises(InputError, match="was not served from"):
        learnt(world.plan, tmp_path / "elsewhere", None)
    file.write_bytes(snapshot[::-1])
    with pytest.raises(InputError, match="is not the Snapshot that the keyholders signed"):
        learnt(world.plan, tmp_path, file)
    other = make_world(tmp_path / "other").plan
    with pytest.raises(HeadRefused):
        learnt(other, tmp_path, file)
    (tmp_path / "snapshot.bin.head").unlink()
    with pytest.raises(InputError, match="`tacit fetch LINK -o"):
        learnt(world.plan, tmp_path, file)


def test_a_plan_without_a_signed_snapshot_is_not_continued(tmp_path: Path):
    world = make_world(tmp_path)
    folder = world.coordinator_home / "plans" / world.plan_id.hex()
    local_store(folder, world.plan, world.coordinator.sig).close()

    with pytest.raises(InputError, match="no signed Snapshot yet"):
        learnt(world.plan, tmp_path, None)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="was not served"):
        learnt(world.plan, tmp_path, None)


def test_what_is_printed_for_machines_names_the_chain(tmp_path: Path, capsys):
    before = compiled(tmp_path, "a.tacit")
    assert main(["inspect", str(before), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)

    assert figures["continues"] is None and figures["most_plans"] == 8
    assert figures["charter_epsilon"] == figures["epsilon"]
