"""Devices that mean harm, each within every bound."""

import os

import numpy as np
from numpy.typing import NDArray

from tacit.codec.rotate import rotate
from tacit.coordinator.keys import load_or_make
from tacit.device.client import Client
from tacit.device.link import parse_link
from tacit.plan.bundle import decode_snapshot
from tacit.wire.keys import SigningKey
from tacit.wire.messages import encode
from tests.factory import Device, World
from tests.journeys.site import Site


def wreck(here: Site, batches: int = 2) -> None:
    """Devices of somebody who means harm, each within every bound: all that they hold says is to forget the model."""
    coordinator = load_or_make(here.folder / "home" / "coordinator", os.urandom)
    world = World(here.folder, SigningKey.from_seed(bytes(32)), coordinator, here.plan)
    client, manifest = Client(parse_link(here.link)), here.plan.manifest
    q: NDArray[np.int64] | None = None
    for _ in range(batches):
        offered = client.head()
        assert offered is not None
        head = offered.head
        if q is None:  # once: what is said of a model that is wrecked already would bring it back
            values = decode_snapshot(client.snapshot(head.snapshot_hash, manifest.snapshot_bytes), manifest.program.d)
            wanted = -values.astype(np.float64)
            if manifest.quantisation.rotation == "hadamard/1":
                wanted = rotate(wanted, manifest.charter_id)
            q = np.trunc(wanted / np.linalg.norm(wanted) * 0.99 * manifest.quantisation.q).astype(np.int64)
        for _ in range(manifest.batch.target):
            client.upload(encode(Device(world).update(head.version, world.hash_of(head), q=q)))
        here.wait_version(head.version + 1)
