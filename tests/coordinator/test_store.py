"""The store on files and on servers: what arrives together, what nobody needs any more, and who wakes up late."""

import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psycopg
import pytest

from tacit.coordinator import sql_store as store_module
from tacit.coordinator.alive import has_ended
from tacit.coordinator.batch import Agreed, Batch, Collecting, Fate, Opened
from tacit.coordinator.blobs import Folder
from tacit.coordinator.database import SqliteDatabase, Unavailable
from tacit.coordinator.intake import Offer, check_upload
from tacit.coordinator.sql_store import MIGRATIONS, SqlStore
from tacit.coordinator.store import Overtaken
from tacit.wire.codes import Code, Refusal
from tacit.wire.messages import Head, Receipt, Upload
from tests.coordinator.direct import make_opener, open_store
from tests.coordinator.test_opener import Bench, make_bench
from tests.factory import Device, next_snapshot

T = TypeVar("T")


def offer(bench: Bench, upload: Upload) -> Offer:
    return check_upload(upload, bench.world.plan, upload.head_hash, int(bench.now[0]) // 3600)


def newest(bench: Bench) -> Head:
    head = bench.store.newest()
    assert head is not None
    return head


def send(bench: Bench, *devices: Device) -> list[Upload]:
    head = newest(bench)
    uploads = [device.update(head.version, bench.world.hash_of(head)) for device in devices]
    assert all(isinstance(answer, Receipt) for answer in bench.receive(*uploads))
    return uploads


@pytest.mark.usefixtures("place")
def test_what_arrives_together_is_answered_as_if_one_came_after_the_other(tmp_path: Path):
    together, apart = (make_bench(tmp_path / name, most=3, max_age=1, landings=2) for name in "ab")

    def arrivals(bench: Bench) -> list[Offer]:
        """A device that sends three times; one Update twice; an id with other bytes; and more than there is room."""
        hash_of_zero = bench.world.hash_of(newest(bench))
        one, two, *others = [Device(bench.world) for _ in range(6)]
        uploads = [sender.update(0, hash_of_zero) for sender in (one, two, one, two, one, *others, *others)]
        changed = one.update(0, hash_of_zero, update_id=uploads[1].update_id)
        return [offer(bench, upload) for upload in [*uploads[:3], uploads[0], changed, *uploads[3:]]]

    def code(answer: Receipt | Refusal) -> Code | None:
        return answer.code if isinstance(answer, Refusal) else None

    offers = arrivals(together)
    answers = together.store.accept(offers, 1)
    one_by_one = [apart.store.accept([each], 1)[0] for each in arrivals(apart)]

    assert list(map(code, answers)) == list(map(code, one_by_one))
    assert Counter(map(code, answers)) == {None: 7, Code.E_DUP_ID: 1, Code.E_PARTICIPATION: 1, Code.E_RATE: 6}
    assert answers[3] == answers[0]
    taken = [each.member for each, answer in zip(offers, answers, strict=True) if code(answer) is None]
    assert together.store.queued() == list(dict.fromkeys(taken))
    for each in offers[:2]:
        assert together.store.payload(each.member) == each.payload


@pytest.mark.usefixtures("place")
def test_who_stops_between_writing_and_naming_names_nothing_that_may_be_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bench = make_bench(tmp_path)
    uploads = bench.updates(3)

    def stopped_for_long() -> None:
        times = iter([0.0, store_module.SWEPT_AFTER_S])
        monkeypatch.setattr(store_module, "_clock", lambda: next(times))

    clock = store_module._clock
    stopped_for_long()
    with pytest.raises(Unavailable, match="too long ago"):
        bench.receive(*uploads)
    assert bench.store.queued_count() == 0
    monkeypatch.setattr(store_module, "_clock", clock)
    assert all(isinstance(answer, Receipt) for answer in bench.receive(*uploads))
    before = bench.until(Opened)
    stopped_for_long()
    with pytest.raises(Unavailable, match="too long ago"):
        bench.step()
    monkeypatch.setattr(store_module, "_clock", clock)

    assert bench.store.batch() == before
    bench.until(Collecting)
    assert {bench.fate(upload) for upload in uploads} == {Fate.APPLIED}


@pytest.mark.usefixtures("place")
def test_an_opener_that_wakes_up_long_after_its_lease_changes_nothing(tmp_path: Path):
    """Stopped while a keyholder answers it: meanwhile another one has published that batch and fixed the next."""
    bench = make_bench(tmp_path)
    devices = [Device(bench.world) for _ in range(3)]
    send(bench, *devices)
    bench.until(Agreed)
    line: Any = bench.lines[0]
    honest = line.open
    states: list[Batch] = []

    def stopped(request: object) -> object:
        answer = honest(request)
        line.open = honest
        other = Bench(
            bench.world, bench.lines, open_store(bench.world), make_opener(bench.world, bench.lines), bench.now
        )
        other.until(Collecting)
        send(other, *devices)
        states.append(other.until(Agreed))
        return answer

    line.open = stopped
    with pytest.raises(Overtaken):
        bench.step()

    assert [bench.store.batch()] == states
    bench.until(Collecting)
    total = np.sum([device.integers() for device in devices], axis=0)
    expected = bench.world.plan.initial_snapshot
    for _ in range(2):
        expected = next_snapshot(bench.world, expected, total, 3)
    assert bench.store.snapshot(newest(bench).snapshot_hash) == expected


def test_nothing_is_lost_or_doubled_while_every_session_is_ended_again_and_again(
    tmp_path: Path, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    for name, value in servers.items():
        monkeypatch.setenv(name, value)
    bench = make_bench(tmp_path, landings=4, snapshots=4)
    devices = [Device(bench.world) for _ in range(3)]
    ended, over = [0], threading.Event()

    def end_sessions() -> None:
        drawn = random.Random(0)
        others = "pid <> pg_backend_pid() AND backend_type = 'client backend'"
        with psycopg.connect(servers["TACIT_STORE"], autocommit=True) as admin:
            while not over.wait(drawn.uniform(0.01, 0.08)):
                row = admin.execute(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {others}")
                ended[0] += row.fetchall()[0][0]

    cut_off = [0]

    def insist(what: Callable[[], T]) -> T:
        while True:
            try:
                return what()
            except Unavailable:
                cut_off[0] += 1

    thread = threading.Thread(target=end_sessions)
    thread.start()
    sent: list[Upload] = []
    expected, total = bench.world.plan.initial_snapshot, np.sum([device.integers() for device in devices], axis=0)
    try:
        for round_ in range(1, 4):
            head = insist(lambda: newest(bench))
            uploads = [device.update(head.version, bench.world.hash_of(head)) for device in devices]
            for upload in uploads:
                insist(lambda upload=upload: bench.receive(upload))
            while cut_off[0] < 2 * round_:  # on a fast machine a round may be over between two ends
                insist(lambda again=uploads[0]: bench.receive(again))
            while insist(lambda: bench.opener.step(bench.store, int(bench.now[0]))):
                pass
            sent += uploads
            expected = next_snapshot(bench.world, expected, total, 3)
    finally:
        over.set()
        thread.join()

    assert ended[0]
    assert newest(bench).version == 3
    assert bench.store.snapshot(newest(bench).snapshot_hash) == expected
    assert bench.store.counts().fates == {Fate.APPLIED: 9}
    assert {bench.fate(upload) for upload in sent} == {Fate.APPLIED}
    bench.store.close()


def test_what_a_device_has_waiting_is_found_without_reading_all_that_waits(tmp_path: Path):
    bench = make_bench(tmp_path)

    plan = bench.store.database.rows(f"EXPLAIN QUERY PLAN {store_module._PENDING} (?, ?)", (b"1", b"2"))

    assert [row[3] for row in plan] == ["SEARCH updates USING COVERING INDEX updates_pending (dpk=? AND fate=?)"]


# What is older


def as_it_was(bench: Bench, folder: Path, formats: int) -> SqlStore:
    """A store of an earlier format with the rows of this one, opened as it is today. Payloads were blobs each."""
    now = bench.store
    folder.mkdir()
    old = SqliteDatabase(folder / "store.sqlite", MIGRATIONS[:formats])
    for (table,) in old.rows("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"):
        columns = ", ".join(f'"{row[1]}"' for row in old.rows(f"PRAGMA table_info({table})"))
        rows = now.database.rows(f"SELECT {columns} FROM {table}")
        with old.transaction():
            old.run_many(f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * columns.count(',') + '?')})", rows)
    old.close()
    blobs = Folder(folder)
    for member in now.queued():
        blobs.put(f"updates/{member.update_hash.hex()}", now.payload(member))
    for one in now.blobs.under("snapshots"):
        blobs.put(one.name, now.blobs.get(one.name))
    return open_store(bench.world, folder)


@pytest.mark.parametrize("formats", [1, 2, 3])
def test_a_run_goes_on_from_the_records_of_every_earlier_format(tmp_path: Path, formats: int):
    bench = make_bench(tmp_path)
    devices = [Device(bench.world) for _ in range(3)]
    uploads = send(bench, *devices[:2])
    older = as_it_was(bench, tmp_path / "older", formats)
    bench = Bench(bench.world, bench.lines, older, bench.opener, bench.now)

    assert older.sweep(after_s=0) == 0
    uploads += send(bench, devices[2])
    bench.until(Collecting)
    while bench.opener.step(older, int(bench.now[0])):
        pass

    assert {bench.fate(upload) for upload in uploads} == {Fate.APPLIED}
    total = np.sum([device.integers() for device in devices], axis=0)
    expected = next_snapshot(bench.world, bench.world.plan.initial_snapshot, total, 3)
    assert older.snapshot(newest(bench).snapshot_hash) == expected
    assert list(older.blobs.under("updates")) == []


# Who has ended

NAMED = "import os; from tacit.coordinator.alive import process_name; print(process_name(os.urandom(4)), flush=True)"


def test_a_process_has_ended_once_it_is_gone():
    child = subprocess.Popen([sys.executable, "-c", f"{NAMED}; input()"], stdin=-1, stdout=-1, text=True)
    assert child.stdout is not None
    name = child.stdout.readline().strip()

    before = has_ended(name)
    child.communicate("\n")

    assert (before, has_ended(name)) == (False, True)


def test_a_process_of_another_container_with_our_host_name_is_not_taken_for_gone():
    """Its number is another process here, or none."""
    try:
        inside = ["unshare", "--pid", "--fork", sys.executable, "-c", NAMED]
        name = subprocess.run(inside, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a namespace of process numbers needs an administrator, and util-linux")
    ours = f"{name.partition('.')[0]}.{2**22 + 1}.00"  # beyond every number that Linux gives

    assert not has_ended(name)
    assert not has_ended(ours)
    assert os.getpid() != int(name.split(".")[1])
