"""Train now? Send now? Two pure functions of what may be looked at.

What may be looked at is in their arguments: the owner's wishes, the machine's condition, the ledger, the
Plan and the clock. The data, the delta and the loss are not there, so a schedule cannot tell anything
about them (PROTOCOL 4). The answer is a value with its reason in words.
"""

from dataclasses import dataclass

from tacit.device.ledger import Standing
from tacit.device.settings import Wishes
from tacit.plan.manifest import Manifest
from tacit.privacy.blt import Blt

A_MINUTE = 60.0
HOUR_S = 3600


@dataclass(frozen=True)
class Conditions:
    """The machine as it is. What cannot be read is None and stands in nobody's way."""

    battery: float | None = None  # share left, 0 to 1
    charging: bool | None = None
    idle_seconds: float | None = None  # since somebody last used it
    metered: bool | None = None  # does sending cost the owner money?


@dataclass(frozen=True)
class Clock:
    """Seconds since 1970, and how far into the local day."""

    now: float
    hour_of_day: float


@dataclass(frozen=True)
class Go:
    """Yes."""


@dataclass(frozen=True)
class NotNow:
    """Ask again in `seconds`, or when a new Snapshot is there."""

    reason: str
    seconds: float


@dataclass(frozen=True)
class Never:
    """This Plan is over for this device."""

    reason: str


Answer = Go | NotNow | Never


def train_now(
    manifest: Manifest,
    version: int,
    standing: Standing,
    wishes: Wishes,
    conditions: Conditions,
    clock: Clock,
    mu2_most: float,
    poll: float = A_MINUTE,
) -> Answer:
    """May a visit begin from Snapshot `version`?

    What ends the Plan is asked first, then what the privacy of the owner needs, then comfort.
    """
    over = plan_over(manifest, version, standing, clock.now, mu2_most)
    if over is not None:
        return over
    if standing.unsettled:
        # Two Updates of one device must not meet in one batch, and which batch takes the first is not
        # ours to choose: the second is made once the first has landed.
        return NotNow("the last Update waits for its batch", poll)
    if version < standing.next_ok_version:
        return NotNow(
            f"this device trains again from Snapshot {standing.next_ok_version}; the newest is {version}",
            poll,
        )
    return _comfort(wishes, conditions, clock) or Go()


def send_now(
    manifest: Manifest,
    made_at: float,
    jitter: float,
    wishes: Wishes,
    conditions: Conditions,
    clock: Clock,
) -> Answer:
    """May an Update that was made at `made_at` leave? `jitter` was drawn for it: seconds it waits at least.

    An Update in the outbox has been paid for, so only the Plan's end stops it for good.
    """
    if clock.now >= manifest.limits.expires_at:
        return Never("this Plan has expired")
    early = made_at + jitter - clock.now
    if early > 0:
        return NotNow("the Update waits a random while, so that its time says little", early)
    if wishes.avoid_metered and conditions.metered:
        return NotNow("sending would cost money here", 10 * A_MINUTE)
    return Go()


def worth_sending(norm: float, clip: float, visits: int, trigger: float, most: int) -> bool:
    """Is a delta long enough to be sent, or carried on for long enough?

    The only decision that looks at the data, so it tells something of them: no Plan that claims an ε may use it
    (PROTOCOL 4). `norm` is the length of what was learnt in `visits` visits.

    >>> worth_sending(0.2, 1.0, 1, 0.5, 8), worth_sending(0.2, 1.0, 8, 0.5, 8), worth_sending(0.7, 1.0, 1, 0.5, 8)
    (False, True, True)
    """
    return visits >= most or not norm < trigger * clip


def plan_over(manifest: Manifest, version: int, standing: Standing, now: float, mu2_most: float) -> Never | None:
    """Why no further Update can be made for this Plan, if that is so."""
    landings, batches = manifest.participation.landings, manifest.noise.snapshots
    if now >= manifest.limits.expires_at:
        return Never("this Plan has expired")
    if standing.landings_used >= landings:
        return Never(f"all {landings} landings that this Plan gives a device are used")
    if version >= batches:
        return Never(f"all {batches} batches of this Plan are opened")
    debit = debit_of(manifest, standing)
    if standing.mu2_spent + debit > manifest.mu2_life * (1 + 1e-9):
        return Never(
            f"one more Update costs μ² = {debit:.4g}, and of the {manifest.mu2_life:.4g} that a device "
            f"may spend in this chain of Plans {standing.mu2_spent:.4g} are spent"
        )
    if standing.mu2_device + debit > mu2_most * (1 + 1e-9):
        return Never(
            f"one more Update costs μ² = {debit:.4g}, and of the {mu2_most:.4g} that this "
            f"device may spend in its life {standing.mu2_device:.4g} are spent"
        )
    return None


def debit_of(manifest: Manifest, standing: Standing) -> float:
    """μ² of the next landing, of which the Plan has one more to give."""
    return manifest.debit(standing.landings_here + 1)


def next_ok_version(manifest: Manifest, version: int) -> int:
    """The first Snapshot from which a device may train after an Update from `version`.

    `plain/1` needs distinct batches and no distance between them; a Plan may still ask for some. Under `blt/1` the
    worst case counts landings that are `separation` batches apart: this one lands within `max_age` batches, so the
    next one, which cannot land before its own version, is far enough away whatever a coordinator does.
    """
    away = version + manifest.participation.separation
    return away + manifest.batch.max_age if isinstance(manifest.noise.mechanism, Blt) else away


def _comfort(wishes: Wishes, conditions: Conditions, clock: Clock) -> NotNow | None:
    battery, charging = conditions.battery, conditions.charging
    if wishes.only_charging and charging is False:
        return NotNow("the device is not charging", 5 * A_MINUTE)
    if battery is not None and not charging and battery < wishes.least_battery:
        return NotNow(f"the battery is at {battery:.0%}, below {wishes.least_battery:.0%}", 10 * A_MINUTE)
    idle = conditions.idle_seconds
    if idle is not None and idle < wishes.least_idle_seconds:
        return NotNow("somebody is using the device", wishes.least_idle_seconds - idle)
    first, last = wishes.hours
    hour = clock.hour_of_day
    inside = first <= hour < last if first <= last else hour >= first or hour < last
    if not inside:
        return NotNow(f"it is outside the hours {first}-{last}", ((first - hour) % 24) * HOUR_S)
    return None
