"""Real keyholders in this process behind the coordinator's interface, on a line that can be cut."""

import os
from dataclasses import dataclass
from pathlib import Path

from tacit.coordinator.keyholders import Unreachable
from tacit.coordinator.opener import Opener, Trouble
from tacit.coordinator.records import Records, local_store
from tacit.coordinator.sql_store import SqlStore
from tacit.keyholder.keyholder import Keyholder
from tacit.plan.bundle import Plan
from tacit.wire.messages import (
    CommitRequest,
    Committed,
    FreezeRequest,
    Head,
    HeadSignature,
    Opened,
    OpenRequest,
    PrepareReply,
    PrepareRequest,
    Rekeyed,
    Revealed,
    SignHeadRequest,
    Sketched,
    SketchRequest,
)
from tests.factory import World
from tests.keyholder.asking import start

OPENED: list[SqlStore] = []


@dataclass(eq=False)
class Direct:
    """One keyholder. `cut` of "before" loses the next request, "after" its answer."""

    world: World
    j: int
    now: list[float]
    keyholder: Keyholder | None = None
    cut: str | None = None
    asked: int = 0

    def restart(self) -> None:
        if self.keyholder is not None:
            self.keyholder.close()
        self.keyholder = start(self.world, self.j, self.now)

    def load(self, plan: Plan, newest: Head | None) -> Rekeyed | None:
        return self._there().load(bytes(plan.raw), newest).rekeyed

    def prepare(self, request: PrepareRequest) -> PrepareReply:
        return self._line(lambda: self._there().prepare(request))

    def commit(self, request: CommitRequest) -> Committed:
        return self._line(lambda: self._there().commit(request))

    def freeze(self, request: FreezeRequest) -> Revealed:
        return self._line(lambda: self._there().freeze(request))

    def sketch(self, request: SketchRequest) -> Sketched:
        return self._line(lambda: self._there().sketch(request))

    def open(self, request: OpenRequest) -> Opened:
        return self._line(lambda: self._there().open(request))

    def sign_head(self, request: SignHeadRequest) -> HeadSignature:
        return self._line(lambda: self._there().sign_head(request))

    def _there(self) -> Keyholder:
        if self.keyholder is None:
            raise Unreachable("it is down")
        return self.keyholder

    def _line(self, call):
        self.asked += 1
        cut, self.cut = self.cut, None
        if cut == "before":
            raise Unreachable("the line was cut")
        answer = call()
        if cut == "after":
            raise Unreachable("the line was cut")
        return answer


def open_store(world: World, folder: Path | None = None) -> SqlStore:
    """In files, or where the environment says (the fixture `place`, which closes what was opened)."""
    if os.environ.get("TACIT_STORE"):
        records = Records(world.folder / "store", os.environ["TACIT_STORE"], os.environ.get("TACIT_BLOBS", ""))
        OPENED.append(records.open(world.plan, world.coordinator.sig))
        return OPENED[-1]
    return local_store(folder or world.folder / "store", world.plan, world.coordinator.sig)


def make_opener(world: World, keyholders: list[Direct], deadline_s: int = 100) -> Opener:
    troubles = Trouble([None] * len(keyholders))
    return Opener(world.plan, world.coordinator.sig, keyholders, deadline_s, troubles)
