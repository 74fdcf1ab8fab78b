"""A keyholder opens 1,000 Updates of 100,000 values: where the time goes, and masks against what they cannot beat.

The Plan is what the compiler makes of a Task for ε = 4 with correlated noise and two keyholders, in the ring that it
chooses and in 24 bits. Updates are made by the device's own function and opened by one keyholder, on one thread, with
its store on the disk. Stages are the functions that it calls, each alone on the same list, taking turns. Masks are held
against making their key stream alone (AES-128-CTR by the same library, always into the same buffer), against adding
as many bytes by numpy alone, and against both together. Seconds are of the processor, so that a busy machine changes
them little.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import urandom
from pathlib import Path

import msgspec
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from harness import Row, Timing, interleaved, run
from limits import one_thread
from torch import nn

import tacit
from tacit.codec.quantise import inner_bound
from tacit.compiler.assemble import Parties, assemble
from tacit.device.update import make_update
from tacit.keyholder.keyholder import Keyholder
from tacit.keyholder.keys import load_card, new_card
from tacit.keyholder.sums import draw
from tacit.plan.bundle import Plan, build_plan, parse_plan
from tacit.plan.manifest import Quantisation
from tacit.privacy.mask import mask_key, sum_masks
from tacit.privacy.seal import open_seal
from tacit.wire import preimage
from tacit.wire.ids import DeviceKey, KeyId, PlanId, sha256
from tacit.wire.keys import SealingKey, SigningKey
from tacit.wire.messages import Entry, OpenRequest, SignHeadRequest, entry_of, entry_seal_info
from tacit.wire.signed import (
    check_credential,
    check_request,
    check_seal,
    check_update,
    sign_credential,
    sign_head_request,
    sign_open,
)

GOAL = 1.5  # times making the key stream and adding as many bytes
FEATURES, CLASSES = 999, 100  # of a linear head: 100,000 values


@dataclass(frozen=True, eq=False)
class Opening:
    """A keyholder's home that has signed HEAD 0, and a list that it has not opened yet."""

    home: Path
    plan: Plan
    author: bytes
    request: OpenRequest
    sealing: SealingKey

    @property
    def entries(self) -> Sequence[Entry]:
        return self.request.entries

    def keyholder(self, home: Path) -> Keyholder:
        return Keyholder(home, frozenset({self.author}), urandom, time.time)

    def seeds(self) -> list[bytes]:
        private, key_id = self.sealing.private, KeyId(self.plan.manifest.keyholders[0].key_id)
        return [open_seal(entry.sealed, private, entry_seal_info(entry, 1, key_id)) for entry in self.entries]

    def keys(self, seeds: Sequence[bytes]) -> list[bytes]:
        pairs = zip(seeds, self.entries, strict=True)
        return [mask_key(seed, self.plan.plan_id, entry.update_id) for seed, entry in pairs]

    def check_signatures(self) -> None:
        """Of the coordinator under the list, of authority and device under every entry; and seals' hashes."""
        manifest, hour = self.plan.manifest, int(time.time()) // 3600
        check_request(self.request, manifest.coordinator)
        for entry in self.entries:
            check_seal(entry, 1)
            check_credential(entry.credential, entry.dpk, manifest.enrolment, lineage=self.plan.lineage, hour=hour)
            check_update(entry)

    def noise(self) -> None:
        """Of a second batch, which has buffers to begin with."""
        first = draw(self.plan, 0, sha256(b""), bytes(32), None)
        draw(self.plan, 1, sha256(b""), bytes(32), first.buffers)


def opening(folder: Path, updates: int, bits: int | None) -> Opening:
    """Keys, a Plan in a ring of so many bits (the compiler's if None), and a list of as many Updates of new devices."""
    author, coordinator, authority = (SigningKey.from_seed(urandom(32)) for _ in range(3))
    home = folder / "keyholder"
    cards = (new_card(home, "http://127.0.0.1:1", urandom), new_card(folder / "other", "http://127.0.0.1:2", urandom))
    task = tacit.Task(
        name="opening",
        model=lambda: nn.Linear(FEATURES, CLASSES),
        example={"x": tacit.array((FEATURES,)), "y": tacit.label(CLASSES)},
        subset=["weight", "bias"],
        budget=tacit.Budget(upload="1 MiB"),
        privacy=tacit.Privacy(epsilon=4, batch=updates, devices=1000 * updates, threshold=updates),
    )
    made = assemble(task, Parties(author.public, coordinator.public, authority.public, cards))
    manifest, d = made.manifest, made.manifest.program.d
    if bits is not None:
        wider = Quantisation(bits, 512, inner_bound(512, d), manifest.quantisation.clip)
        roomy = msgspec.structs.replace(manifest.limits, max_upload_bytes=1 << 20)
        manifest = msgspec.structs.replace(manifest, quantisation=wider, limits=roomy)
    plan = parse_plan(build_plan(manifest, made.charter, made.blobs, author))
    plan_id, snapshot_hash, hour = PlanId(plan.plan_id), sha256(plan.initial_snapshot), int(time.time()) // 3600 + 24
    head_hash = sha256(preimage.head(plan_id, 0, snapshot_hash, [KeyId(card.key_id) for card in cards]))
    delta = np.random.default_rng(0).normal(size=d).astype(np.float32)
    entries: list[Entry] = []
    for _ in range(updates):
        key = SigningKey.from_seed(urandom(32))
        upload = make_update(
            delta,
            manifest=plan.manifest,
            plan_id=plan_id,
            base_version=0,
            head_hash=head_hash,
            key=key,
            hedge_key=urandom(32),
            credential=sign_credential(authority, DeviceKey(key.public), plan.lineage, hour),
            random=urandom,
        )
        entries.append(entry_of(upload, 1))
    sealing = load_card(home, KeyId(cards[0].key_id))
    assert sealing is not None, "made above"
    request = sign_open(coordinator, plan_id, 0, snapshot_hash, entries)
    ready = Opening(home, plan, author.public, request, sealing)
    keyholder = ready.keyholder(home)
    keyholder.load(bytes(plan.raw))
    keyholder.sign_head(_head_0(coordinator, plan_id, plan))
    keyholder.close()
    return ready


def _head_0(coordinator: SigningKey, plan_id: PlanId, plan: Plan) -> SignHeadRequest:
    nothing = preimage.root([])
    return sign_head_request(coordinator, plan_id, 0, sha256(plan.initial_snapshot), root=nothing, opened=[])


def measured(ready: Opening, rounds: int) -> Mapping[str, Timing]:
    """Each stage, the whole, and the floor of the masks."""
    d, bits = ready.plan.manifest.words, ready.plan.manifest.quantisation.bits
    seeds = ready.seeds()
    keys = ready.keys(seeds)
    homes = iter([shutil.copytree(ready.home, ready.home.with_name(f"copy{n}")) for n in range(rounds + 1)])
    zeros, stream, total = bytes(4 * d), np.ones(d, np.uint32), np.zeros(d, np.uint32)
    out = stream.copy().view(np.uint8).data

    def generate() -> None:
        for key in keys:
            Cipher(AES(key), CTR(bytes(16))).encryptor().update_into(zeros, out)

    def add() -> None:
        for _ in keys:
            np.add(total, stream, out=total)

    def both() -> None:
        generate()
        add()

    def whole() -> None:
        keyholder = ready.keyholder(Path(next(homes)))
        keyholder.open(ready.request)
        keyholder.close()

    stages: dict[str, Callable[[], object]] = {
        "key stream and numpy add, one after the other": both,
        "key stream alone": generate,
        "numpy add alone": add,
        "masks": lambda: sum_masks(keys, [1] * len(keys), d, bits),
        "unsealing": ready.seeds,
        "mask keys": lambda: ready.keys(seeds),
        "signatures and hashes": ready.check_signatures,
        "noise, two batches": ready.noise,
        "the whole opening": whole,
    }
    return interleaved(stages, rounds=rounds, clock=time.process_time)


def bench(quick: bool) -> Sequence[Row]:
    """Rows for the ring that the compiler chooses, and for 24 bits."""
    updates, rounds = (60, 3) if quick else (1000, 5)
    rows: list[Row] = []
    for bits in (None, 24):
        with tempfile.TemporaryDirectory() as folder:
            ready = opening(Path(folder), updates, bits)
            timings = measured(ready, rounds)
        quant, d = ready.plan.manifest.quantisation, ready.plan.manifest.words
        what = f"{updates} x {d} in {quant.bits} bits"
        ratio, volume = timings["masks"].ratio, 4 * d * updates
        rows += [
            Row(f"{what}: masks", ratio, "x key stream and add", f"at most {GOAL}", ratio <= GOAL),
            Row(f"{what}: masks", volume / timings["masks"].median_s / 1e9, "GB/s", "", None),
        ]
        rows += [Row(f"{what}: {name}", 1e3 * timing.median_s, "ms", "", None) for name, timing in timings.items()]
    return rows


if __name__ == "__main__":
    one_thread()
    sys.exit(run(bench))
