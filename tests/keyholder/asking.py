"""A coordinator's side of the conversation with keyholders in this process, and a clock the test sets."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tacit.keyholder.keyholder import Keyholder
from tacit.wire import preimage
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import Digest, sha256
from tacit.wire.messages import (
    Committed,
    Entry,
    FreezeRequest,
    Head,
    HeadSignature,
    Opened,
    OpenRequest,
    PrepareRequest,
    Rekeyed,
    SignHeadRequest,
    SketchRequest,
    Upload,
    entry_of,
    mark_of,
)
from tacit.wire.signed import (
    root_of,
    sign_commit_request,
    sign_freeze,
    sign_head_request,
    sign_open,
    sign_prepare,
    sign_sketch,
)
from tests.factory import Device, World, make_world


@dataclass(eq=False)
class Asking:
    """Keyholders with their homes, asked as the coordinator of the Plan asks."""

    world: World
    keyholders: list[Keyholder]
    now: list[float] = field(default_factory=lambda: [time.time()])
    heads: dict[int, Digest] = field(default_factory=dict)  # snapshot hashes by version

    def again(self, j: int = 1) -> Keyholder:
        """The keyholder ends and starts anew on the same home."""
        self.keyholders[j - 1].close()
        self.keyholders[j - 1] = start(self.world, j, self.now)
        return self.keyholders[j - 1]

    def head_hash(self, version: int) -> Digest:
        return self.world.head_hash(version, self.heads[version])

    def begin(self) -> None:
        """Loaded by all, HEAD 0 signed by all."""
        for keyholder in self.keyholders:
            keyholder.load(bytes(self.world.plan.raw))
            keyholder.sign_head(self.head_zero())
        self.heads[0] = self.world.initial_hash

    def head_zero(self) -> SignHeadRequest:
        return self.sign_request(0, self.world.initial_hash, [], [])

    def sign_request(
        self,
        version: int,
        snapshot_hash: Digest,
        uploads: Sequence[Upload],
        opened: Sequence[Opened],
        spoilt: bool = False,
        rekeyed: Sequence[Rekeyed] = (),
        back_to: Head | None = None,
    ) -> SignHeadRequest:
        return sign_head_request(
            self.world.coordinator.sig,
            self.world.plan_id,
            version,
            snapshot_hash,
            root=root_of(uploads) if uploads else preimage.root([]),
            opened=[mark_of(one) for one in opened],
            spoilt=spoilt,
            rekeyed=rekeyed,
            back_to=back_to,
        )

    def entries(self, uploads: Sequence[Upload], j: int = 1) -> list[Entry]:
        return [entry_of(upload, j) for upload in uploads]

    def prepare_request(self, t: int, entries: Sequence[Entry], snapshot_hash: Digest | None = None) -> PrepareRequest:
        snapshot_hash = self.heads.get(t, Digest(bytes(32))) if snapshot_hash is None else snapshot_hash
        return sign_prepare(self.world.coordinator.sig, self.world.plan_id, t, snapshot_hash, entries)

    def open_request(self, t: int, entries: Sequence[Entry], snapshot_hash: Digest | None = None) -> OpenRequest:
        snapshot_hash = self.heads.get(t, Digest(bytes(32))) if snapshot_hash is None else snapshot_hash
        return sign_open(self.world.coordinator.sig, self.world.plan_id, t, snapshot_hash, entries)

    def committed(self, t: int, uploads: Sequence[Upload]) -> list[Committed]:
        """Everybody's commitment over this list."""
        request = sign_commit_request(self.world.coordinator.sig, self.world.plan_id, t, root_of(uploads))
        return [keyholder.commit(request) for keyholder in self.keyholders]

    def freeze_request(
        self, t: int, uploads: Sequence[Upload], committed: Sequence[Committed] | None = None, j: int = 1
    ) -> FreezeRequest:
        committed = self.committed(t, uploads) if committed is None else committed
        key, plan_id = self.world.coordinator.sig, self.world.plan_id
        return sign_freeze(key, plan_id, t, self.heads[t], self.entries(uploads, j), committed)

    def freeze(self, t: int, uploads: Sequence[Upload]) -> list[bytes]:
        """The list frozen by all; their secrets."""
        committed = self.committed(t, uploads)
        return [
            keyholder.freeze(self.freeze_request(t, uploads, committed, j)).secret
            for j, keyholder in enumerate(self.keyholders, 1)
        ]

    def sketch_request(self, t: int, uploads: Sequence[Upload], secrets: Sequence[bytes], j: int = 1) -> SketchRequest:
        key, plan_id = self.world.coordinator.sig, self.world.plan_id
        return sign_sketch(key, plan_id, t, self.heads[t], self.entries(uploads, j), secrets)

    def open(self, t: int, uploads: Sequence[Upload], j: int = 1) -> Opened:
        return self.keyholders[j - 1].open(self.open_request(t, self.entries(uploads, j)))

    def advance(self, t: int, uploads: Sequence[Upload]) -> list[HeadSignature]:
        """Batch t opened by all, HEAD t + 1 signed by all."""
        opened = [self.open(t, uploads, j) for j in range(1, len(self.keyholders) + 1)]
        snapshot_hash = sha256(b"Snapshot", bytes([t + 1]))
        request = self.sign_request(t + 1, snapshot_hash, uploads, opened)
        self.heads[t + 1] = snapshot_hash
        return [keyholder.sign_head(request) for keyholder in self.keyholders]

    def skip(self, t: int) -> None:
        """Batch t declared void."""
        request = self.sign_request(t + 1, self.heads[t], [], [], spoilt=True)
        self.heads[t + 1] = self.heads[t]
        for keyholder in self.keyholders:
            keyholder.sign_head(request)

    def updates(self, count: int, version: int = 0) -> list[Upload]:
        """Updates of as many new devices."""
        return [Device(self.world).update(version, self.head_hash(version)) for _ in range(count)]


def start(world: World, j: int, now: list[float]) -> Keyholder:
    return Keyholder(world.keyholder_home(j), frozenset({world.author.public}), os.urandom, lambda: now[0])


def asking(folder: Path, keyholders: int = 1, begun: bool = True, **rules: Any) -> Asking:
    """A new world with its keyholders in this process."""
    world = make_world(folder, keyholders, **rules)
    now = [time.time()]
    asked = Asking(world, [start(world, j, now) for j in range(1, keyholders + 1)], now)
    if begun:
        asked.begin()
    return asked


def code_of(call: object) -> Code:
    """The code `call` is refused with."""
    try:
        result = call()
    except Refusal as refusal:
        return refusal.code
    raise AssertionError(f"it was not refused: {result!r:.200}")
