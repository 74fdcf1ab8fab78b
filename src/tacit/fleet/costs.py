"""What a visit costs each device: the planner's own estimate, at the device's own speed and on its own line.

A straggler computes so many times longer than its profile says, at the same watts; so its energy grows as its time.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tacit.codec.difference import worth
from tacit.fleet.population import RADIOS, Population
from tacit.fleet.settings import Scenario
from tacit.plan.bundle import Plan
from tacit.plan.estimate import Estimate, estimate, visit_of
from tacit.plan.profile import Radio


@dataclass(frozen=True)
class Cost:
    """Of one profile, with so many examples: seconds and joules of computing, once and at every visit."""

    once_s: float
    once_j: float
    each_s: float
    each_j: float


@dataclass(frozen=True)
class Trip:
    """Of one device and one visit."""

    fetching: float  # seconds
    computing: float
    sending: float
    joules: float
    down: int  # bytes
    up: int


class Costs:
    """Those of one Plan on these devices."""

    def __init__(self, plan: Plan, population: Population, counts: Iterable[int], scenario: Scenario):
        self._plan, self._population = plan, population
        self._counts = np.fromiter(counts, np.uint32)
        self._memory = (1 << 62) if scenario.keep else 0
        self._known: dict[tuple[int, int], Cost] = {}
        self._bytes = bytes_of(plan, scenario)
        self._differs = 0, 0  # the newest Snapshot from the first: which, and by how many bytes

    def estimate(self, profile: int, examples: int) -> Estimate:
        """Without its radio, whose speed is each device's own."""
        visit = visit_of(self._plan, examples)
        return estimate(visit, self._population.profiles[profile], "none", self._memory)

    def trip(self, device: int, first: bool, version: int, snapshot: bytes) -> Trip:
        """A visit by this device from that Snapshot; the first one fetches the Plan and plays the prefix."""
        population = self._population
        number = int(population.profile[device])
        cost, profile = self._cost(number, int(self._counts[device])), population.profiles[number]
        slow = float(population.slowdown[device])
        line = profile.radios.get(RADIOS[int(population.radio[device])]) or next(iter(profile.radios.values()), None)
        down = self._bytes.down + (self._bytes.plan if first else 0) + self._fetched(first, version, snapshot)
        computing = slow * (cost.each_s + (cost.once_s if first else 0.0))
        fetching = down / float(population.down[device]) + _begin(line)
        sending = self._bytes.up / float(population.up[device]) + _begin(line)
        joules = slow * (cost.each_j + (cost.once_j if first else 0.0))
        joules += (fetching + sending) * profile.power.awake_watts
        joules += 0.0 if line is None else _radio_joules(line, down, self._bytes.up, computing)
        return Trip(fetching, computing, sending, joules, down, self._bytes.up)

    def _fetched(self, first: bool, version: int, snapshot: bytes) -> int:
        """What a Snapshot takes. Who has just fetched the Plan has Snapshot 0, and asks for what differs from it.

        Who comes again is counted as if it had none: how much differs from the one it has is not worked out.
        """
        if not version or not self._bytes.snapshot:
            return 0
        if not first:
            return self._bytes.snapshot
        if self._differs[0] != version:
            made = worth(bytes(self._plan.initial_snapshot), snapshot)
            self._differs = version, len(made) or self._bytes.snapshot
        return self._differs[1]

    def _cost(self, profile: int, examples: int) -> Cost:
        found = self._known.get((profile, examples))
        if found is None:
            one = self.estimate(profile, examples)
            found = Cost(
                one.first_seconds - one.seconds,
                one.first_joules - one.joules,
                one.compute_seconds,
                one.compute_joules,
            )
            self._known[profile, examples] = found
        return found


@dataclass(frozen=True)
class Bytes:
    """Of a visit: the Plan the first time, packed, with Snapshot 0 in it; HEAD, receipt and a later Snapshot down; an
    Update up.
    """

    plan: int
    snapshot: int
    down: int
    up: int


def bytes_of(plan: Plan, scenario: Scenario) -> Bytes:
    """As tacit's messages, or as the plain values of the model up and down and nothing else; or nothing is sent."""
    values = 4 * plan.manifest.program.d
    match scenario.counted:
        case "messages":
            visit = visit_of(plan, 1)
            return Bytes(visit.delivered_bytes, values, visit.download - values, visit.upload)
        case "nothing":
            return Bytes(0, 0, 0, 0)
        case "float32":
            return Bytes(0, 0, values, values)


def _begin(line: Radio | None) -> float:
    return 0.0 if line is None else line.begin_seconds


def _radio_joules(line: Radio, down: int, up: int, between: float) -> float:
    """Both transfers with their tails, the first cut short by the second."""
    cut = 1.0 if between >= line.tail_seconds else between / line.tail_seconds
    return down * line.down_joules_per_byte + up * line.up_joules_per_byte + line.tail_joules * (1.0 + cut)
