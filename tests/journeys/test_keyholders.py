"""Two keyholders of two operators, a coordinator, twenty devices: processes of their own, homes of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tacit.codec.ring import center, unpack
from tacit.coordinator.keyholders import HttpKeyholder
from tacit.device.agent import run
from tacit.device.directory import TrustOverclaimed, operators, pin
from tacit.device.ledger import Ledger
from tacit.device.settings import JoinSettings
from tacit.keyholder.approvals import approve
from tacit.plan.bundle import decode_snapshot
from tacit.privacy.trust import Trust
from tacit.wire.codes import Code
from tacit.wire.ids import sha256
from tests.device.small import (
    CLASSES,
    FEATURES,
    D,
    examples,
    learning_world,
    playable,
    save_examples,
    settings_for,
    with_plan,
)
from tests.factory import FORKS, Device, Site, World, coordinator_process, identity, keyholder_process, wait_for
from tests.keyholder.asking import Asking, code_of

NAMES = ("a university", "a patients' union")
DEVICES, SNAPSHOTS = 20, 6


def be_device(settings: JoinSettings, log: str) -> None:
    """In a process of its own: take part until the Plan is over."""
    from tacit.device import line

    with open(log, "w", buffering=1) as said:
        run(settings, lambda event: print(line(event), file=said), None)


def three_party_world(folder: Path, **rules: int) -> World:
    world = learning_world(folder, operators=NAMES, **rules)
    return with_plan(world, playable(), trust=Trust.THREE_PARTY, program=world.plan.manifest.program)


@contextmanager
def up(world: World) -> Iterator[Site]:
    """Two keyholders that know no author and approved one charter, and the coordinator."""
    keyholders = [keyholder_process(world, j) for j in (1, 2)]
    for j, keyholder in enumerate(keyholders, 1):
        keyholder.arguments = ["--home", str(world.keyholder_home(j))]
        approve(world.keyholder_home(j), world.plan.charter)
        keyholder.start()
    site = Site(world, coordinator_process(world, keyholders, deadline_s=2), keyholders)
    try:
        yield site
    finally:
        for process in [site.coordinator, *keyholders]:
            process.stop()


def right(world: World, snapshot: bytes) -> float:
    """The share of new examples that a Snapshot is right about."""
    values, test = decode_snapshot(snapshot, D), examples(600, seed=999)
    weight, bias = values[: CLASSES * FEATURES].reshape(CLASSES, FEATURES), values[CLASSES * FEATURES :]
    return float(((test["x"] @ weight.T + bias).argmax(1) == test["y"]).mean())


def test_twenty_devices_train_while_a_keyholder_is_killed_and_comes_back(tmp_path: Path):
    world = three_party_world(tmp_path, target=8, threshold=6, most=20, max_age=4, landings=4, snapshots=SNAPSHOTS)
    with up(world) as site:
        site.coordinator.start()
        homes = [tmp_path / f"device{i:02}" for i in range(DEVICES)]
        devices = []
        for i, home in enumerate(homes):
            for card in world.plan.manifest.keyholders:
                pin(home, card.operator, card.sig_pk.hex())
            data = save_examples(tmp_path / f"{i:02}.npz", seed=i)
            settings = settings_for(world, site.coordinator.port, home, data, operators=operators(home))
            device = FORKS.Process(target=be_device, args=(settings, str(tmp_path / f"{i:02}.log")), daemon=True)
            device.start()
            devices.append(device)
        site.wait_version(2)
        site.keyholders[1].kill()
        wait_for(lambda: any(one["trouble"] for one in site.status()["keyholders"]), "its absence is seen", 60)
        site.keyholders[1].start()
        last = site.wait_version(SNAPSHOTS)
        for i, device in enumerate(devices):
            device.join(60)
            assert device.exitcode == 0, (tmp_path / f"{i:02}.log").read_text()

        lists = [site.opened_ids(j) for j in (1, 2)]
        reached = right(world, site.snapshot(last))
        said = (tmp_path / "00.log").read_text()

    opened = [one for _, ids in lists[0] for one in ids]
    made: set[str] = set()
    for home in homes:
        with Ledger.read(home) as ledger:
            made |= {receipt.update_id.hex() for receipt in ledger.receipts(world.plan_id)}
    assert lists[0] == lists[1] and [t for t, _ in lists[0]] == list(range(SNAPSHOTS))
    assert len(opened) == len(set(opened)) and set(opened) <= made
    assert right(world, world.plan.initial_snapshot) < 0.5 < 0.9 < reached
    assert "Three-party mode" in said


def test_a_device_that_pinned_nobody_takes_no_part_in_what_claims_to_be_three_party(tmp_path: Path):
    world = three_party_world(tmp_path)
    with up(world) as site:
        site.coordinator.start()
        home = tmp_path / "device"
        settings = settings_for(world, site.coordinator.port, home, save_examples(tmp_path / "d.npz"))

        with pytest.raises(TrustOverclaimed, match="tacit device trust add"):
            run(settings, lambda event: None)
        with Ledger.read(home) as ledger:
            assert ledger.plans() == []


def test_lists_that_differ_between_keyholders_spoil_a_batch_and_the_next_one_works(tmp_path: Path):
    """The test is the coordinator, and a hostile one: it shows each keyholder another list, in order by itself."""
    world = three_party_world(tmp_path, target=4, threshold=3)
    with up(world) as site:
        asked = Asking(world, [], heads={0: world.initial_hash})
        one, two = (
            HttpKeyholder(site.keyholders[j - 1].url, identity(world, j).public, world.coordinator.sig) for j in (1, 2)
        )
        for keyholder in (one, two):
            keyholder.load(world.plan, None)
            keyholder.sign_head(asked.head_zero())
        devices = [Device(world) for _ in range(5)]
        uploads = [device.update(0, asked.head_hash(0)) for device in devices]

        answers = [
            one.open(asked.open_request(0, asked.entries(uploads[:4], 1))),
            two.open(asked.open_request(0, asked.entries(uploads[1:], 2))),
        ]
        for listed in (uploads[:4], uploads[1:], uploads[1:4]):
            rest = unmasked(listed, [answer.masks for answer in answers])
            assert np.abs(rest).max() > 2**20  # masks are left: uniform over the ring, nothing like a sum of integers

        request = asked.sign_request(1, sha256(b"one"), uploads[:4], answers)
        assert {code_of(lambda k=k: k.sign_head(request)) for k in (one, two)} <= {Code.E_SIG, Code.E_CHANGED}
        spoilt = asked.sign_request(1, asked.heads[0], [], [], spoilt=True)
        asked.heads[1] = asked.heads[0]
        for keyholder in (one, two):
            keyholder.sign_head(spoilt)
        again = asked.entries(uploads[1:4])
        rejected = one.prepare(asked.prepare_request(1, again)).rejected
        assert {(one.update_id, one.code) for one in rejected} == {(u.update_id, Code.E_DUP_ID) for u in uploads[1:4]}

        fresh = [Device(world) for _ in range(4)]
        sent = [device.update(1, asked.head_hash(1)) for device in fresh]
        opened = [k.open(asked.open_request(1, asked.entries(sent, j))) for j, k in enumerate((one, two), 1)]

        total = sum(device.integers() for device in fresh)
        assert unmasked(sent, [answer.masks for answer in opened]).tolist() == total.tolist()


def unmasked(uploads: list, masks: list[bytes]) -> np.ndarray:
    total = np.zeros(D, np.uint32)
    for upload in uploads:
        total += unpack(upload.payload, D, 24)
    for packed in masks:
        total -= unpack(packed, D, 24)
    return center(total, 24)
