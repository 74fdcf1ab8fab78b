"""A coordinator that a test can make misbehave: right signatures, scripted answers.

What a right coordinator does is tested against the real one; this one is late, forgetful and dishonest.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.device.agent import run
from tacit.device.events import Ended, Event
from tacit.device.settings import JoinSettings
from tacit.device.world import World as DeviceWorld
from tacit.plan.bundle import encode_snapshot
from tacit.plan.cards import key_ids_at
from tacit.wire import preimage
from tacit.wire.codes import Code
from tacit.wire.ids import Digest, UpdateId, sha256
from tacit.wire.messages import Enrol, ErrorReply, Head, Outcome, Rekeyed, Upload, decode, encode, update_hash
from tacit.wire.signed import sign_proof, sign_receipt
from tests.device.scripted import Answer, Asked, Script, scripted
from tests.device.small import save_examples, settings_for
from tests.factory import World, identity

RECEIVED_HOUR = 500_000
A_MONTH_S = 30 * 24 * 3600  # what the Plans of tests.factory live


def refusal(code: Code, reason: str = "because", status: int = 409, wait: int | None = None) -> Answer:
    return Answer(status, encode(ErrorReply(code=code, reason=reason, retry_after=wait)))


@dataclass
class Pretender:
    """Answers as the coordinator of `world`; a test replaces single answers by `script.on`."""

    world: World
    script: Script

    def __post_init__(self) -> None:
        manifest = self.world.plan.manifest
        self.script.on(f"GET {self.world.plan_id.hex()}", Answer(body=self.world.plan_file.read_bytes()))
        self.script.on("POST enrol", self.enrolled)
        self.script.on("POST updates", self.received)
        self.script.on("POST proof", self.proof("queued"))
        self.script.on("GET status", Answer(body=b'{"ended": null}'))
        self.snapshots = [encode_snapshot(self.values(version)) for version in range(manifest.noise.snapshots + 1)]
        for data in self.snapshots:
            self.script.on(f"GET {sha256(data).hex()}", Answer(body=data))
        self.publish(0)

    def values(self, version: int) -> NDArray[np.float32]:
        return np.full(self.world.plan.manifest.program.d, version / 8, np.float32)

    def head(self, version: int, snapshot_hash: Digest | None = None, rekeyed: tuple[Rekeyed, ...] = ()) -> Answer:
        """The answer with this HEAD, signed by all keyholders."""
        manifest = self.world.plan.manifest
        name = sha256(self.snapshots[version]) if snapshot_hash is None else snapshot_hash
        key_ids = key_ids_at(manifest, self.world.plan_id, rekeyed, version)
        signed = preimage.head(self.world.plan_id, version, name, key_ids)
        signatures = tuple(identity(self.world, j).sign(signed) for j in range(1, len(key_ids) + 1))
        head = Head(
            plan_id=self.world.plan_id, version=version, snapshot_hash=name, signatures=signatures, rekeyed=rekeyed
        )
        return Answer(body=encode(head))

    def publish(self, *versions: int) -> None:
        """HEADs in the order in which they are asked for; the last one stays."""
        self.script.on("GET head", *(self.head(version) for version in versions))

    def enrolled(self, asked: Asked) -> Answer:
        return Answer(body=encode(self.world.credential(decode(Enrol, asked.body).dpk)))

    def received(self, asked: Asked) -> Answer:
        upload = decode(Upload, asked.body)
        return Answer(body=encode(sign_receipt(self.world.coordinator.sig, upload, RECEIVED_HOUR)))

    def proof(self, outcome: Outcome, t: int = 0) -> Callable[[Asked], Answer]:
        """PROOF? answered so for any Update that was uploaded."""

        def answer(asked: Asked) -> Answer:
            uploads = [decode(Upload, body) for body in self.script.bodies("POST updates")]
            members = [update_hash(one) for one in uploads] if outcome in ("opened", "spoilt") else []
            key, plan_id = self.world.coordinator.sig, self.world.plan_id
            return Answer(body=encode(sign_proof(key, plan_id, UpdateId(asked.body), outcome, t, members)))

        return answer


@dataclass
class Stage:
    """A pretending coordinator and one device, with a clock that only moves when the device waits."""

    world: World
    pretender: Pretender
    folder: Path
    events: list[Event] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def script(self) -> Script:
        return self.pretender.script

    @property
    def home(self) -> Path:
        return self.folder / "device"

    def settings(self, **changes: Any) -> JoinSettings:
        data = self.folder / "examples.npz"
        if not data.exists():
            save_examples(data)
        return settings_for(self.world, self.script.port, self.home, data, **changes)

    def run(self, most_waits: int = 200, until: Callable[[], bool] = lambda: False, **changes: Any) -> Ended:
        """Runs a device until it ends, has waited so often, or `until`."""
        waits = len(self.waits)

        def should_stop() -> bool:
            return len(self.waits) - waits >= most_waits or until()

        world = DeviceWorld(
            should_stop=should_stop,
            now=lambda: self.world.plan.manifest.limits.expires_at - A_MONTH_S + sum(self.waits),
            monotonic=lambda: sum(self.waits),
            sleep=self.waits.append,
            random=os.urandom,
        )
        return run(self.settings(**changes), self.events.append, world=replace(world, **self.changes))

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]


@contextlib.contextmanager
def staged(world: World, folder: Path) -> Generator[Stage]:
    """A stage for one test."""
    with scripted() as script:
        yield Stage(world, Pretender(world, script), folder)


def in_threads(*calls: Callable[[], object]) -> None:
    """Runs all at once and raises what the first of them raised."""
    raised: list[BaseException] = []

    def guarded(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]
