"""A log as coordinator and keyholders write it, without either: who signs are keys of a world."""

from dataclasses import dataclass
from pathlib import Path

from tacit.plan.cards import cards_at
from tacit.plan.history import History, read_history
from tacit.wire import preimage
from tacit.wire.codes import Code
from tacit.wire.ids import Digest, KeyId, PlanId, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.log import GENESIS, append, digest
from tacit.wire.messages import (
    Head,
    LogEntry,
    LoggedHalt,
    LoggedOpened,
    LoggedPlan,
    LoggedRollback,
    LoggedSuccession,
    LogKind,
    Rekeyed,
    decode,
    encode,
    mark_of,
)
from tacit.wire.signed import sign_head, sign_opened, sign_rekeyed
from tests.factory import World, identity, make_world

Body = tuple[LogKind, bytes]


def members(t: int, count: int = 4) -> list[Digest]:
    """The names of the Updates of batch t."""
    return sorted(sha256(b"update", bytes([t, i])) for i in range(count))


@dataclass(eq=False)
class Written:
    """A log as coordinator and keyholders write it: four batches, the third of them void, a card lost after that."""

    world: World
    keys: list[SigningKey]
    bodies: list[Body]

    @property
    def entries(self) -> list[LogEntry]:
        return self.chained(self.bodies)

    def chained(self, bodies: list[Body]) -> list[LogEntry]:
        entries, previous = [], GENESIS
        for kind, body in bodies:
            entries.append(append(self.world.coordinator.sig, previous, kind, body))
            previous = digest(entries[-1])
        return entries

    def read(self, bodies: list[Body]) -> History:
        return self.read_entries(self.chained(bodies))

    def read_entries(self, entries: list[LogEntry]) -> History:
        return read_history(entries, self.world.plan.manifest, self.world.plan_id)

    def head(self, version: int, snapshot: bytes, rekeyed: tuple[Rekeyed, ...] = ()) -> Body:
        cards = cards_at(self.world.plan.manifest, self.world.plan_id, rekeyed, version)
        ids, name = [KeyId(card.key_id) for card in cards], sha256(snapshot)
        signed = [
            sign_head(key, key_id, self.world.plan_id, version, name, ids).signature
            for key, key_id in zip(self.keys, ids, strict=True)
        ]
        head = Head(
            plan_id=self.world.plan_id, version=version, snapshot_hash=name, signatures=tuple(signed), rekeyed=rekeyed
        )
        return LogKind.HEAD, encode(head)

    def opened(self, t: int, count: int = 4, rekeyed: tuple[Rekeyed, ...] = ()) -> Body:
        root = preimage.root(members(t))
        cards = cards_at(self.world.plan.manifest, self.world.plan_id, rekeyed, t)
        marks = [
            mark_of(sign_opened(key, KeyId(card.key_id), self.world.plan_id, t, root, b"masks"))
            for key, card in zip(self.keys, cards, strict=True)
        ]
        body = LoggedOpened(plan_id=self.world.plan_id, t=t, root=root, count=count, marks=tuple(marks))
        return LogKind.OPENED, encode(body)

    def rekeyed(self, version: int) -> Body:
        return LogKind.REKEYED, encode(sign_rekeyed(self.keys[1], self.world.plan_id, version, b"\7" * 32))

    def rollback(self, start: int, to: int) -> Body:
        body = LoggedRollback(plan_id=self.world.plan_id, from_version=start, to_version=to, why="it fell")
        return LogKind.ROLLBACK, encode(body)

    def succession(self, version: int) -> Body:
        body = LoggedSuccession(
            plan_id=self.world.plan_id, version=version, successor=PlanId(sha256(b"the next")), started_from=version
        )
        return LogKind.SUCCESSION, encode(body)


def whole_log(folder: Path) -> Written:
    """Four batches, the third of them void, a card that was lost and replaced, an end and a successor."""
    world = make_world(folder, keyholders=2)
    keys = [identity(world, 1), identity(world, 2)]
    log = Written(world, keys, [])
    kind, new = log.rekeyed(4)
    card = decode(Rekeyed, new)
    halts = [
        LoggedHalt(plan_id=world.plan_id, key_id=KeyId(card.key_id), code=Code.E_BUDGET)
        for card in world.plan.manifest.keyholders
    ]
    log.bodies = [
        (LogKind.PLAN, encode(LoggedPlan(plan_id=world.plan_id))),
        log.head(0, world.plan.initial_snapshot),
        log.opened(0),
        log.head(1, b"one"),
        log.opened(1),
        log.head(2, b"two"),
        (LogKind.AUDIT, b"12 canaries"),
        log.head(3, b"two"),
        (kind, new),
        log.opened(3),
        log.head(4, b"four", (card,)),
        *((LogKind.HALT, encode(halt)) for halt in halts),
        log.succession(4),
    ]
    return log
