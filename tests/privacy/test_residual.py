"""I11: the coordinator's store and one keyholder's say nothing of any Update; with the other one's they say all."""

import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tacit.codec.ring import center, low_bits, unpack
from tacit.coordinator.intake import Kept
from tacit.plan.manifest import Plain
from tacit.privacy.audit import far_from_uniform
from tacit.privacy.blt import Blt
from tacit.privacy.mask import add_mask, mask_key
from tacit.privacy.seal import SealBroken, open_seal
from tacit.wire.ids import KeyId
from tacit.wire.messages import Entry, Upload, entry_of, entry_seal_info
from tests.factory import Device, World, make_world, running

D = 8192  # χ² over 256 cells wants many words


@dataclass(frozen=True, eq=False)
class Seen:
    """An Update as the coordinator has it: y, and what it shows each keyholder."""

    payload: bytes
    entries: list[Entry]


def in_the_store(folder: Path, world: World) -> dict[bytes, Seen]:
    """Every Update in the coordinator's files, by its device's key."""
    (database,) = folder.rglob("store.sqlite")
    asked = "SELECT pack, start, size, kept FROM updates WHERE kept IS NOT NULL"
    found = {}
    for pack, start, size, data in sqlite3.connect(database).execute(asked).fetchall():
        kept = msgspec.msgpack.decode(data, type=Kept)
        payload = (database.parent / pack).read_bytes()[start : start + size]
        entries = [kept.entry(world.plan_id, j) for j in (1, 2)]
        found[bytes(kept.dpk)] = Seen(payload, entries)
    return found


def on_arrival(upload: Upload) -> Seen:
    """What a coordinator that throws nothing away goes on knowing of an Update."""
    return Seen(upload.payload, [entry_of(upload, j) for j in (1, 2)])


def secrets_in(*folders: Path) -> set[bytes]:
    """Everything of a key's or a seed's size in these files, whatever it is: short files, and values in databases."""
    found: set[bytes] = set()
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        if path.suffix == ".sqlite":
            with sqlite3.connect(path) as database:
                tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
                for (table,) in tables:
                    found |= {
                        value for row in database.execute(f"SELECT * FROM {table}") for value in row if sized(value)
                    }
            database.close()
        elif sized(data := path.read_bytes()):
            found.add(data)
    return found


def sized(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == 32


def stripped(seen: Seen, secrets: set[bytes], world: World) -> tuple[np.ndarray, int]:
    """The words of an Update less every mask whose seed can be had, and how many those were."""
    manifest = world.plan.manifest
    words, masks = unpack(seen.payload, D, manifest.quantisation.bits), 0
    keys = [X25519PrivateKey.from_private_bytes(secret) for secret in secrets]
    for j, (entry, card) in enumerate(zip(seen.entries, manifest.keyholders, strict=True), 1):
        for key in keys:
            try:
                seed = open_seal(entry.sealed, key, entry_seal_info(entry, j, KeyId(card.key_id)))
            except SealBroken:
                continue
            taken_off(words, seed, entry, world)
            masks += 1
    return low_bits(words, manifest.quantisation.bits), masks


def taken_off(words: np.ndarray, seed: bytes, entry: Entry, world: World) -> np.ndarray:
    """`words`, changed, without the mask of this seed."""
    mask = np.zeros(D, np.uint32)
    add_mask(mask, mask_key(seed, world.plan_id, entry.update_id))
    words -= mask
    return words


@pytest.mark.parametrize("mechanism", [Plain(), Blt((0.9, 0.5), (0.2, 0.3))], ids=["plain", "blt"])
def test_every_update_stays_uniform_to_the_coordinator_with_one_keyholder_and_opens_to_both(tmp_path, mechanism):
    """Each χ² is wrong once in 10^9 and there are some thousand."""
    world = make_world(tmp_path, 2, d=D, max_upload_bytes=40_000, mechanism=mechanism)
    bits, stores = world.plan.manifest.quantisation.bits, tmp_path / "stores"
    with running(world) as site:
        head = site.wait_version(0)
        opened = [Device(world) for _ in range(4)]
        uploads = [device.update(0, world.hash_of(head)) for device in opened]
        for upload in uploads:
            site.send(upload)
        head = site.wait_version(1)
        waiting = [Device(world) for _ in range(3)]
        for device in waiting:
            site.send(device.update(1, world.hash_of(head)))
        for process in [site.coordinator, *site.keyholders]:  # so that nothing is half written while it is copied
            process.stop()
        homes = [world.coordinator_home, world.keyholder_home(1), world.keyholder_home(2)]
        copies = [Path(shutil.copytree(home, stores / home.name)) for home in homes]
    coordinator, *keyholders = copies
    found = in_the_store(coordinator, world)
    assert set(found) == {device.key.public for device in waiting}
    found |= {device.key.public: on_arrival(upload) for device, upload in zip(opened, uploads, strict=True)}

    for j, keyholder in enumerate(keyholders):
        secrets = secrets_in(coordinator, keyholder)
        assert len(secrets) > 20 and {path.read_bytes() for path in keyholder.rglob("*.key")} <= secrets
        for seen in found.values():
            residual, masks = stripped(seen, secrets, world)
            assert masks == 1, "its own seal opens, and no other"
            assert far_from_uniform(residual, bits) == []
            for secret in secrets:  # and were one of them a seed by itself
                words = low_bits(taken_off(residual.copy(), secret, seen.entries[1 - j], world), bits)
                assert far_from_uniform(words, bits) == []

    secrets = secrets_in(*copies)
    for device in [*opened, *waiting]:
        residual, masks = stripped(found[device.key.public], secrets, world)
        assert masks == 2
        assert center(residual, bits).tolist() == device.integers().tolist()
        assert far_from_uniform(residual, bits) != []
