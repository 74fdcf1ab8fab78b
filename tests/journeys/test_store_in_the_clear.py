"""What the coordinator keeps holds no Update in the clear, and the keyholder opens nothing but honest sums.

The devices are real agents in this process, so that the test can look over their shoulder at the integers
they send; the servers are processes. The same search is run with masking switched off, and must find all.
"""

import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import tacit.device.update
from tacit.codec.ring import pack, wrap
from tacit.device.agent import run
from tacit.device.settings import JoinSettings
from tacit.plan.bundle import Plan
from tests.journeys.site import Site, flowers, readme_task, site


def everything_in(folder: Path) -> bytes:
    """Every byte of every file: database, write-ahead log, blobs, logs."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def needles(integers: NDArray[np.int64], plan: Plan) -> list[bytes]:
    """Stretches by which the integers would be recognised, in each form they could be kept in."""
    bits = plan.manifest.quantisation.bits
    forms = [pack(wrap(integers, bits), bits)]
    forms += [integers.astype(form).tobytes() for form in ("<i8", "<i4", "<i2", ">i4", "<f4", "<f8")]
    found = []
    for data in forms:
        windows = [data[at : at + 16] for at in range(0, len(data) - 16, 8)]
        found += sorted(windows, key=lambda window: -len(set(window)))[:8]
    return found


def visible(store: bytes, integers: NDArray[np.int64], plan: Plan) -> bool:
    return any(needle in store for needle in needles(integers, plan))


def task_for_batches_of_three() -> str:
    """So that two Updates wait in the store: what has been opened is deleted there."""
    return readme_task().replace("batch=2, threshold=2", "batch=3, threshold=3")


def joined(here: Site, monkeypatch: pytest.MonkeyPatch) -> list[NDArray[np.int64]]:
    """Two devices send one Update each; the integers that they sent."""
    sent: list[NDArray[np.int64]] = []
    quantise = tacit.device.update.quantise

    def watched(*arguments, **words):
        integers = quantise(*arguments, **words)
        sent.append(integers)
        return integers

    monkeypatch.setattr(tacit.device.update, "quantise", watched)
    agents = []
    for number, name in enumerate(("ada", "bob")):
        data = here.folder / f"{name}.npz"
        np.savez(data, **flowers(number))
        settings = JoinSettings(here.link, data, here.folder / name, once=True, poll=0.1, allow_mu2=float("inf"))
        agents.append(threading.Thread(target=run, args=(settings, lambda event: None)))
    for agent in agents:
        agent.start()
    for agent in agents:
        agent.join(60)
    assert len(sent) == 2
    return sent


def test_no_update_is_in_the_store_in_the_clear(tmp_path, monkeypatch):
    with site(tmp_path, task_for_batches_of_three()) as here:
        sent = joined(here, monkeypatch)
        waiting = everything_in(tmp_path / "home" / "coordinator")
        assert here.status()["updates"]["queued"] == 2
        for name in ("cy", "dot", "fay"):
            here.join(name)
        here.wait_version(3)
        after = everything_in(tmp_path / "home" / "coordinator")

    assert len(waiting) > 10_000
    assert not any(visible(store, integers, here.plan) for store in (waiting, after) for integers in sent)


def test_the_same_search_finds_every_update_when_nothing_is_masked(tmp_path, monkeypatch):
    def unmasked(integers, keys, bits):
        return wrap(integers, bits)

    monkeypatch.setattr(tacit.device.update, "masked", unmasked)
    with site(tmp_path, task_for_batches_of_three()) as here:
        sent = joined(here, monkeypatch)
        store = everything_in(tmp_path / "home" / "coordinator")

    assert all(visible(store, integers, here.plan) for integers in sent)
