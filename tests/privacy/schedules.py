"""Schedules of a lying coordinator: whatever it sends to real keyholders, and shows to devices that keep the rules.

The coordinator owns its signing key, the enrolment authority and as many devices as it likes. It shows any HEAD that
it has signatures for to anybody at any time, keeps Updates back, mixes, replays and alters them, asks keyholders for
batches out of order and with lists that differ, declares batches void, and kills keyholders where it hurts. Keyholders
lose their state and are re-keyed by operators who believe whatever HEAD is shown. What must hold all the same is
written in `Schedule.opened`, `Schedule.check_landings` and `Schedule.show`.

A device is the real decision (`train_now`), the real check of a HEAD (`verified_head`) and the real Update; what its
ledger would say is counted here, because thousands of schedules have to be played.
"""

import shutil
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec
import numpy as np

from tacit.device.decision import Clock, Conditions, Go, debit_of, next_ok_version, train_now
from tacit.device.ledger import Standing
from tacit.device.settings import Wishes
from tacit.device.trust import HeadRefused, Seen, verified_head
from tacit.keyholder import keyholder as keyholder_module
from tacit.privacy.blt import Blt, column
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, Digest, UpdateId, sha256
from tacit.wire.messages import (
    Entry,
    Head,
    HeadSignature,
    Opened,
    OpenRequest,
    Rekeyed,
    Upload,
    decode,
    encode,
    entry_of,
    update_hash,
)
from tacit.wire.signed import root_of
from tests.factory import Device
from tests.keyholder.asking import Asking, asking, start
from tests.keyholder.test_rekeying import lose, show
from tests.killing import Killed, Points

MEMORY = Path("/dev/shm")
BLT = Blt((0.9, 0.5), (0.3, 0.3))
MINE = sha256(b"a Snapshot of the coordinator's own")
THRESHOLD, MOST, MAX_AGE, LANDINGS, SEPARATION, SNAPSHOTS = 2, 4, 1, 2, 2, 8
FOREVER = 1e18  # the device's own cap: not what is looked at here


POINTS = Points()


@contextmanager
def killable() -> Generator[None, None, None]:
    """Within this, crash points kill as `POINTS` says."""
    before, keyholder_module.crash_point = keyholder_module.crash_point, POINTS
    try:
        yield
    finally:
        keyholder_module.crash_point, POINTS.left = before, None


@dataclass(eq=False)
class Honest:
    """A device that keeps the rules, with what its ledger counts."""

    device: Device
    seen: dict[int, Digest] = field(default_factory=dict)
    versions: list[int] = field(default_factory=list)  # of its Updates
    debts: list[float] = field(default_factory=list)
    next_ok: int = 0

    @property
    def standing(self) -> Standing:
        count, spent = len(self.versions), sum(self.debts)
        # A coordinator that never answers could stop the device for good; one that lies says each is settled.
        return Standing(count, count, spent, spent, self.next_ok, 0, 0)


class Named(NamedTuple):
    """What a HEAD says."""

    version: int
    snapshot_hash: Digest
    rekeyed: tuple[Rekeyed, ...]  # new cards that count by then


Life = tuple[int, int]  # a keyholder, from one loss of its state to the next


class Schedule:
    """One run of a coordinator against `keyholders` keyholders, driven by `random`."""

    def __init__(self, folder: Path, random: Random, keyholders: int, correlated: bool = True):
        self.random = random
        rules = {"mechanism": BLT} if correlated else {}
        self.correlated = correlated
        self.asked: Asking = asking(
            folder,
            keyholders,
            d=4,
            target=THRESHOLD,
            most=MOST,
            threshold=THRESHOLD,
            max_age=MAX_AGE,
            landings=LANDINGS,
            separation=SEPARATION,
            snapshots=SNAPSHOTS,
            **rules,
        )
        self.world = self.asked.world
        first = column(BLT, SNAPSHOTS) if correlated else np.eye(1, SNAPSHOTS)[0]
        self.columns = np.array([np.concatenate((np.zeros(t), first[: SNAPSHOTS - t])) for t in range(SNAPSHOTS)]).T
        self.count = keyholders
        self.honest = [Honest(Device(self.world)) for _ in range(3)]
        self.sybils = [Device(self.world)]
        self.owner: dict[UpdateId, Honest] = {}
        self.pool: list[Upload] = []
        self.answers: dict[tuple[Life, int], bytes] = {}  # of a t
        self.lists: dict[tuple[Life, int], list[Entry]] = {}
        self.requests: list[tuple[int, OpenRequest]] = []
        self.signed: dict[tuple[Life, int], Named] = {}  # of a version
        self.signatures: dict[Named, dict[int, bytes]] = {}
        self.t = [0] * keyholders  # what the coordinator believes
        self.losses = [0] * keyholders
        self.rekeyed: list[Rekeyed] = []
        self.opens = 0
        for j in range(keyholders):
            named = Named(0, self.world.initial_hash, ())
            self.note_head(j, named, self.asked.keyholders[j].sign_head(self.asked.head_zero()))

    @property
    def manifest(self):
        return self.world.plan.manifest

    def life(self, j: int) -> Life:
        return j, self.losses[j]

    def snapshot_of(self, j: int, t: int) -> Digest:
        """What keyholder j, as it is now, has signed for version t."""
        named = self.signed.get((self.life(j), t))
        return self.world.initial_hash if named is None else named.snapshot_hash

    def named(self, version: int, snapshot_hash: Digest, rekeyed: Sequence[Rekeyed]) -> Named:
        return Named(version, snapshot_hash, tuple(one for one in rekeyed if one.from_version <= version))

    # What the coordinator does

    def step(self) -> None:
        acts = {
            self.offer: 16,
            self.invent: 8,
            self.open: 12,
            self.sign: 8,
            self.again: 4,
            self.prepare: 2,
            self.go_on: 28,
            self.start_anew: 2,
            self.lose: 1,
        }
        act = self.random.choices(list(acts), list(acts.values()))[0]
        POINTS.left = self.random.randrange(3) if self.random.random() < 0.06 else None
        try:
            act()
        except Killed:
            self.start_anew()
        POINTS.left = None

    def complete(self) -> Named:
        """A HEAD that all have signed, mostly the newest."""
        complete = [named for named, by in self.signatures.items() if len(by) == self.count]
        newest = max(complete, key=lambda named: named.version)
        return newest if self.random.random() < 0.7 else self.random.choice(complete)

    def offer(self) -> None:
        self.show(self.random.choice(self.honest), self.complete())

    def head(self, named: Named) -> Head:
        by = self.signatures[named]
        return Head(
            plan_id=self.world.plan_id,
            version=named.version,
            snapshot_hash=named.snapshot_hash,
            signatures=tuple(by[j] for j in range(self.count)),
            rekeyed=named.rekeyed,
        )

    def show(self, honest: Honest, named: Named) -> None:
        """The device may make an Update of it; it must not, where the rules say so."""
        head = self.head(named)
        if self.random.random() < 0.1:  # another Snapshot, version or card under true signatures
            change = self.random.choice(({"version": head.version + 1}, {"snapshot_hash": MINE}, {"rekeyed": ()}))
            head = msgspec.structs.replace(head, **change)
        version = head.version
        try:
            seen = Seen(max(honest.seen, default=None), honest.seen.get(version))
            head_hash = verified_head(head, self.world.plan_id, self.manifest, seen)
        except HeadRefused:
            return
        by = self.signatures.get(self.named(version, head.snapshot_hash, head.rekeyed), {})
        assert len(by) == self.count, "a HEAD was trusted that not all have signed"
        honest.seen[version] = head.snapshot_hash
        wishes = Wishes()
        answer = train_now(
            self.manifest, version, honest.standing, wishes, Conditions(), Clock(self.asked.now[0], 12.0), FOREVER
        )
        if not isinstance(answer, Go):
            return
        upload = honest.device.update(version, head_hash, rekeyed=head.rekeyed)
        honest.debts.append(debit_of(self.manifest, honest.standing))
        honest.versions.append(version)
        honest.next_ok = next_ok_version(self.manifest, version)
        self.owner[upload.update_id] = honest
        self.pool.append(upload)

    def invent(self) -> None:
        """An Update of a device of its own, which keeps no rule. It enrols as many as it likes."""
        known = [upload.update_id for upload in self.pool]
        name = self.random.choice(known) if known and self.random.random() < 0.1 else None
        self.forge(self.random.choice(list(self.signatures)), name)

    def forge(self, named: Named, name: UpdateId | None = None) -> None:
        if self.random.random() < 0.7:
            self.sybils.append(Device(self.world))
        sybil = self.random.choice(self.sybils)
        head_hash = self.world.head_hash(*named)
        self.pool.append(sybil.update(named.version, head_hash, update_id=name, rekeyed=named.rekeyed))

    def open(self) -> None:
        j = self.random.randrange(self.count)
        t = self.t[j] if self.random.random() < 0.9 else self.random.randrange(SNAPSHOTS + 1)
        size = self.random.choice((THRESHOLD, THRESHOLD, 3, MOST, MOST + 1, 1, 0))
        self.ask(j, t, self.entries(j, size))

    def prepare(self) -> None:
        j = self.random.randrange(self.count)
        t, entries = self.t[j], self.entries(j, self.random.randrange(1, MOST + 1))
        snapshot_hash = self.snapshot_of(j, t)
        with suppress(Refusal):
            self.asked.keyholders[j].prepare(self.asked.prepare_request(t, entries, snapshot_hash))

    def again(self) -> None:
        """A request that was sent before, perhaps to another keyholder or long ago."""
        if self.requests:
            j, request = self.random.choice(self.requests)
            self.send(j if self.random.random() < 0.8 else self.random.randrange(self.count), request)

    def sign(self) -> None:
        j = self.random.randrange(self.count)
        version = self.t[j] + 1 if self.random.random() < 0.9 else self.random.randrange(SNAPSHOTS + 1)
        self.ask_head(j, version, self.random.random() < 0.5, sha256(self.random.choice((b"a", b"b"))))

    def go_on(self) -> None:
        """What an honest coordinator would do, so that schedules get somewhere: open with all, sign with all."""
        at = self.t[0]
        named = self.signed.get((self.life(0), at))
        if named is None:
            return  # lost so late that it does not go on
        for _ in self.honest:
            self.offer()
        while self.random.random() < 0.7:
            self.forge(named)
        entries = self.chosen(self.random.randint(THRESHOLD, MOST), at)
        for j in range(self.count):
            if self.t[j] == at:
                self.ask(j, at, [entry_of(upload, j + 1) for upload in entries])
        spoilt = any((self.life(j), at) not in self.answers for j in range(self.count))
        snapshot_hash = sha256(bytes([self.random.randrange(2)]))
        for j in range(self.count):
            self.ask_head(j, at + 1, spoilt, snapshot_hash)

    def lose(self) -> None:
        """A keyholder loses records and cards, is shown some HEAD, and its operator believes that it is the newest."""
        POINTS.left = None
        j, named = self.random.randrange(self.count), self.complete()
        lose(self.asked, j + 1)
        self.losses[j] += 1
        self.t[j] = named.version
        code = show(self.asked, self.head(named), j + 1)
        assert code is Code.E_STATE_LOST, f"a HEAD of its own that it does not know: {code}"
        refused = None
        try:
            self.rekeyed.append(self.asked.keyholders[j].rekey(self.world.plan_id))
        except Refusal as refusal:
            refused = refusal.code
        if refused is not None:
            assert refused is Code.E_BUDGET, f"it cannot go on: {refused}"  # too late in the Plan for a new card
            return
        self.signed[self.life(j), named.version] = named

    # How it asks

    def entries(self, j: int, size: int) -> list[Entry]:
        uploads = self.chosen(size, self.t[j])
        entries = [entry_of(upload, j + 1) for upload in uploads]
        if entries and self.random.random() < 0.2:
            entries[0] = self.altered(entries[0], j)
        return entries

    def chosen(self, size: int, t: int) -> list[Upload]:
        """Some of what it has, mostly such that could be opened at t."""
        fresh = [one for one in self.pool if one.base_version <= t <= one.base_version + MAX_AGE]
        pool = fresh if self.random.random() < 0.85 else self.pool
        return self.random.sample(pool, min(size, len(pool)))

    def altered(self, entry: Entry, j: int) -> Entry:
        """An entry with a field of its own choice."""
        other = self.random.choice(self.pool)
        changed = {
            "base_version": self.t[j],
            "head_hash": other.head_hash,
            "update_id": UpdateId(self.random.randbytes(16)),
            "dpk": other.dpk,
            "sealed": entry_of(other, j + 1).sealed,
            "credential": other.credential,
        }
        name = self.random.choice(sorted(changed))
        return msgspec.structs.replace(entry, **{name: changed[name]})

    def ask(self, j: int, t: int, entries: list[Entry]) -> None:
        snapshot_hash = self.snapshot_of(j, t)
        request = self.asked.open_request(t, entries, snapshot_hash)
        self.requests.append((j, request))
        self.send(j, request)

    def send(self, j: int, request: OpenRequest) -> None:
        try:
            opened = self.asked.keyholders[j].open(request)
        except Refusal as refusal:
            self.refused(request, refusal)
            return
        self.opened(j, request, opened)

    def ask_head(self, j: int, version: int, spoilt: bool, snapshot_hash: Digest) -> None:
        t = version - 1
        lives = [[(i, n) for n in range(self.losses[i] + 1) if ((i, n), t) in self.answers] for i in range(self.count)]
        marks = [self.answers[self.random.choice(of), t] for of in lives if of]
        entries = next((self.lists[life, t] for life in reversed(lives[j])), [])
        if spoilt:
            snapshot_hash = self.snapshot_of(j, t)
        opened = [] if spoilt else [decode(Opened, mark) for mark in marks]
        known = self.rekeyed if self.random.random() < 0.9 else self.rekeyed[:-1]
        request = self.asked.sign_request(version, snapshot_hash, entries, opened, spoilt, known)
        try:
            signature = self.asked.keyholders[j].sign_head(request)
        except Refusal:
            return
        self.note_head(j, self.named(version, snapshot_hash, known), signature)

    def note_head(self, j: int, named: Named, signature: HeadSignature) -> None:
        before = self.signed.setdefault((self.life(j), named.version), named)
        assert self.world.head_hash(*before) == self.world.head_hash(*named), "two HEADs for one version"
        self.signatures.setdefault(named, {})[j] = signature.signature
        self.t[j] = max(self.t[j], named.version)

    def start_anew(self) -> None:
        POINTS.left = None
        for j, keyholder in enumerate(self.asked.keyholders, 1):
            keyholder.close()
            self.asked.keyholders[j - 1] = start(self.world, j, self.asked.now)

    # What must hold

    def refused(self, request: OpenRequest, refusal: Refusal) -> None:
        """The separation lemma: the device's own rule leaves the keyholder's nothing to refuse."""
        if not self.correlated or refusal.code is not Code.E_PARTICIPATION:
            return
        name = UpdateId(bytes.fromhex(refusal.reason.split()[1].rstrip(":")))
        shown = {update_hash(entry) for entry in request.entries if entry.update_id == name}
        mine = {update_hash(upload) for upload in self.pool if upload.update_id == name and name in self.owner}
        mine -= {update_hash(upload) for upload in self.pool if upload.dpk in map(_key, self.sybils)}
        assert shown.isdisjoint(mine), f"a device that keeps the rules was refused: {refusal}"

    def opened(self, j: int, request: OpenRequest, opened: Opened) -> None:
        self.opens += 1
        t, answer, life = request.t, encode(opened), self.life(j)
        assert opened.t == t
        assert self.answers.setdefault((life, t), answer) == answer, "two answers for one batch"
        if (life, t) in self.lists:
            # The list's root is what it is known by: seals and credentials that were exchanged now change nothing.
            assert root_of(self.lists[life, t]) == root_of(request.entries), "two lists for one batch"
            return
        entries = self.lists[life, t] = list(request.entries)
        assert THRESHOLD <= len(entries) <= MOST, f"a list of {len(entries)} was opened"
        assert len({entry.dpk for entry in entries}) == len(entries), "a device stands twice in a list"
        made = {update_hash(upload) for upload in self.pool}
        # Exchanging a credential for another that holds is no forgery.
        assert {update_hash(entry) for entry in entries} <= made, "an altered entry was opened"
        others = [(one, entry) for (one, at), found in self.lists.items() for entry in found if one[0] == j and at != t]
        ids = {entry.update_id for one, entry in others if one == life}
        assert ids.isdisjoint(entry.update_id for entry in entries), "an id was opened twice"
        # What was sealed before a loss is not opened after it, so neither is an Update opened in two lives.
        hashes = {update_hash(entry) for _, entry in others}
        assert hashes.isdisjoint(update_hash(entry) for entry in entries), "an Update was opened twice"
        for honest in self.honest:
            self.check_landings(j, honest)

    def check_landings(self, j: int, honest: Honest) -> None:
        """At one keyholder, over all its lives: each had noise of its own."""
        count, true = 0, 0.0
        for life in ((j, n) for n in range(self.losses[j] + 1)):
            landed = sorted(
                (t, entry.base_version)
                for (one, t), entries in self.lists.items()
                for entry in entries
                if one == life and entry.dpk == _key(honest.device) and self.owner.get(entry.update_id) is honest
            )
            count += len(landed)
            assert all(version <= t <= version + MAX_AGE for t, version in landed), "opened outside its window"
            for (before, _), (after, _) in pairwise(landed):
                assert after - before >= SEPARATION, f"landings at {before} and {after} are too near"
            # Not what so many landings may cost, but what these did: how far this device could move what is told apart.
            moved = self.columns[:, [t for t, _ in landed]].sum(axis=1)
            true += float(moved @ moved) / (self.manifest.noise.sensitivity * self.manifest.noise.sigma) ** 2
        assert count <= LANDINGS, "more landings than the Plan allows"
        assert sum(honest.debts) >= true * (1 - 1e-9), "the ledger says too little"


def _key(device: Device) -> DeviceKey:
    return DeviceKey(device.key.public)


def play(random: Random, steps: int = 40) -> int:
    """One schedule of so many steps; how many lists were opened. AssertionError where something does not hold."""
    folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    try:
        schedule = Schedule(folder, random, random.choice((1, 1, 2)), random.random() < 0.8)
        try:
            with killable():
                for _ in range(steps):
                    schedule.step()
            return schedule.opens
        finally:
            for keyholder in schedule.asked.keyholders:
                keyholder.close()
    finally:
        shutil.rmtree(folder)


def several(seed: int, count: int, tell: Callable[[int], None] | None = None) -> int:
    """So many schedules from one seed; how many lists they opened."""
    opens = 0
    for number in range(count):
        try:
            opens += play(Random(f"{seed}/{number}"))
        except AssertionError as error:
            raise AssertionError(f"schedule {seed}/{number}: {error}") from error
        if tell is not None:
            tell(opens)
    return opens
