"""Archives: made while everything goes on, put back elsewhere, and what a coordinator does that is older than its
keyholders' state. Real keyholders, real stores; the test takes every step."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tacit.cli import main
from tacit.coordinator import archive
from tacit.coordinator.archive import ArchiveRefused
from tacit.coordinator.batch import Collecting, Fate
from tacit.coordinator.behind import Behind
from tacit.coordinator.desk import Desk
from tacit.coordinator.intake import check_upload
from tacit.coordinator.opener import Opener
from tacit.coordinator.orders import Going
from tacit.coordinator.records import Records
from tacit.coordinator.sql_store import SqlStore
from tacit.errors import InputError
from tacit.wire.codes import Code, Refusal
from tacit.wire.log import verify_chain
from tacit.wire.messages import LogKind, Receipt, Upload
from tests.coordinator.direct import Direct, make_opener
from tests.factory import Device, Refused, World, make_world, next_snapshot, running, wait_for
from tests.servers import postgres


@dataclass(eq=False)
class Bench:
    """A coordinator without threads, in the home of its world or in another one, before keyholders that live on."""

    world: World
    lines: list[Direct]
    now: list[float]
    records: Records
    store: SqlStore
    opener: Opener

    @property
    def desk(self) -> Desk:
        return Desk(self.records, self.world.coordinator, clock=lambda: self.now[0])

    def elsewhere(self, records: Records) -> "Bench":
        """The same coordinator on other records, with the keyholders as they are."""
        opener = make_opener(self.world, self.lines)
        store = records.open(self.world.plan, self.world.coordinator.sig)
        return Bench(self.world, self.lines, self.now, records, store, opener)

    def updates(self, count: int) -> list[tuple[Device, Upload]]:
        head = self.store.newest()
        assert head is not None
        devices = [Device(self.world) for _ in range(count)]
        return [(one, one.update(head.version, self.world.hash_of(head))) for one in devices]

    def receive(self, *uploads: Upload) -> list[Receipt | Refusal]:
        hour = int(self.now[0]) // 3600
        return self.store.accept([check_upload(one, self.world.plan, one.head_hash, hour) for one in uploads], hour)

    def until_collecting(self, t: int) -> None:
        for _ in range(40):
            batch = self.store.batch()
            if isinstance(batch, Collecting) and batch.t == t:
                return
            assert self.opener.step(self.store, int(self.now[0]))
        raise AssertionError(f"{self.store.batch()} and never batch {t}")

    def one_batch(self) -> list[Upload]:
        """Three Updates, opened; the Snapshot is what they sum to."""
        before, made = self.store.newest(), self.updates(3)
        assert before is not None
        self.receive(*(upload for _, upload in made))
        self.until_collecting(before.version + 1)
        after = self.store.newest()
        assert after is not None
        total = np.sum([device.integers() for device, _ in made], axis=0)
        expected = next_snapshot(self.world, self.store.snapshot(before.snapshot_hash), total, 3)
        assert self.store.snapshot(after.snapshot_hash) == expected
        return [upload for _, upload in made]

    def fate(self, upload: Upload) -> Fate:
        known = self.store.known(upload.update_id)
        assert known is not None
        return known.fate


def make_bench(folder: Path, records: Records | None = None, **rules: Any) -> Bench:
    world = make_world(folder, **{"target": 3, "threshold": 3, "snapshots": 9, **rules})
    now = [time.time()]
    line = Direct(world, 1, now)
    line.restart()
    records = records or Records(world.coordinator_home)
    records.keep_plan(world.plan)
    store = records.open(world.plan, world.coordinator.sig)
    bench = Bench(world, [line], now, records, store, make_opener(world, [line]))
    bench.until_collecting(0)
    return bench


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres(durable=False) as url:
        yield url


def everything(bench: Bench) -> dict[str, object]:
    """What its records say."""
    store = bench.store
    head = store.newest()
    assert head is not None
    return {
        "batch": store.batch(),
        "queued": store.queued(),
        "payloads": [store.payload(member) for member in store.queued()],
        "kept": [store.kept(member.update_id) for member in store.queued()],
        "landings": store.all_landings(),
        "counts": store.counts(),
        "log": store.log(),
        "heads": [store.head(version) for version in range(head.version + 1)],
        "snapshot": store.snapshot(head.snapshot_hash),
        "members": [store.members(t) for t in range(head.version)],
    }


@pytest.mark.parametrize("to", ["a folder", "postgresql"])
def test_a_plan_goes_on_elsewhere_as_it_would_have_gone_on(tmp_path: Path, request: pytest.FixtureRequest, to: str):
    """Two Updates wait when it is moved; the third comes afterwards. There and back where it is another engine."""
    bench = make_bench(tmp_path)
    bench.one_batch()
    made = bench.updates(3)
    receipts = bench.receive(*(upload for _, upload in made[:2]))
    bench.desk.order(Going.PAUSED, "me")

    kept = bench.desk.move_out(tmp_path / "moved.tar")
    url = request.getfixturevalue("database") if to == "postgresql" else ""
    there = Records(tmp_path / "there", url, str(tmp_path / "blobs") if url else "")
    assert Desk(there, bench.world.coordinator).move_in(tmp_path / "moved.tar") == kept
    moved = bench.elsewhere(there)

    assert everything(moved) == everything(bench)
    assert kept.versions == {bench.world.plan_id.hex(): 1}
    assert bench.receive(made[2][1])[0].code is Code.E_RATE  # type: ignore[union-attr]
    assert moved.receive(*(upload for _, upload in made))[:2] == receipts
    if url:
        moved.store.close()
        Desk(there, bench.world.coordinator).order(Going.PAUSED, "me")
        Desk(there, bench.world.coordinator).move_out(tmp_path / "back.tar")
        back = Records(tmp_path / "back")
        Desk(back, bench.world.coordinator).move_in(tmp_path / "back.tar")
        moved = bench.elsewhere(back)
    moved.until_collecting(2)
    total = np.sum([device.integers() for device, _ in made], axis=0)
    before, after = moved.store.head(1), moved.store.newest()
    assert before is not None
    assert after is not None
    expected = next_snapshot(bench.world, moved.store.snapshot(before.snapshot_hash), total, 3)
    assert moved.store.snapshot(after.snapshot_hash) == expected
    verify_chain(moved.store.log(), bench.world.coordinator.sig.public)


def test_what_is_not_at_rest_is_not_moved_out(tmp_path: Path):
    bench = make_bench(tmp_path)

    with pytest.raises(InputError, match="not at rest; say first: tacit admin drain"):
        bench.desk.move_out(tmp_path / "moved.tar")

    assert not (tmp_path / "moved.tar").exists()


def test_a_backup_from_between_two_batches_goes_on_by_itself_where_no_head_was_signed_since(tmp_path: Path):
    """The keyholder has opened another list for the batch that stands: it is void, and nothing is opened twice."""
    bench = make_bench(tmp_path)
    bench.desk.back_up(tmp_path / "a.tar", keys=False)
    first = [upload for _, upload in bench.updates(3)]
    bench.receive(*first)
    while type(bench.store.batch()).__name__ != "Opened":
        bench.opener.step(bench.store, int(bench.now[0]))

    Desk(Records(tmp_path / "there"), bench.world.coordinator).put_back(tmp_path / "a.tar")
    there = bench.elsewhere(Records(tmp_path / "there"))
    second = [upload for _, upload in there.updates(3)]
    there.receive(*second)
    there.until_collecting(1)

    assert there.store.members(0) == []
    head = there.store.newest()
    assert head is not None
    assert there.store.snapshot(head.snapshot_hash) == bench.world.plan.initial_snapshot
    assert opened_ids(bench) == {upload.update_id for upload in first}
    assert {there.fate(upload) for upload in second} == {Fate.QUEUED}
    there.until_collecting(2)
    assert opened_ids(bench) == {upload.update_id for upload in [*first, *second]}


def opened_ids(bench: Bench) -> set[bytes]:
    """By the keyholder's own records; each once."""
    keyholder = bench.lines[0].keyholder
    assert keyholder is not None
    found = [one for opened in keyholder.opened_lists(bench.world.plan_id) for one in opened.updates]
    assert len(found) == len(set(found))
    return set(found)


def test_a_coordinator_that_is_behind_opens_nothing_twice_and_goes_on_from_what_was_published(tmp_path: Path):
    bench = make_bench(tmp_path)
    opened = bench.one_batch()
    waiting = [upload for _, upload in bench.updates(2)]
    bench.receive(*waiting)
    bench.desk.back_up(tmp_path / "a.tar", keys=False)
    bench.receive(bench.updates(1)[0][1])
    bench.until_collecting(2)
    between = bench.updates(1)[0][1]
    opened += bench.one_batch()
    head = bench.store.newest()
    assert head is not None
    assert head.version == 3
    snapshot = bench.store.snapshot(head.snapshot_hash)

    desk = Desk(Records(tmp_path / "there"), bench.world.coordinator)
    desk.put_back(tmp_path / "a.tar")
    there = bench.elsewhere(desk.records)
    again = there.updates(1)[0][1]
    there.receive(again)
    with pytest.raises(Behind, match=r"at batch 1 and its keyholders have gone on .*batch 3 is the current one"):
        there.until_collecting(2)
    asked = opened_ids(bench)
    with pytest.raises(Behind, match="tacit admin catch-up newest"):
        there.until_collecting(2)

    caught = desk.catch_up(head, snapshot)
    assert (caught.from_batch, caught.version) == (1, 3)
    there.until_collecting(3)
    assert opened_ids(bench) == asked
    fresh = there.updates(3)
    there.receive(*(upload for _, upload in fresh))
    there.until_collecting(4)

    # What was opened since the backup is refused by the keyholder, what was not is opened now.
    assert {there.fate(upload) for upload in waiting} == {Fate.REFUSED}
    assert there.fate(again) is Fate.APPLIED
    assert set(opened_ids(bench)) >= {upload.update_id for upload in [*opened, *waiting, again]}
    assert there.store.counts().refused[Code.E_DUP_ID] == 2
    log = there.store.log()
    verify_chain(log, bench.world.coordinator.sig.public)
    [said] = [entry.body for entry in log if entry.kind is LogKind.AUDIT]
    assert said == b"put back from a backup at batch 1; links before HEAD 3 are lost"
    assert between.base_version == 2
    assert there.store.head(2) is None


def test_a_coordinator_catches_up_with_what_its_keyholders_have_signed_and_nothing_else(tmp_path: Path):
    bench = make_bench(tmp_path)
    bench.desk.back_up(tmp_path / "a.tar", keys=False)
    bench.one_batch()
    head = bench.store.newest()
    assert head is not None
    snapshot = bench.store.snapshot(head.snapshot_hash)
    desk = Desk(Records(tmp_path / "there"), bench.world.coordinator)
    desk.put_back(tmp_path / "a.tar")

    forged = msgspec.structs.replace(head, version=2)
    stranger = make_world(tmp_path / "stranger")
    for wrong, data, said in (
        (forged, snapshot, "have not signed this HEAD"),
        (head, snapshot[:-1] + b"\1", "not the Snapshot of this HEAD"),
        (msgspec.structs.replace(head, plan_id=stranger.plan_id), snapshot, "not asked for or not here"),
    ):
        with pytest.raises(InputError, match=said):
            desk.catch_up(wrong, data)
    desk.catch_up(head, snapshot)
    with pytest.raises(InputError, match="none that comes after batch"):
        desk.catch_up(head, snapshot)


def test_an_archive_made_while_payloads_go_names_none_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whenever a blob is about to be copied, a batch is opened, and the payloads before it go."""
    bench = make_bench(tmp_path)
    bench.receive(*(upload for _, upload in bench.updates(2)))
    batches = iter(range(3))
    copied = archive.Writing.add

    def add(writing: archive.Writing, name: str, data: bytes) -> None:
        copied(writing, name, data)
        if "/blobs/snapshots/" in name and next(batches, None) is not None:
            for upload in bench.updates(4):
                bench.receive(upload[1])
            version = bench.store.newest()
            assert version is not None
            bench.until_collecting(version.version + 1)

    monkeypatch.setattr(archive.Writing, "add", add)
    kept = bench.desk.back_up(tmp_path / "a.tar", keys=True)
    monkeypatch.undo()

    assert kept.versions[bench.world.plan_id.hex()] == 3
    there = Records(tmp_path / "there")
    Desk(there, bench.world.coordinator).put_back(tmp_path / "a.tar")
    assert everything(bench.elsewhere(there)) == everything(bench)
    assert (tmp_path / "there" / "coordinator.key").read_bytes() == (
        tmp_path / "coordinator/coordinator.key"
    ).read_bytes()


@pytest.mark.parametrize("what", ["a byte", "the end", "no tar", "in place"])
def test_what_is_no_whole_archive_is_not_put_back(tmp_path: Path, what: str):
    bench = make_bench(tmp_path)
    bench.one_batch()
    path = tmp_path / "a.tar"
    bench.desk.back_up(path, keys=False)
    data = bytearray(path.read_bytes())
    there = Records(tmp_path / "there")
    match what:
        case "a byte":
            data[data.index(b"store") if b"store" in data else 1000] ^= 1
        case "the end":
            del data[len(data) // 2 :]
        case "no tar":
            data = bytearray(os.urandom(4000))
        case _:
            there = bench.records
    path.write_bytes(data)

    with pytest.raises(InputError):
        Desk(there, bench.world.coordinator).put_back(path)

    if what != "in place":
        assert not (tmp_path / "there").exists() or not there.plans()


def test_an_archive_writes_nowhere_but_where_records_are(tmp_path: Path):
    """A member whose name leads out of the folder, in an archive that is otherwise right."""
    with archive.writing(tmp_path / "a.tar", 0) as made:
        made.add(f"plans/{'0' * 64}/blobs/updates/../../../x", b"1")

    with pytest.raises(ArchiveRefused, match="does not know"):
        Desk(Records(tmp_path / "there"), make_world(tmp_path / "w").coordinator).put_back(tmp_path / "a.tar")
    assert not list(tmp_path.rglob("x"))


# Processes


def tacit(*words: object) -> int:
    return main([str(word) for word in words])


def test_a_backup_made_under_load_is_restored_elsewhere_after_a_kill_and_nothing_is_opened_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    world = make_world(tmp_path / "world", target=3, threshold=3, snapshots=200, max_age=8)
    token, file, newest = tmp_path / "owner.token", tmp_path / "a.tar", tmp_path / "newest"
    with running(world) as site:
        site.wait_version(0)
        tacit("admin", "token", "--home", world.folder, "--role", "owner", "--name", "me")
        token.write_text(capsys.readouterr().out)
        over = threading.Event()

        def send() -> None:
            while not over.is_set():
                head = site.head()
                upload = Device(world).update(head.version, world.hash_of(head))
                with contextlib.suppress(Refused):
                    site.send(upload)

        senders = [threading.Thread(target=send) for _ in range(2)]
        for sender in senders:
            sender.start()
        site.wait_version(3)
        assert tacit("admin", "backup", file, "--url", site.coordinator.url, "--token", token) == 0
        site.wait_version(site.head().version + 3)
        over.set()
        for sender in senders:
            sender.join()
        wait_for(lambda: site.status()["updates"]["queued"] < 3, "what is enough for a batch is opened")
        wait_for(lambda: site.status()["batch"]["state"] == "collecting", "it waits")
        link = f"{site.coordinator.url}/join/{world.plan_id.hex()}?author={world.author.public.hex()}"
        assert tacit("fetch", link, "-o", newest) == 0
        heads = [site.wait_version(version) for version in range(site.head().version + 1)]
        site.coordinator.kill()
        elsewhere = tmp_path / "elsewhere"
        (elsewhere / "coordinator").mkdir(parents=True)
        for key in world.coordinator_home.glob("*.key"):
            shutil.copy(key, elsewhere / "coordinator")
        assert tacit("admin", "restore", file, "--home", elsewhere) == 0
        site.coordinator.arguments[1] = str(elsewhere / "coordinator")
        site.coordinator.start()
        for _ in range(3):
            head = site.head()
            site.send(Device(world).update(head.version, site.world.hash_of(head)))
        wait_for(lambda: "catch-up" in str(site.status()["keyholders"][0]["trouble"]), "it says that it is behind")
        assert site.head() in heads  # it may have found out one more, whose answers are in the backup
        opened = site.opened_ids()

        assert tacit("admin", "catch-up", newest, "--home", elsewhere) == 0
        head = site.wait_version(len(opened))
        batch = [Device(world).update(head.version, site.world.hash_of(head)) for _ in range(3)]
        for upload in batch:
            site.send(upload)
        site.wait_version(head.version + 1)

        ids = [one for _, ids in site.opened_ids() for one in ids]
        assert len(ids) == len(set(ids))
        assert {upload.update_id.hex() for upload in batch} <= set(ids)
        assert len(ids) == 3 * (head.version + 1)


def test_a_backup_that_is_cut_off_leaves_no_file_that_could_be_taken_for_one(tmp_path: Path, capsys):
    world = make_world(tmp_path / "world")
    token, file = tmp_path / "owner.token", tmp_path / "a.tar"
    tacit("admin", "token", "--home", world.folder, "--role", "owner", "--name", "me")
    token.write_text(capsys.readouterr().out)
    with running(world) as site:
        site.wait_version(0)
        site.coordinator.kill()
        site.coordinator.start(crash_at="coordinator.archive.written")

        assert tacit("admin", "backup", file, "--url", site.coordinator.url, "--token", token) == 1
        assert site.coordinator.wait_dead() == -9
        assert sorted(path.name for path in tmp_path.iterdir()) == ["owner.token", "world"]
        site.coordinator.start()
        assert tacit("admin", "backup", file, "--url", site.coordinator.url, "--token", token) == 0
        assert file.stat().st_mode & 0o777 == 0o600
