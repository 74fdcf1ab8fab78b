"""A run: devices come, train, send; the coordinator opens batches; all of it in virtual time, on one event queue.

What decides is the production code: `device.decision` whether a device may train, `coordinator.intake` whether an
Update may wait, `coordinator.batch` which are opened together, `coordinator.applying` what the next Snapshot is.
Swapped are the clock (the queue), the transport (seconds and bytes that `costs` reckons) and the store (memory, and a
checkpoint that is written now and then).

Nothing that happens depends on the machine: the wall clock only decides when a checkpoint is written, and a run that
goes on from one writes what it would have written without.
"""

import math
import random
import time
from array import array
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tacit.coordinator.batch import Collecting, Ended, Member, Opened, earliest
from tacit.device.backoff import backoff_seconds
from tacit.device.decision import Clock, Conditions, Go, Never, next_ok_version, train_now, worth_sending
from tacit.device.examples import Examples
from tacit.device.ledger import Standing
from tacit.device.settings import Wishes
from tacit.durable import write_file
from tacit.errors import InputError
from tacit.fleet.availability import Availability
from tacit.fleet.coordinating import Coordinator, Kept, root
from tacit.fleet.costs import Costs, bytes_of
from tacit.fleet.draws import device_key, update_id
from tacit.fleet.folder import FORMAT, Fate, Folder, Point, Records, RunBroken, Settings, Summary
from tacit.fleet.opening import Part, open_batch, open_masked
from tacit.fleet.population import Population
from tacit.fleet.queue import Event, Queue, Times
from tacit.fleet.settings import Scenario
from tacit.fleet.split import Shares
from tacit.fleet.training import Asked, Made, Pool, drawn
from tacit.plan.bundle import Plan, encode_snapshot
from tacit.plan.claim import claim
from tacit.plan.manifest import Alike
from tacit.privacy.account import MEANINGLESS_ABOVE, epsilon_of_mu
from tacit.privacy.trust import trust_of
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import UpdateId, sha256
from tacit.wire.keys import SealingKey
from tacit.wire.messages import Upload

DAY = 86_400.0
CHECKPOINT_S = 20.0  # of the wall clock
SAID_S = 0.2
STRETCH_S = 600.0  # of virtual time: what is sorted at once
TOGETHER = 1 << 16  # devices whose first windows are worked out at once
ATTEMPTS = 20  # to send an Update, before a device gives it up
FAIR = 500  # devices on whose own examples the published model is judged


class Kind(IntEnum):
    """What an event is about: a device, a visit, a batch."""

    OPENS = 0  # a device is there
    TRAINED = 1  # a visit has its delta, where it must be looked at before it is sent
    ENDS = 2  # a visit's Update arrives, or the visit is over
    DEADLINE = 3
    PUBLISH = 4
    LOOK = 5  # a place may be free


class End(IntEnum):
    """How a visit ends, as far as the device is concerned."""

    ARRIVES = 0
    DROPPED = 1
    INTERRUPTED = 2
    NEVER_ARRIVES = 3


@dataclass(frozen=True, eq=False)
class World:
    """What is played. `keys` open what is sealed to the Plan's keyholders, where masking is real."""

    plan: Plan
    population: Population
    availability: Availability
    shares: Shares
    examples: Examples | None
    test: Examples | None
    public: Examples | None = None
    per_device: int = 0
    keys: tuple[SealingKey, ...] = ()


@dataclass(frozen=True)
class Progress:
    """How far a run is; `done` is the share of whatever ends it first."""

    time: float
    version: int
    versions: int
    visits: int
    accuracy: float | None
    done: float
    events: int


class ScenarioWrong(InputError):
    """Settings that cannot hold; nothing was run."""


class Flight(msgspec.Struct):
    """A visit that is under way, or whose Update waits."""

    number: int
    device: int
    version: int
    first: bool
    end: int
    began: float
    ends: float
    sending: float
    computing: float
    joules: float
    down: int
    up: int
    working: bool = True
    refused: int = 0


class Totals(msgspec.Struct):
    visits: int = 0
    updates: int = 0
    up: int = 0
    down: int = 0
    joules: float = 0.0
    events: int = 0
    best: float = 0.0


class Saved(msgspec.Struct):
    """A run between two events."""

    settings: bytes
    now: float
    draws: tuple[int, tuple[int, ...], None]
    queue: dict[str, Any]
    arrays: dict[str, bytes]
    pool: bytes
    later: dict[int, bytes]
    flights: list[Flight]
    coordinator: Kept
    buffers: list[bytes | None]
    bounds: dict[int, float]
    windows: dict[int, float]
    carried: dict[int, tuple[bytes, int]]
    norms: list[float]
    totals: Totals
    fates: dict[int, int]
    reached: Point | None
    written: tuple[int, int]


def play(
    world: World,
    scenario: Scenario,
    folder: Folder,
    told: Mapping[str, str],
    *,
    workers: int = 0,
    say: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Begins a run, or goes on with it, or says what it came to. KeyboardInterrupt leaves one that can go on."""
    check(world, scenario)
    settings = settings_of(world, scenario, told)
    folder.begin(settings, bytes(world.plan.raw))
    if folder.is_over:
        return folder.summary()
    run = _Run(world, scenario, folder, msgspec.json.encode(settings), workers)
    try:
        return run.play(say, stop)
    finally:
        run.close()


def settings_of(world: World, scenario: Scenario, told: Mapping[str, str]) -> Settings:
    """All that was asked, as a run's folder keeps it."""
    population = world.population
    return Settings(
        FORMAT,
        scenario,
        world.plan.plan_id.hex(),
        len(population),
        0 if world.test is None else len(world.test),
        _digest(world),
        _sha(population.profile, population.slowdown, population.down, population.up),
        dict(told),
    )


def check(world: World, scenario: Scenario) -> None:
    """Everything that cannot hold, before the first event."""
    manifest, devices = world.plan.manifest, len(world.population)
    batch = manifest.batch

    def refuse(why: str) -> None:
        raise ScenarioWrong(f"{why}; nothing was run")

    if batch.threshold > devices:
        refuse(f"a batch is opened with {batch.threshold} Updates at least and there are {devices} devices")
    if batch.target > devices:
        refuse(f"a batch closes at {batch.target} Updates, one of each device, and there are {devices} devices")
    if scenario.at_work is not None and scenario.at_work < batch.threshold and batch.max_age == 0:
        refuse(f"a batch needs {batch.threshold} Updates from one Snapshot and {scenario.at_work} devices are at work")
    if batch.places is not None and batch.places.selected > devices:
        refuse(f"a Snapshot has {batch.places.selected} places and there are {devices} devices")
    if batch.groups > 1 or not isinstance(batch.robust, Alike):
        refuse("groups with a robust mean are not simulated; `bench/attacks.py` plays them")
    if manifest.noise.gate is not None:
        refuse("the gate of sketches is not simulated; leave `gate` out of the Task")
    if manifest.evaluation is not None:
        refuse("a Plan that judges is not simulated")
    if len(world.shares) != devices:
        refuse(f"examples are dealt to {len(world.shares)} devices and there are {devices}")
    if scenario.training == "engine" and (world.examples is None or world.test is None):
        refuse('training on the engine needs examples and test examples; or ask for training "none"')
    if scenario.training == "none" and scenario.target is not None:
        refuse("a target needs training")
    if scenario.replay and world.public is None:
        refuse("replay needs public examples with labels, and the Task has none")
    if scenario.masking == "real" and len(world.keys) != len(manifest.keyholders):
        refuse("real masking needs the keys that open seals")
    if not _claims(world.plan):
        return
    if scenario.trigger is not None:
        refuse(
            "this Plan claims an ε, so when a device sends may not depend on its data (PROTOCOL 4): leave the trigger "
            "out, or give the Task noise without a claim"
        )
    if scenario.clip == "median":
        refuse("this Plan claims an ε, and nobody accounts for what a running median of lengths tells: clip as it says")
    if scenario.before.visits:
        refuse("this Plan claims an ε, and what devices said before it is not in that: begin without class sums")


class _Run:
    def __init__(self, world: World, scenario: Scenario, folder: Folder, settings: bytes, workers: int):
        self._world, self._scenario, self._folder, self._settings = world, scenario, folder, settings
        self._plan, self._manifest = world.plan, world.plan.manifest
        count = len(world.population)
        self._landings, self._last = np.zeros(count, np.uint16), np.full(count, -1, np.int32)
        self._spent = np.zeros(count, np.uint16)  # Updates made: what the device's own ledger counts
        self._next = np.zeros(count, np.uint32)  # the first Snapshot from which it may train again
        self._closes = np.zeros(count)  # until when it is there
        self._flags = np.zeros(count, np.uint8)
        self._coordinator = Coordinator(self._plan, scenario.deadline, scenario.opening, self._landings, self._last)
        self._coordinator.batch = Collecting(0, int(scenario.before.time))
        equal = np.broadcast_to(np.int64(world.per_device), count)
        sizes = np.diff(world.shares.offsets) if world.examples is not None else equal
        self._costs = Costs(self._plan, world.population, sizes, scenario)
        self._bytes = bytes_of(self._plan, scenario)
        self._workers = Pool(self._plan, world.examples, scenario, workers)
        self._queue = Queue(STRETCH_S, self._ahead)
        # Until when devices are there that come in this stretch; not a number of who does not.
        self._until = np.full(count, np.nan)
        self._draws = random.Random(scenario.seed)  # noqa: S311 - so that a run can be repeated; it protects nobody
        self._ready = array("I")  # devices that are there, perhaps
        self._later: dict[int, array[int]] = {}  # devices that wait for a Snapshot
        self._flights: dict[int, Flight] = {}
        self._made: dict[int, Future[Made]] = {}
        self._working = 0
        self._buffers: list[bytes | None] = [None] * len(self._manifest.keyholders)
        clip = self._manifest.quantisation.clip
        self._bounds: dict[int, float] = {0: clip}
        self._norms: list[float] = []
        self._carried: dict[int, tuple[bytes, int]] = {}
        self._names: dict[UpdateId, int] = {}  # of Updates that wait: their visits
        before = scenario.before
        self._totals = Totals(visits=before.visits, up=before.up, down=before.down, joules=before.joules)
        self._fates = dict.fromkeys(map(int, Fate), 0)
        self._mu2 = [self._manifest.spent(n) for n in range(self._manifest.participation.landings + 1)]
        self._now, self._between = before.time, True
        self._records: Records | None = None
        self._reached: Point | None = None
        self._accuracy: float | None = None

    def close(self) -> None:
        self._workers.close()
        if self._records is not None:
            self._records.close()

    def play(self, say: Callable[[Progress], None], stop: Callable[[], bool]) -> Summary:
        if not self._restore():
            self._records = Records(self._folder)
            self._first()
            self._queue.put(self._now + self._scenario.deadline, Kind.DEADLINE, 0)
            self._judge(0)
        end = math.inf if self._scenario.days is None else self._scenario.days * DAY
        written = said = time.monotonic()
        ended = ""
        while not ended:
            wall = time.monotonic()
            if wall - said >= SAID_S:
                said = wall
                say(self._progress(end))
            if wall - written >= CHECKPOINT_S:
                self._checkpoint()
                written = time.monotonic()
            if stop():
                self._checkpoint()
                raise KeyboardInterrupt
            try:
                ended = self._some(end)
            except KeyboardInterrupt:
                # Between two events everything is in order; within one it is not, and the last checkpoint counts.
                if self._between:
                    self._checkpoint()
                raise
        say(self._progress(end))
        return self._finish(ended)

    def _some(self, end: float, count: int = 256) -> str:
        """A few hundred events; why the run is over, if it is."""
        for _ in range(count):
            event = self._queue.pop()
            if event is None:
                return "nothing happens any more: no device may train"
            if event.time > end:
                self._now = end
                return f"its {self._scenario.days:g} days are over"
            self._between = False
            self._now = event.time
            self._totals.events += 1
            self._happens(event)
            self._between = True
            batch = self._coordinator.batch
            if isinstance(batch, Ended):
                return batch.reason
            if self._reached is not None:
                return f"the published model is right in {self._reached.accuracy:.1%}"
        return ""

    def _happens(self, event: Event) -> None:
        match event.kind:
            case Kind.OPENS:
                self._opens(event.what)
            case Kind.TRAINED:
                self._trained(self._flights[event.what])
            case Kind.ENDS:
                self._ends(self._flights[event.what])
            case Kind.DEADLINE:
                batch = self._coordinator.batch
                if isinstance(batch, Collecting) and batch.t == event.what:
                    self._coordinator.again()
                    self._close()
            case Kind.PUBLISH:
                self._publish()
            case _:
                self._fill()

    # Devices come

    def _first(self) -> None:
        """When each of them comes first."""
        count = len(self._world.population)
        for start in range(0, count, TOGETHER):
            devices = np.arange(start, min(start + TOGETHER, count))
            opens, _ = self._world.availability.windows(devices, np.full(len(devices), self._now))
            self._queue.put_many(np.maximum(opens, self._now), Kind.OPENS, devices)

    def _ahead(self, times: Times, kinds: NDArray[np.uint8], whats: NDArray[np.uint32]) -> None:
        """All devices that come in the next stretch: until when, and when they come again."""
        coming = kinds == Kind.OPENS
        devices, opens = whats[coming].astype(np.int64), times[coming]
        if not len(devices):
            return
        _, closes = self._world.availability.windows(devices, opens)
        self._until[devices] = closes
        # Who has nothing left to do need not come again.
        coming = (self._flags[devices] & OVER) == 0
        devices, closes = devices[coming], closes[coming]
        again, _ = self._world.availability.windows(devices, closes)
        self._queue.put_many(again, Kind.OPENS, devices)

    def _opens(self, device: int) -> None:
        closes, self._until[device] = float(self._until[device]), np.nan
        if math.isnan(closes):
            # It went away and came back within one stretch.
            closes = self._window(device, self._now)[1]
            again = self._window(device, closes)[0]
            if math.isfinite(again):
                self._queue.put(again, Kind.OPENS, device)
        self._closes[device] = closes
        self._welcome(device)
        self._fill()

    def _window(self, device: int, after: float) -> tuple[float, float]:
        return self._world.availability.window(device, after)

    def _welcome(self, device: int) -> None:
        if not self._flags[device] & (READY | BUSY | OVER):
            self._flags[device] |= READY
            self._ready.append(device)

    def _fill(self) -> None:
        """Lets devices begin, as many as may: who comes first is drawn."""
        batch = self._coordinator.batch
        if isinstance(batch, Ended):
            return
        while self._ready and self._has_room():
            device = self._drawn()
            if device is not None:
                self._begin(device)

    def _has_room(self) -> bool:
        places, version = self._coordinator.places, self._coordinator.newest
        if earliest(self._coordinator.batch) >= self._manifest.noise.snapshots:
            return False  # the last batch is being opened: what is made now comes too late
        if places is not None:
            return isinstance(self._coordinator.batch, Collecting) and places.is_free(version, self._now)
        busy = self._working + len(self._coordinator.queued)
        return self._scenario.at_work is None or busy < self._scenario.at_work

    def _drawn(self) -> int | None:
        """One of those that are there, if it may train."""
        ready = self._ready
        at = self._draws.randrange(len(ready))
        device = ready[at]
        ready[at] = ready[-1]
        ready.pop()
        self._flags[device] &= ~READY & 0xFF
        if self._closes[device] <= self._now or self._flags[device] & (BUSY | OVER):
            return None
        version, spent = self._coordinator.newest, int(self._spent[device])
        standing = Standing(spent, spent, self._mu2[spent], self._mu2[spent], int(self._next[device]), 0, 0)
        hour = self._now / 3600.0
        answer = train_now(
            self._manifest, version, standing, WISHES, CONDITIONS, Clock(self._now, hour % 24.0), self._mu2[-1]
        )
        match answer:
            case Go():
                places = self._coordinator.places
                if places is not None and places.give(version, device, self._now) is None:
                    self._wait(device, version + 1)
                    return None
                return device
            case Never():
                self._flags[device] |= OVER
                return None
            case _:
                self._wait(device, max(version + 1, int(self._next[device])))
                return None

    def _wait(self, device: int, version: int) -> None:
        self._flags[device] |= READY  # it is in a list, if not in this one
        self._later.setdefault(version, array("I")).append(device)

    # A visit

    def _begin(self, device: int) -> None:
        scenario, draws = self._scenario, self._draws
        first = not self._flags[device] & FETCHED
        version = self._coordinator.newest
        trip = self._costs.trip(device, first, version, self._coordinator.snapshots[version])
        began = self._now + (draws.random() * scenario.poll if scenario.poll else 0.0)
        trained = began + trip.fetching + trip.computing
        closes = float(self._closes[device])
        end, ends, up = End.ARRIVES, trained + trip.sending, trip.up
        share = 1.0
        if scenario.dropout and draws.random() < scenario.dropout:
            share = draws.random()
            end, ends = End.DROPPED, began + share * (ends - began)
        if min(trained, ends) > closes:
            # The device's time is over before it has trained.
            share = max(0.0, (closes - began) / (trained - began))
            end, ends = End.INTERRUPTED, max(closes, began)
        if end is End.ARRIVES and scenario.trigger is None:
            end, ends, up = self._sending(device, trained, closes, trip.sending, trip.up)
        elif end is not End.ARRIVES:
            up = 0 if began + share * (trained + trip.sending - began) < trained else trip.up // 2
        number = self._totals.visits
        flight = Flight(
            number,
            device,
            version,
            first,
            end,
            began,
            ends,
            trip.sending,
            trip.computing * min(1.0, share),
            trip.joules * share,
            int(trip.down * min(1.0, share * 2)) if share < 1 else trip.down,
            up,
        )
        self._flags[device] |= BUSY
        if share >= 1 or ends > began + trip.fetching:
            self._flags[device] |= FETCHED
        self._flights[number] = flight
        self._working += 1
        totals = self._totals
        totals.visits += 1
        totals.down += flight.down
        totals.joules += flight.joules
        if scenario.trigger is not None and end is End.ARRIVES:
            self._queue.put(trained, Kind.TRAINED, number)
            return
        totals.up += up
        self._queue.put(ends, Kind.ENDS, number)
        places = self._coordinator.places
        if places is not None:
            self._queue.put(self._now + places.rule.seconds + 1e-6, Kind.LOOK, 0)

    def _sending(self, device: int, at: float, closes: float, seconds: float, size: int) -> tuple[End, float, int]:
        """When an Update arrives that is ready `at` a time, and the bytes that were sent in all attempts."""
        sent = 0
        for attempt in range(1, ATTEMPTS + 1):
            if at >= closes:
                opens, closes = self._window(device, closes)
                if not math.isfinite(opens):
                    break
                at = max(at, opens)
            whole = at + seconds <= closes
            if whole and not (self._scenario.loss and self._draws.random() < self._scenario.loss):
                return End.ARRIVES, at + seconds, sent + size
            share = self._draws.random() if whole else (closes - at) / seconds
            sent += int(size * share)
            at += seconds * share
            if whole:
                at += backoff_seconds(attempt, self._draws.randbytes)
            else:
                at = closes
        return End.NEVER_ARRIVES, at, sent

    def _trained(self, flight: Flight) -> None:
        """Send now? Where that depends on the delta, it is asked here."""
        scenario = self._scenario
        made = self._result(flight)
        _, visits = self._carried.get(flight.device, (b"", 0))
        assert scenario.trigger is not None, "else nobody asks"
        if made.said is not None and not worth_sending(
            made.norm, self._manifest.quantisation.clip, visits + 1, scenario.trigger, scenario.carried
        ):
            assert made.delta is not None, "what is carried on is kept"
            self._carried[flight.device] = (encode_snapshot(made.delta), visits + 1)
            flight.ends, flight.up = self._now, 0
            self._leaves(flight)
            self._over(flight, Fate.CARRIED, -1, made)
            self._free(flight.device)
            self._fill()
            return
        end, ends, up = self._sending(
            flight.device, self._now, float(self._closes[flight.device]), flight.sending, flight.up
        )
        flight.end, flight.ends, flight.up = end, ends, up
        self._totals.up += up
        self._queue.put(ends, Kind.ENDS, flight.number)

    def _ends(self, flight: Flight) -> None:
        device = flight.device
        if flight.working:
            self._leaves(flight)
            if flight.end in (End.ARRIVES, End.NEVER_ARRIVES):
                # Its Update was made: the device has paid for it, whatever becomes of it.
                self._spent[device] += 1
                self._next[device] = next_ok_version(self._manifest, flight.version)
        match flight.end:
            case End.ARRIVES:
                self._arrives(flight)
            case End.DROPPED | End.NEVER_ARRIVES:
                self._over(flight, Fate.DROPPED, -1)
                self._free(device)
            case _:
                self._over(flight, Fate.INTERRUPTED, -1)
                self._free(device)
        self._fill()

    def _arrives(self, flight: Flight) -> None:
        name = update_id(self._scenario.seed, flight.number)
        member = Member(name, sha256(name), device_key(flight.device), flight.version)
        try:
            self._coordinator.admit(member, self._now, self._draws.random())
        except Refusal as refusal:
            if refusal.code is Code.E_RATE and flight.refused < ATTEMPTS:
                flight.refused += 1
                self._queue.put(self._now + (refusal.retry_after or 30), Kind.ENDS, flight.number)
                return
            self._over(flight, Fate.STALE if refusal.code is Code.E_STALE else Fate.REFUSED, -1)
            self._free(flight.device)
            return
        self._names[name] = flight.number
        if self._scenario.training == "engine":
            self._submit(flight)
        self._close()

    def _leaves(self, flight: Flight) -> None:
        flight.working = False
        self._working -= 1

    def _free(self, device: int) -> None:
        """It may do something else."""
        self._flags[device] &= ~BUSY & 0xFF
        if self._closes[device] > self._now:
            self._welcome(device)

    def _submit(self, flight: Flight) -> "Future[Made]":
        found = self._made.get(flight.number)
        if found is None:
            carried = self._carried.get(flight.device)
            asked = Asked(
                flight.device,
                flight.number,
                flight.version,
                self._rows(flight.device),
                self._coordinator.snapshots[flight.version],
                self._bounds[flight.version],
                None if carried is None else np.frombuffer(carried[0], "<f4"),
            )
            found = self._made[flight.number] = self._workers.visit(asked)
        return found

    def _rows(self, device: int) -> NDArray[np.int64]:
        return self._world.shares.of(device) if self._world.examples is not None else np.zeros(0, np.int64)

    def _result(self, flight: Flight) -> Made:
        """Waits; meanwhile the other workers train what comes next."""
        if self._scenario.training == "none":
            return drawn(self._plan, self._scenario, flight.device, flight.number, flight.version)
        future = self._submit(flight)
        if not future.done():
            self._prefetch()
        return future.result()

    def _prefetch(self) -> None:
        if self._scenario.trigger is not None:
            return  # what a device carries is not known before its time
        room = 2 * self._workers.workers - sum(not future.done() for future in self._made.values())
        if room <= 0:
            return
        coming = [
            one
            for one in self._flights.values()
            if one.working
            and one.end == End.ARRIVES
            and one.number not in self._made
            and one.version + self._manifest.batch.max_age > self._coordinator.newest
        ]
        for flight in sorted(coming, key=lambda one: one.ends)[:room]:
            self._submit(flight)

    # A batch

    def _close(self) -> None:
        """Closes the batch if it is full, or due; what left the numbers was never sent."""
        while chosen := self._coordinator.chosen(self._now):
            flights = [self._flights[self._names[member.update_id]] for member in chosen]
            broken: list[tuple[Member, Flight]] = []
            if self._scenario.training == "engine":
                for flight in flights:
                    self._submit(flight)
                both = zip(chosen, flights, strict=True)
                broken = [(member, flight) for member, flight in both if self._result(flight).said is None]
            if not broken:
                self._coordinator.close(chosen, self._now)
                self._queue.put(self._now + self._scenario.opening, Kind.PUBLISH, 0)
                return
            self._coordinator.leave([member for member, _ in broken])
            for _, flight in broken:
                self._spent[flight.device] -= 1
                self._over(flight, Fate.DIVERGED, -1, self._result(flight))
                self._free(flight.device)

    def _publish(self) -> None:
        coordinator, batch = self._coordinator, self._coordinator.batch
        assert isinstance(batch, Opened), "a batch was closed"
        flights = [self._flights[self._names[member.update_id]] for member in batch.members]
        made = [self._result(flight) for flight in flights]
        weights = coordinator.weights(batch)
        said = [one.said for one in made]
        seed, t = self._scenario.seed, batch.t
        if self._scenario.masking == "real":
            uploads = [Part(one, w) for one, w in zip(said, weights, strict=True) if isinstance(one, Upload)]
            opened = open_masked(self._plan, t, root(batch), uploads, self._buffers, seed, self._world.keys)
        else:
            plain = [Part(one, w) for one, w in zip(said, weights, strict=True) if isinstance(one, np.ndarray)]
            opened = open_batch(self._plan, t, root(batch), plain, self._buffers, seed)
        self._buffers = list(opened.buffers)
        broken = coordinator.apply(batch, opened.unmasked, self._after)
        fate = Fate.APPLIED if broken is None else Fate.SPOILT
        self._totals.updates += len(made) if broken is None else 0
        self._norms = [one.norm for one in made]
        used = self._bounds[max(flight.version for flight in flights)]
        self._bounds[t + 1] = self._bound(used)
        for flight, one in zip(flights, made, strict=True):
            self._over(flight, fate, t, one)
        for member in coordinator.publish(self._now):
            flight = self._flights[self._names[member.update_id]]
            self._over(flight, Fate.STALE, -1)
            self._free(flight.device)
        for flight in flights:
            self._free(flight.device)
        self._forget()
        version = coordinator.newest
        if version % self._scenario.every == 0 or coordinator.is_over:
            self._judge(version)
        if coordinator.is_over:
            return
        for device in self._later.pop(version, array("I")):
            self._flags[device] &= ~READY & 0xFF
            if self._closes[device] > self._now:
                self._welcome(device)
        self._queue.put(self._now + self._scenario.deadline, Kind.DEADLINE, version)
        self._close()
        self._fill()

    def _after(self, snapshot: bytes, version: int) -> bytes:
        if not self._scenario.replay or self._world.public is None:
            return snapshot
        return self._workers.replay(snapshot, self._world.public, version)

    def _bound(self, before: float) -> float:
        """What deltas from the next Snapshot are clipped to: near the median length of this batch's, smoothed."""
        clip = self._manifest.quantisation.clip
        lengths = [norm for norm in self._norms if math.isfinite(norm)]
        if self._scenario.clip == "plan" or not lengths:
            return clip
        median = float(np.median(lengths))
        return min(clip, max(1e-9, median if before >= clip else 0.8 * before + 0.2 * median))

    def _forget(self) -> None:
        needed = min((one.version for one in self._flights.values()), default=self._coordinator.newest)
        self._coordinator.forget(needed)
        for version in [one for one in self._bounds if one < min(needed, self._coordinator.newest)]:
            del self._bounds[version]

    def _over(self, flight: Flight, fate: Fate, batch: int, made: Made | None = None) -> None:
        """A visit is over, and written down."""
        assert self._records is not None, "the run has begun"
        del self._flights[flight.number]
        future = self._made.pop(flight.number, None)
        if future is not None:
            future.cancel()
        self._names.pop(update_id(self._scenario.seed, flight.number), None)
        if fate is not Fate.CARRIED and flight.end in (End.ARRIVES, End.NEVER_ARRIVES):
            self._carried.pop(flight.device, None)
        self._fates[fate] += 1
        nothing = math.nan
        self._records.visit(
            (
                flight.device,
                flight.version,
                batch,
                fate,
                flight.first,
                flight.began,
                flight.ends,
                flight.computing,
                flight.joules,
                flight.down,
                flight.up,
                nothing if made is None else made.first_loss,
                nothing if made is None else made.last_loss,
                nothing if made is None else made.norm,
            )
        )

    # What it comes to

    def _judge(self, version: int) -> None:
        assert self._records is not None, "the run has begun"
        point = self._point(version, self._scenario.judged)
        if point is None:
            return
        self._records.point(point)
        self._accuracy = point.accuracy
        self._totals.best = max(self._totals.best, point.accuracy)
        target = self._scenario.target
        if target is not None and point.accuracy >= target and self._reached is None:
            self._reached = point

    def _point(self, version: int, judged: int) -> Point | None:
        test, totals = self._world.test, self._totals
        if test is None or self._scenario.training == "none":
            loss = accuracy = 0.0
        else:
            loss, accuracy = self._workers.judge(self._published(version), test, judged)
        most = int(self._landings.max())
        return Point(
            version,
            self._now,
            loss,
            accuracy,
            totals.updates,
            totals.visits,
            totals.up,
            totals.down,
            totals.joules,
            most,
            self._mu2[most],
            self._bounds.get(version, self._manifest.quantisation.clip),
        )

    def _published(self, version: int) -> bytes:
        """What people get of this Snapshot."""
        average = self._coordinator.average
        return self._coordinator.snapshots[version] if average is None else encode_snapshot(average)

    def _progress(self, end: float) -> Progress:
        versions, version = self._manifest.noise.snapshots, self._coordinator.newest
        done = max(version / versions, self._now / end)
        totals = self._totals
        return Progress(self._now, version, versions, totals.visits, self._accuracy, min(1.0, done), totals.events)

    def _finish(self, ended: str) -> Summary:
        assert self._records is not None, "the run has begun"
        coordinator, manifest, totals = self._coordinator, self._manifest, self._totals
        for number in sorted(self._flights):
            self._over(self._flights[number], Fate.OPEN, -1)
        version = coordinator.newest
        point = self._point(version, 1 << 62)
        assert point is not None, "a point is made"
        most = int(self._landings.max())
        epsilon = epsilon_of_mu(math.sqrt(self._mu2[most]), manifest.delta) if most else 0.0
        if _unaccounted(self._scenario):
            epsilon = math.inf  # however few the landings: they are not all that was said
        trust = trust_of([card.sig_pk for card in manifest.keyholders], {})
        said = (
            str(claim(manifest, self._mu2[most], trust).sentence)
            if most and not _unaccounted(self._scenario)
            else f"No claim: {UNACCOUNTED}"
            if _unaccounted(self._scenario)
            else "no Update was opened: nothing was said of anybody"
        )
        summary = Summary(
            ended,
            self._now,
            version,
            point.accuracy,
            point.loss,
            max(totals.best, 0.0),
            self._reached,
            totals.updates,
            totals.visits,
            {Fate(fate).name.lower(): count for fate, count in self._fates.items() if count},
            totals.up,
            totals.down,
            totals.joules,
            most,
            self._mu2[most],
            epsilon if epsilon <= MEANINGLESS_ABOVE else None,
            said,
            manifest.program.resources.training_bytes,
            manifest.program.resources.full_training_bytes,
            self._bytes.plan,
            self._bytes.up,
            4 * manifest.program.d,
            totals.events,
        )
        self._records.written()
        final = self._published(version)
        self._fairness(final)
        self._folder.finish(summary, final)
        return summary

    def _fairness(self, published: bytes) -> None:
        """How good what is published is on devices' own examples; a file of its own."""
        if self._world.examples is None or self._scenario.training == "none":
            return
        count = len(self._world.population)
        devices = np.unique(np.linspace(0, count - 1, min(FAIR, count)).astype(np.int64))
        rows = [self._world.shares.of(int(device))[:100] for device in devices]
        right = self._workers.right(published, rows)
        examples = np.array([len(one) for one in rows])
        with (self._folder.path / "fairness.npz").open("wb") as file:
            np.savez(file, device=devices, examples=examples, right=np.array(right))

    # A kill

    def _checkpoint(self) -> None:
        assert self._records is not None, "the run has begun"
        arrays = {name: getattr(self, f"_{name}").tobytes() for name in ARRAYS}
        saved = Saved(
            self._settings,
            self._now,
            self._draws.getstate(),
            self._queue.saved(),
            arrays,
            self._ready.tobytes(),
            {version: devices.tobytes() for version, devices in self._later.items()},
            list(self._flights.values()),
            self._coordinator.saved(),
            self._buffers,
            self._bounds,
            {device: float(self._until[device]) for device in np.flatnonzero(~np.isnan(self._until)).tolist()},
            self._carried,
            self._norms,
            self._totals,
            self._fates,
            self._reached,
            self._records.written(),
        )
        data = msgspec.msgpack.encode(saved)
        write_file(self._folder.path / "checkpoint.bin", sha256(data) + data, 0o644)

    def _restore(self) -> bool:
        path = self._folder.path / "checkpoint.bin"
        if not path.exists():
            return False
        data = path.read_bytes()
        how = f"to begin that run anew delete {path.name}, to discard it the folder {path.parent}"
        if len(data) < 32 or sha256(data[32:]) != data[:32]:
            raise RunBroken(f"{path} is damaged; {how}")
        try:
            saved = msgspec.msgpack.decode(data[32:], type=Saved)
        except msgspec.MsgspecError as error:
            raise RunBroken(f"{path} was written by another tacit: {error}; {how}") from error
        if saved.settings != self._settings:
            raise RunBroken(f"{path} is of a run with other settings; {how}")
        self._now = saved.now
        version, numbers, gauss = saved.draws
        self._draws.setstate((version, tuple(numbers), gauss))
        self._queue.restore(saved.queue)
        for name in ARRAYS:
            own: NDArray[Any] = getattr(self, f"_{name}")
            own[:] = np.frombuffer(saved.arrays[name], own.dtype)
        self._ready.frombytes(saved.pool)
        for number, devices in saved.later.items():
            self._later[number] = array("I")
            self._later[number].frombytes(devices)
        self._flights = {flight.number: flight for flight in saved.flights}
        self._working = sum(flight.working for flight in saved.flights)
        self._coordinator.restore(saved.coordinator)
        for device, closes in saved.windows.items():
            self._until[device] = closes
        self._buffers, self._bounds, self._norms = saved.buffers, saved.bounds, saved.norms
        self._carried = {device: (bytes(delta), visits) for device, (delta, visits) in saved.carried.items()}
        self._totals, self._fates, self._reached = saved.totals, saved.fates, saved.reached
        self._records = Records(self._folder, *saved.written)
        batch = self._coordinator.batch
        waiting = {
            one.update_id for one in (*self._coordinator.queued, *(batch.members if isinstance(batch, Opened) else ()))
        }
        for flight in saved.flights:
            name = update_id(self._scenario.seed, flight.number)
            if name in waiting:
                self._names[name] = flight.number
        return True


READY, BUSY, OVER, FETCHED = 1, 2, 4, 8
ARRAYS = ("landings", "last", "spent", "next", "closes", "flags")
WISHES, CONDITIONS = Wishes(), Conditions()
UNACCOUNTED = (
    "devices told more than their noised sums (a clip at the running median, a trigger, or class sums before), and "
    "nobody accounts for that"
)


def _claims(plan: Plan) -> bool:
    manifest = plan.manifest
    return epsilon_of_mu(math.sqrt(manifest.mu2_life), manifest.delta) <= MEANINGLESS_ABOVE


def _unaccounted(scenario: Scenario) -> bool:
    return scenario.clip == "median" or scenario.trigger is not None or scenario.before.visits > 0


def _digest(world: World) -> str:
    told = _sha(world.shares.order, world.shares.offsets)
    return told if world.examples is None else sha256(bytes.fromhex(told) + world.examples.digest()).hex()


def _sha(*arrays: NDArray[Any]) -> str:
    return sha256(b"".join(np.ascontiguousarray(one).tobytes() for one in arrays)).hex()
