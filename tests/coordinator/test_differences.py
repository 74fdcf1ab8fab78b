"""What two Snapshots differ by, from the coordinator's process, and the device that asks for it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tacit.codec.difference import made_of
from tacit.device.client import Client
from tacit.device.link import parse_link
from tacit.wire.codes import Code
from tacit.wire.messages import Head
from tests.factory import Device, Site, make_world, refusal_code, running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three Snapshots of 4,000 values; the third is one that a deadline has brought, with what is in it."""
    world = make_world(
        tmp_path_factory.mktemp("site"), target=3, threshold=3, d=4000, snapshots=9, max_upload_bytes=2**16
    )
    with running(world) as up:
        for version in range(3):
            head = up.wait_version(version)
            for seed in range(3):
                q = np.random.default_rng([version, seed]).integers(-4, 5, 4000)
                up.send(Device(world).update(version, world.hash_of(head), q=q))
        up.wait_version(3)
        yield up


def path(site: Site, before: Head, after: Head) -> str:
    return f"{site.path}/deltas/{before.snapshot_hash.hex()}/{after.snapshot_hash.hex()}"


def heads(site: Site) -> list[Head]:
    found = [site.wait_version(version) for version in range(4)]
    assert len({head.snapshot_hash for head in found}) == 4
    return found


def test_a_difference_makes_the_newest_snapshot_of_any_earlier_one_and_never_changes(site: Site):
    first, second, _, newest = heads(site)

    for before in (first, second):
        status, headers, made = site.coordinator.request("GET", path(site, before, newest))
        assert (status, headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
        assert made_of(site.snapshot(before), made) == site.snapshot(newest)
        assert len(made) < len(site.snapshot(newest))
        again = site.coordinator.request("GET", path(site, before, newest), headers={"If-None-Match": headers["etag"]})
        assert again[0] == 304


def test_only_what_leads_to_the_newest_two_is_found_out(site: Site):
    first, second, third, newest = heads(site)
    nothing = f"{site.path}/deltas/{'0' * 64}/{newest.snapshot_hash.hex()}"

    site.coordinator.get(path(site, first, third))
    for wrong in (path(site, first, second), path(site, newest, first), nothing, f"{site.path}/deltas/x/y"):
        assert refusal_code(lambda wrong=wrong: site.coordinator.get(wrong)) is Code.E_HEAD


def test_a_device_that_holds_one_asks_for_no_whole_one(site: Site, monkeypatch: pytest.MonkeyPatch):
    link = f"{site.coordinator.url}/join/{site.world.plan_id.hex()}?author={site.world.author.public.hex()}"
    client, asked = Client(parse_link(link)), list[str]()
    answer = client._answer

    def listening(method: str, path: str, *rest: Any, **more: Any) -> Any:
        asked.append(path)
        return answer(method, path, *rest, **more)

    monkeypatch.setattr(client, "_answer", listening)
    first, _, _, newest = heads(site)
    held = site.snapshot(first)

    data = client.snapshot(newest.snapshot_hash, len(held), held)

    assert data == site.snapshot(newest)
    assert asked == [path(site, first, newest)]
