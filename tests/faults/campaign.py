"""A campaign of kill -9: every process of a site dies again and again, at instrumented points and anywhere, under load.

    python tests/faults/campaign.py --kills 200 --store sqlite
    python tests/faults/campaign.py --kills 200 --store postgresql --blobs s3

Senders insist on a receipt for each Update, with the same bytes, as devices do. In the end nothing that has a receipt
may be lost, nothing may be opened twice, and the model must be that of an undisturbed run to which the same integers
came in the same order: to the byte, at every version. Noise is so small that it rounds to zero, which is what makes
two runs comparable; `test_kill.py` does it with noise. The seed repeats what is killed where, not when.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]  # when it is run as a script

from tacit.coordinator.batch import Fate  # noqa: E402
from tacit.coordinator.records import Records  # noqa: E402
from tacit.wire.ids import UpdateId  # noqa: E402
from tacit.wire.messages import Head, Receipt, decode, encode, update_hash  # noqa: E402
from tests.factory import (  # noqa: E402
    Device,
    Process,
    Refused,
    Site,
    World,
    coordinator_process,
    keyholder_process,
    make_world,
    next_snapshot,
    running,
    wait_for,
)
from tests.servers import bucket, postgres  # noqa: E402

TARGET, AGE, SENDERS = 4, 16, 4
ANYWHERE_S = 2.5  # an armed process that has not died by then is killed wherever it is
# Passed at the end of a Plan, when a keyholder has lost its state, or with a gate: `test_kill.py` kills there.
ELSEWHERE = re.compile(r"ended|halt|rekey|erased|freeze|sketch|(?<!up)load\.|void|rolled|commit\.$")


def points(room: str) -> list[str]:
    """Every crash point in the sources of a room."""
    sources = (path.read_text() for path in sorted((ROOT / "src" / "tacit" / room).glob("*.py")))
    found = {name for text in sources for name in re.findall(r'crash_point\("([a-z._]+)"\)', text)}
    if room == "coordinator":
        found |= {f"coordinator.{state}" for state in ("collecting", "closed", "agreed", "opened", "applied", "headed")}
    return sorted(name for name in found if not ELSEWHERE.search(name))


@dataclass(eq=False)
class Sent:
    """An Update that somebody holds a receipt for."""

    update_id: UpdateId
    base_version: int
    q: NDArray[np.int64]


@dataclass(eq=False)
class Victim:
    """A process, and where it will die."""

    process: Process
    kind: str
    places: list[str]
    armed: str | None = None
    since: float = 0.0

    def start(self, place: str | None) -> None:
        self.armed = place
        self.process.start(place, expect_ready=False)
        self.since = time.monotonic()  # it listens, or is dead already


@dataclass(eq=False)
class Campaign:
    world: World
    keyholders: list[Process]
    apis: list[Process]
    victims: list[Victim]
    records: Records
    draw: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    sent: dict[UpdateId, Sent] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)
    broken: list[BaseException] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"/v1/plans/{self.world.plan_id.hex()}"

    def send_on(self, number: int) -> None:
        """One sender: Updates from the newest HEAD, each until it has a receipt or a refusal that is final."""
        draw = random.Random(number)
        try:
            while not self.over.is_set():
                head = self.insist(lambda api: decode(Head, api.get(f"{self.path}/head")), draw)
                if head is None:
                    return
                if len(self.sent) > TARGET * (head.version + AGE // 2):
                    time.sleep(0.02)  # what waits for longer than AGE batches would expire, as it should
                    continue
                device = Device(self.world)
                upload = device.update(head.version, self.world.hash_of(head))
                body = encode(upload)
                try:
                    receipt = self.insist(
                        lambda api, body=body: api.post(f"{self.path}/updates", body, Receipt), draw, to_the_end=True
                    )
                except Refused as refusal:
                    self.refused[refusal.code] += 1
                    continue
                assert receipt is not None and receipt.update_hash == update_hash(upload), "another one's receipt"
                self.sent[upload.update_id] = Sent(upload.update_id, head.version, device.integers())
        except BaseException as error:
            self.broken.append(error)
            raise

    def insist(self, what, draw: random.Random, to_the_end: bool = False):
        """From any of the processes that take Updates, until one answers."""
        while to_the_end or not self.over.is_set():
            try:
                return what(draw.choice(self.apis))
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)
            except Refused as refused:
                if not refused.reply.refusal().retryable:
                    raise
                time.sleep(0.05)
        return None

    def kill_on(self, kills: int) -> None:
        """Until so many have died."""
        for victim in self.victims:
            victim.start(self.place(victim))
        told = time.monotonic()
        while sum(self.kills.values()) < kills:
            if self.broken:
                raise self.broken[0]
            for victim in self.victims:
                if victim.process.alive and time.monotonic() > victim.since + ANYWHERE_S:
                    victim.process.process.kill()
                    victim.process.wait_dead()
                    self.kills[f"{victim.kind}, anywhere"] += 1
                elif not victim.process.alive:
                    code = victim.process.wait_dead()
                    log = victim.process.log_path.read_text()[-2000:] if victim.process.log_path.exists() else ""
                    assert code == -9, f"{victim.kind} ended by itself with {code}:\n{log}"
                    self.kills[str(victim.armed).partition(":")[0]] += 1
                else:
                    continue
                victim.start(self.place(victim))
            if time.monotonic() > told + 10:
                told = time.monotonic()
                print(f"  {sum(self.kills.values())} kills, {len(self.sent)} Updates", flush=True)
            time.sleep(0.005)
        for victim in self.victims:
            if victim.process.alive:  # armed no more
                victim.process.kill()
                self.kills[f"{victim.kind}, anywhere"] += 1
            victim.start(None)

    def place(self, victim: Victim) -> str:
        """One of the places where fewest have died so far."""
        fewest = min(self.kills[place] for place in victim.places)
        least = [place for place in victim.places if self.kills[place] <= fewest + 1]
        return f"{self.draw.choice(least)}:{self.draw.randint(1, 2)}"

    def come_to_rest(self) -> None:
        """No more kills, no more senders: what is still waiting is too little for a batch."""
        store = self.records.open(self.world.plan, self.world.coordinator.sig)
        try:
            wait_for(
                lambda: store.batch().__class__.__name__ == "Collecting" and store.queued_count() < TARGET,
                "everything has been opened",
                seconds=120,
            )
        finally:
            store.close()


@dataclass(frozen=True)
class Verdict:
    kills: int
    updates: int
    snapshots: int
    lost: int
    doubled: int
    identical: bool
    places: dict[str, int]
    refused: dict[str, int]


def judge(campaign: Campaign) -> Verdict:
    """What the records, the keyholders and an undisturbed run say."""
    world = campaign.world
    store = campaign.records.open(world.plan, world.coordinator.sig)
    try:
        rows = store.database.rows("SELECT update_id, fate FROM updates ORDER BY seq")
        order = [UpdateId(name) for name, _ in rows]
        fates = {UpdateId(name): Fate(fate) for name, fate in rows}
        newest = store.newest()
        assert newest is not None
        heads = [store.head(version) for version in range(newest.version + 1)]
        snapshots = [store.snapshot(head.snapshot_hash) for head in heads if head is not None]
    finally:
        store.close()
    site = Site(world, campaign.apis[0], campaign.keyholders)
    lists = [[UpdateId(bytes.fromhex(one)) for _, ids in sorted(site.opened_ids(j)) for one in ids] for j in (1,)]
    opened = Counter(lists[0])
    waiting = {name for name, fate in fates.items() if fate is Fate.QUEUED}
    lost = sum(1 for name in campaign.sent if name not in opened and name not in waiting)
    lost += sum(1 for name, fate in fates.items() if fate is Fate.APPLIED and name not in opened)
    doubled = sum(count - 1 for count in opened.values()) + len(order) - len(set(order))
    # An Update may have got in although its sender was told nothing; then its integers are known to nobody else.
    known = [campaign.sent[name] for name in order if name in campaign.sent]
    identical = len(known) == len(order) and len(snapshots) == len(heads)
    identical = identical and snapshots == undisturbed(world, known, newest.version)
    return Verdict(
        sum(campaign.kills.values()),
        len(order),
        newest.version,
        lost,
        doubled,
        identical,
        dict(sorted(campaign.kills.items())),
        {str(code): count for code, count in campaign.refused.items()},
    )


def undisturbed(world: World, sent: list[Sent], version: int) -> list[bytes]:
    """Every Snapshot of a run on one machine that nobody disturbs, to which the same came in the same order."""
    folder = Path(tempfile.mkdtemp(dir=world.folder))
    calm = _world(folder)
    with running(calm) as site:
        head = site.wait_version(0)
        for one in sent:
            if one.base_version > head.version:
                head = site.wait_version(one.base_version)
            base = decode(Head, site.coordinator.get(f"{site.path}/heads/{one.base_version}"))
            site.send(Device(calm).update(one.base_version, calm.hash_of(base), q=one.q))
        site.wait_version(version)
        heads = [decode(Head, site.coordinator.get(f"{site.path}/heads/{v}")) for v in range(version + 1)]
        snapshots = [site.snapshot(head) for head in heads]
    # And both must be what arithmetic says.
    expected = calm.plan.initial_snapshot
    for t in range(version):
        total = np.sum([one.q for one in sent[t * TARGET : (t + 1) * TARGET]], axis=0)
        expected = next_snapshot(calm, expected, total, TARGET)
    assert snapshots[-1] == expected, "the undisturbed run is not the sum of what was sent"
    return snapshots


def _world(folder: Path) -> World:
    return make_world(folder, 1, target=TARGET, threshold=TARGET, most=2 * TARGET, max_age=AGE, snapshots=100_000)


@contextlib.contextmanager
def site(folder: Path, store: str, blobs: str, seed: int) -> Generator[Campaign]:
    """Everybody, not started yet. On SQLite one coordinator; on PostgreSQL two that take and two that open."""
    world = _world(folder)
    keyholder = keyholder_process(world)
    keyholder.start()
    with contextlib.ExitStack() as stack:
        where: list[str] = []
        environment: dict[str, str] = {}
        records = Records(world.coordinator_home)
        if store == "postgresql":
            url = stack.enter_context(postgres())
            place = str(folder / "blobs")
            if blobs == "s3":
                environment = stack.enter_context(bucket())
                os.environ.update(environment)
                place = "s3://tacit/campaign"
            where = ["--store", url, "--blobs", place]
            records = Records(world.coordinator_home, url, place)
        coordinators: list[tuple[str, Process]] = []
        for role in ["all"] if store == "sqlite" else ["api", "api", "opener", "opener"]:
            process = coordinator_process(world, [keyholder])
            home = folder / f"home-{len(coordinators)}"
            shutil.copytree(world.coordinator_home, home)
            if store == "postgresql":
                process.arguments[process.arguments.index("--home") + 1] = str(home)
            process.arguments += [*where, "--role", role]
            process.environment = environment
            process.log_path = folder / f"{role}-{len(coordinators)}.log"
            coordinators.append((role, process))
        for _, process in coordinators:  # ports are known from here on
            process.start()
            process.kill()
        keyholder.kill()
        upload = [name for name in points("coordinator") if "upload" in name]
        steps = [name for name in points("coordinator") if "upload" not in name]
        places = {"all": upload + steps, "api": upload, "opener": steps}
        victims = [Victim(process, role, places[role]) for role, process in coordinators]
        victims.append(Victim(keyholder, "keyholder", points("keyholder")))
        apis = [process for role, process in coordinators if role != "opener"]
        try:
            yield Campaign(world, [keyholder], apis, victims, records, random.Random(seed))
        finally:
            for victim in victims:
                victim.process.stop()


def campaign(kills: int, store: str, blobs: str = "folder", seed: int = 0) -> Verdict:
    """A whole campaign."""
    with tempfile.TemporaryDirectory(prefix="tacit-campaign-") as folder, site(Path(folder), store, blobs, seed) as one:
        senders = [threading.Thread(target=one.send_on, args=(number,), daemon=True) for number in range(SENDERS)]
        for sender in senders:
            sender.start()
        try:
            one.kill_on(kills)
        finally:
            one.over.set()
        for sender in senders:
            sender.join(60)
            assert not sender.is_alive(), "a sender got no answer within a minute"
        one.come_to_rest()
        return judge(one)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Kills every process of a site, again and again, and looks whether anything was lost.",
        epilog="example: python tests/faults/campaign.py --kills 200 --store sqlite",
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--blobs", choices=("folder", "s3"), default="folder", help="with postgresql")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    verdict = campaign(given.kills, given.store, given.blobs, given.seed)
    for place, count in verdict.places.items():
        print(f"  {count:5}  {place}")
    print(f"{verdict.kills} kills, {verdict.updates} Updates accepted, {verdict.snapshots} Snapshots")
    print(
        f"lost {verdict.lost}, doubled {verdict.doubled}, identical {'yes' if verdict.identical else 'NO'}", flush=True
    )
    if given.json is not None:
        given.json.write_text(json.dumps(verdict.__dict__, indent=1) + "\n")
    return 0 if not verdict.lost and not verdict.doubled and verdict.identical else 1


if __name__ == "__main__":
    sys.exit(main())
