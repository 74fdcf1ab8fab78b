"""When Updates arrive faster than batches are opened: devices are told when to come again, and nothing is lost."""

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.coordinator.batch import Closed, Collecting, Headed, Member, Transition
from tacit.coordinator.intake import WAITING_BATCHES
from tacit.coordinator.pace import LONGEST_S, Pace, come_again
from tacit.device.backoff import backoff_seconds
from tacit.device.client import Client, Refused
from tacit.device.link import parse_link
from tacit.wire.codes import Code
from tacit.wire.ids import DeviceKey, UpdateId, sha256
from tacit.wire.messages import Proof, Receipt, Upload, encode, update_hash
from tacit.wire.signed import check_receipt
from tests import factory
from tests.coordinator.direct import open_store
from tests.factory import Device, Site, make_world, next_snapshot, running

FLOOD, TARGET = 32, 4


def sent(site: Site, upload: Upload) -> tuple[Receipt, list[Refused]]:
    """As a device's outbox does it: the same bytes, after what was asked for and a spread of its own."""
    link = f"{site.coordinator.url}/join/{site.world.plan_id.hex()}?author={site.world.author.public.hex()}"
    client, data, told = Client(parse_link(link)), encode(upload), []
    while True:
        try:
            return client.upload(data), told
        except Refused as refused:
            if refused.code is not Code.E_RATE:
                raise
            told.append(refused)
            time.sleep(backoff_seconds(1, os.urandom, first=0.1, at_least=refused.retry_after or 0.0))


def test_a_flood_gets_in_at_last_with_nothing_lost_and_nothing_doubled(tmp_path: Path):
    world = make_world(
        tmp_path, target=TARGET, most=TARGET, threshold=TARGET, max_age=FLOOD // TARGET, snapshots=FLOOD, landings=1
    )
    devices = [Device(world) for _ in range(FLOOD)]
    with running(world) as site:
        head_hash = world.hash_of(site.wait_version(0))
        uploads = {one.update(0, head_hash): one for one in devices}
        site.keyholders[0].kill()  # the queue is full before the first batch is opened
        early = list(uploads)[: (WAITING_BATCHES + 1) * TARGET]
        for upload in early[:TARGET]:
            site.send(upload)
        while site.status()["batch"]["state"] == "collecting":
            time.sleep(0.01)
        for upload in early[TARGET:]:
            site.send(upload)
        with pytest.raises(factory.Refused) as full:
            site.send(list(uploads)[-1])
        site.keyholders[0].start()
        with ThreadPoolExecutor(FLOOD) as pool:
            answers = list(pool.map(lambda upload: sent(site, upload), uploads))
        head = site.wait_version(FLOOD // TARGET)
        status = site.status()
        proofs = [site.coordinator.post(f"{site.path}/proof", bytes(one.update_id), Proof) for one in uploads]
        opened = site.opened_ids()
        snapshot = site.snapshot(head)

    assert (full.value.code, full.value.status) == (Code.E_RATE, 429) and full.value.reply.retry_after
    for upload, (receipt, _) in zip(uploads, answers, strict=True):
        check_receipt(receipt, update_hash(upload), world.coordinator.sig.public)
    assert {proof.outcome for proof in proofs} == {"opened"}
    assert Counter(one for _, ids in opened for one in ids) == {upload.update_id.hex(): 1 for upload in uploads}
    by_id = {upload.update_id.hex(): device for upload, device in uploads.items()}
    expected = world.plan.initial_snapshot
    for _, ids in opened:
        expected = next_snapshot(world, expected, np.sum([by_id[one].integers() for one in ids], axis=0), TARGET)
    assert snapshot == expected
    assert status["updates"]["opened"] == FLOOD and status["updates"]["expired"] == 0
    assert status["updates"]["repeated"] == len(early)
    told = [refused for _, refusals in answers for refused in refusals]
    assert status["updates"]["refused"] == {"E_RATE": 1 + len(told)}
    assert all(refused.retry_after and refused.retry_after >= 1 for refused in told)


@given(st.integers(0, 10**6), st.integers(1, 10**4), st.none() | st.floats(1e-3, 1e6), st.floats(0, 1))
def test_who_is_sent_away_comes_back_once_there_is_room_and_before_long(waiting, target, pace, draw):
    seconds = come_again(waiting, target, pace, draw)

    assert 1 <= seconds <= LONGEST_S
    if pace is not None and seconds < LONGEST_S:
        assert seconds >= target / pace  # a batch has been opened by then
    assert seconds <= come_again(waiting, target, pace, 1.0)
    if pace is not None and waiting / pace < LONGEST_S:
        assert seconds <= max(1.5 * target, waiting) / pace + 1


def test_devices_are_spread_over_the_time_in_which_room_is_made():
    drawn = [come_again(400, 100, 1.0, at / 1000) for at in range(1000)]

    assert (min(drawn), max(drawn)) == (100, 400)
    assert max(Counter(seconds // 50 for seconds in drawn).values()) < 200


def test_the_pace_is_that_of_opening_and_not_of_waiting_for_updates(tmp_path: Path):
    pace = Pace(open_store(make_world(tmp_path)).database)

    def note(before, after, now: float) -> None:
        with pace._db.transaction():
            pace.note(Transition(before, after), now)

    def members(count: int) -> tuple[Member, ...]:
        return tuple(Member(UpdateId(bytes([n]) * 16), sha256(b""), DeviceKey(bytes(32)), 0) for n in range(count))

    assert pace.per_second(0.0) is None
    for t in range(20):
        start = 1000.0 * t  # a batch is full after a quarter of an hour, and opened in two seconds
        note(Collecting(t, 0), Closed(t, 0, members(8)), start + 900)
        note(Headed(t + 1), Collecting(t + 1, 0), start + 902)

    assert pace.per_second(20_000.0) == 4.0
    note(Collecting(20, 0), Closed(20, 0, members(8)), 20_900)
    assert pace.per_second(20_901.0) == 4.0
    slow = pace.per_second(21_900.0)
    assert slow is not None and slow < 0.1  # this one takes long: a keyholder is down
    note(Closed(20, 0, members(8)), Collecting(20, 0), 22_000)
    assert pace.per_second(30_000.0) == 4.0  # its list was too short; nothing was opened
