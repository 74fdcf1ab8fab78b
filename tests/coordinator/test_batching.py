"""Places and averages by HTTP, from the coordinator's process."""

import time
from pathlib import Path

import msgspec
import pytest

from tacit.cli import main
from tacit.coordinator.intake import check_upload
from tacit.plan.bundle import decode_snapshot
from tacit.plan.manifest import Places
from tacit.plan.server import Momentum, Server
from tacit.wire.codes import Code, Refusal
from tacit.wire.messages import Ask, Averaged, Place, Receipt, decode
from tacit.wire.signed import check_averaged, sign_ask
from tests.coordinator.direct import Direct, make_opener, open_store
from tests.factory import Device, Refused, Site, World, make_world, running

SELECTED = 4


def world_of_places(folder: Path) -> World:
    return make_world(
        folder,
        target=3,
        threshold=3,
        max_age=0,
        snapshots=3,
        places=Places(SELECTED, 3600),
        server=Server(0.5, Momentum(0.9), average=0.8),
    )


def ask_of(device: Device, version: int = 0) -> Ask:
    world = device.world
    return sign_ask(device.key, world.plan_id, version, world.credential(device.upload_key))


def ask(site: Site, device: Device, version: int = 0) -> Place:
    return site.coordinator.post(f"{site.path}/places", ask_of(device, version), Place)


def test_places_are_given_once_outlive_a_kill_and_go_with_the_snapshot(tmp_path: Path):
    world = world_of_places(tmp_path)
    devices = [Device(world) for _ in range(6)]
    with running(world) as site:
        head_hash = world.hash_of(site.wait_version(0))
        places = [ask(site, device) for device in devices[:SELECTED]]
        site.coordinator.kill()
        site.coordinator.start()

        assert ask(site, devices[0]) == places[0]
        with pytest.raises(Refused) as taken:
            ask(site, devices[4])
        assert (taken.value.status, taken.value.code) == (429, Code.E_RATE) and taken.value.reply.retry_after == 60
        with pytest.raises(Refused, match="this device has none"):
            site.send(devices[5].update(0, head_hash))
        assert site.status()["batch"]["working"] == SELECTED == site.status()["batch"]["places"]
        for device in devices[1:SELECTED]:
            site.send(device.update(0, head_hash))
        site.wait_version(1)
        with pytest.raises(Refused) as late:  # over-selected: the batch is full without it
            site.send(devices[0].update(0, head_hash))
        assert late.value.code is Code.E_STALE
        assert ask(site, devices[5], version=1).version == 1
        status = site.status()
    assert status["batch"]["working"] == 1 and status["updates"]["abandoned"] == 0
    assert status["updates"]["refused"] == {"E_RATE": 2, "E_STALE": 1}


def test_a_place_whose_time_is_over_is_abandoned_and_anothers(tmp_path: Path):
    world = make_world(tmp_path, target=3, threshold=3, max_age=0, places=Places(3, 60))
    now, devices = [time.time()], [Device(world) for _ in range(5)]
    line, store = Direct(world, 1, now), open_store(world)
    store.clock = lambda: now[0]
    line.restart()
    opener = make_opener(world, [line])
    while opener.step(store, int(now[0])):
        pass

    def give(device: Device, version: int = 0) -> int | Refusal:
        return store.give_places([ask_of(device, version)])[0]

    def send(device: Device) -> Receipt | Refusal:
        head = store.head(0)
        assert head is not None
        upload = device.update(0, world.hash_of(head))
        return store.accept([check_upload(upload, world.plan, upload.head_hash, int(now[0]) // 3600)], 0)[0]

    assert all(isinstance(give(device), int) for device in devices[:3])
    assert isinstance(send(devices[0]), Receipt)
    refused = give(devices[3])
    assert isinstance(refused, Refusal) and refused.retry_after is not None and 1 <= refused.retry_after <= 60

    now[0] += refused.retry_after
    assert (store.counts().working, store.counts().abandoned) == (0, 2)
    assert isinstance(give(devices[3]), int)
    assert isinstance(give(devices[1]), Refusal)  # it has had its place for this Snapshot
    assert isinstance(send(devices[1]), Receipt)  # but there is one left for an Update that is here
    assert isinstance(send(devices[4]), Refusal)
    assert isinstance(send(devices[3]), Receipt)
    while opener.step(store, int(now[0])):
        pass

    assert isinstance(give(devices[4], version=1), int)  # what is older is forgotten, and stays counted
    assert store.database.rows("SELECT version FROM places") == [(1,)]
    assert (store.counts().working, store.counts().abandoned) == (1, 1)
    store.close()
    line.keyholder.close()


def test_a_place_is_for_who_holds_the_key_and_is_enrolled(tmp_path: Path):
    world = world_of_places(tmp_path)
    mine, other = Device(world), Device(world)
    with running(world) as site:
        site.wait_version(0)
        change = msgspec.structs.replace
        for broken, code in (
            (change(ask_of(mine), signature=bytes(64)), Code.E_SIG),
            (change(ask_of(mine), credential=world.credential(other.upload_key)), Code.E_CRED),
            (change(ask_of(mine), plan_id=bytes(32)), Code.E_PLAN),
            (ask_of(mine, version=1), Code.E_RATE),
        ):
            with pytest.raises(Refused) as refused:
                site.coordinator.post(f"{site.path}/places", broken, Place)
            assert refused.value.code is code
        assert site.status()["batch"]["working"] == 0


def test_the_average_is_fetched_as_the_coordinator_signed_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    world, fetched = world_of_places(tmp_path), tmp_path / "average.bin"
    with running(world) as site:
        link = f"{site.coordinator.url}/join/{world.plan_id.hex()}?author={world.author.public.hex()}"
        snapshots = [world.plan.initial_snapshot]
        site.wait_version(0)
        assert main(["fetch", link, "--average", "-o", str(fetched)]) != 0  # nothing is averaged yet
        for version in range(2):
            head = site.wait_version(version)
            for device in [Device(world) for _ in range(3)]:
                site.coordinator.post(f"{site.path}/updates", device.update(version, world.hash_of(head)), Receipt)
            snapshots.append(site.snapshot(site.wait_version(version + 1)))
        capsys.readouterr()

        assert main(["fetch", link, "--average", "-o", str(fetched)]) == 0

        _, headers, said = site.coordinator.request("GET", f"{site.path}/average")
        path, tag = f"{site.path}/average", {"If-None-Match": headers["etag"]}
        assert site.coordinator.request("GET", path, headers=tag)[0] == 304
        assert site.coordinator.request("GET", f"{site.path}/averages/{'00' * 32}")[0] == 409
    values = [decode_snapshot(one, 32).astype(float) for one in snapshots]
    average = 0.8 * (0.8 * values[0] + 0.2 * values[1]) + 0.2 * values[2]
    assert decode_snapshot(fetched.read_bytes(), 32) == pytest.approx(average, rel=1e-6)
    assert fetched.read_bytes() != snapshots[2]
    assert "signed     by the coordinator" in capsys.readouterr().out
    averaged = decode(Averaged, said)
    check_averaged(averaged, world.plan_id, world.coordinator.sig.public)
    with pytest.raises(Refusal, match="not signed by the Plan's coordinator"):
        check_averaged(msgspec.structs.replace(averaged, version=3), world.plan_id, world.coordinator.sig.public)


def test_a_plan_without_an_average_says_how_to_get_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    world = make_world(tmp_path)
    with running(world) as site:
        site.wait_version(0)
        link = f"{site.coordinator.url}/join/{world.plan_id.hex()}?author={world.author.public.hex()}"

        assert main(["fetch", link, "--average"]) == 2
        assert "tacit.Server(average=0.8)" in capsys.readouterr().err
        with pytest.raises(Refused, match="gives no places"):
            ask(site, Device(world))
