"""What `/metrics` says of each Plan, read from the store when somebody asks: the same from every process on it.

What only a process can know of itself (how long its answers and steps took) is measured where it happens, in
histograms that stand here under their names.
"""

import shutil
import time
from collections.abc import Iterable, Iterator
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from tacit.codec.ring import packed_size
from tacit.connections import REFUSED
from tacit.coordinator.alarms import RULES
from tacit.coordinator.batch import Agreed, Batch, Closed, Collecting, Fate, Sketching
from tacit.coordinator.metrics import Counter, Family, Histogram, Sample
from tacit.coordinator.orders import Going, Orders
from tacit.coordinator.pace import Pace
from tacit.coordinator.status import promise

if TYPE_CHECKING:
    from tacit.coordinator.server import Coordinator

REQUESTS = Histogram("tacit_request_seconds", "How long an answer took.", "method", "route", "status")
STEPS = Histogram("tacit_step_seconds", "How long a step of a batch took, by the state it began in.", "plan", "state")
FAILED = Counter("tacit_steps_failed_total", "Steps that did not succeed and are tried again.", "plan")
STORE = Histogram("tacit_store_seconds", "How long the store took.", "operation")
STATES = ("collecting", "closed", "sketching", "agreed", "opened", "applied", "headed", "ended")
_BEGUN = time.time()


def measured() -> Iterator[Family]:
    """What this process has seen since it began."""
    yield from (REQUESTS.family(), STEPS.family(), FAILED.family(), STORE.family())
    unread = [Sample(count, {"code": code.value}) for code, count in sorted(REFUSED.items())]
    yield Family("tacit_refused_unread_total", "counter", "What was refused before it was read, by code.", unread)
    yield Family("process_start_time_seconds", "gauge", "When this process began, in Unix time.", [Sample(_BEGUN, {})])


def told(coordinators: "Iterable[Coordinator]", now: float) -> list[Family]:
    """What the store says of each Plan that is served here."""
    families: dict[str, tuple[Family, list[Sample]]] = {}
    for coordinator in coordinators:
        for family in _of_plan(coordinator, now):
            families.setdefault(family.name, (family, []))[1].extend(family.samples)
    return [Family(family.name, family.kind, family.help, samples) for family, samples in families.values()]


def disk(folder: Path) -> Family:
    """What is left of the disk that the home is on."""
    free = shutil.disk_usage(folder).free
    return Family("tacit_disk_free_bytes", "gauge", "Free space where the home is.", [Sample(free, {})])


def age(batch: Batch, now: float) -> float | None:
    """Seconds since the batch began to collect; None for one whose list has been opened, or that has ended.

    >>> from tacit.coordinator.batch import Headed
    >>> age(Collecting(3, since=100), 160.0), age(Headed(3), 160.0)
    (60.0, None)
    """
    match batch:
        case Collecting(since=since) | Closed(since=since) | Sketching(since=since) | Agreed(since=since):
            return max(0.0, now - since)
        case _:
            return None


def _of_plan(coordinator: "Coordinator", now: float) -> Iterator[Family]:
    with STORE.time("read"):
        counts, batch = coordinator.store.counts(), coordinator.store.batch()
        troubles = coordinator.store.troubles()
        status, orders = coordinator.status(), Orders(coordinator.store.database).now()
        pace = Pace(coordinator.store.database).per_second(now)
    manifest, fates = coordinator.plan.manifest, counts.fates
    plan = {"plan": coordinator.plan_id.hex()[:8]}
    quant = manifest.quantisation

    def gauge(name: str, help: str, value: float | None) -> Family:
        return Family(name, "gauge", help, [] if value is None else [Sample(value, plan)])

    def counters(name: str, help: str, label: str, values: Iterable[tuple[str, float]]) -> Family:
        return Family(name, "counter", help, [Sample(value, {**plan, label: key}) for key, value in values])

    accepted = Sample(sum(fates.values()), plan)
    yield Family("tacit_updates_accepted_total", "counter", "Updates that got a receipt.", [accepted])
    over = [("opened", Fate.APPLIED), ("expired", Fate.EXPIRED), ("spoilt", Fate.SPOILT), ("refused", Fate.REFUSED)]
    yield counters(
        "tacit_updates_over_total",
        "Accepted Updates, by what became of them: opened in a sum, expired, spoilt with a void batch, or refused by "
        "a keyholder.",
        "outcome",
        ((outcome, fates.get(fate, 0)) for outcome, fate in over),
    )
    yield counters(
        "tacit_refusals_total",
        "Updates that were refused, by code.",
        "code",
        ((code.value, count) for code, count in counts.refused.items()),
    )
    payload = packed_size(manifest.words, quant.bits)
    yield Family(
        "tacit_updates_repeated_total", "counter", "Updates that came again.", [Sample(status.updates.repeated, plan)]
    )
    yield Family(
        "tacit_places_abandoned_total",
        "counter",
        "Places whose time was over before an Update came.",
        [Sample(status.updates.abandoned, plan)],
    )
    yield gauge("tacit_places_held", "Devices at work, where the Plan gives places.", status.batch.working)
    yield gauge("tacit_places_limit", "How many may be at work, where the Plan gives places.", status.batch.places)
    yield gauge("tacit_opening_rate", "Updates that can be opened in a second, by the last batches.", pace)
    yield gauge("tacit_running", "1 unless an operator has paused or drained the Plan.", orders.going is Going.RUNNING)
    waiting = fates.get(Fate.QUEUED, 0) + fates.get(Fate.IN, 0)
    room = manifest.batch.most * (manifest.batch.max_age + 1)
    yield gauge("tacit_updates_queued", "Updates that wait for a batch.", fates.get(Fate.QUEUED, 0))
    yield gauge("tacit_queue_full_ratio", "The queue, as a part of what it takes.", fates.get(Fate.QUEUED, 0) / room)
    yield gauge(
        "tacit_payload_bytes",
        "Payloads that are kept until they are opened.",
        waiting * payload,
    )
    yield gauge("tacit_batch_number", "The batch that is being made.", status.batch.t)
    yield gauge("tacit_batch_limit", "How many batches the Plan has.", manifest.noise.snapshots)
    yield gauge("tacit_batch_fill", "Updates in the batch, or waiting for it.", status.batch.fill)
    yield gauge("tacit_batch_target", "Updates at which a batch closes.", manifest.batch.target)
    yield gauge("tacit_batch_threshold", "Updates below which nothing is opened.", manifest.batch.threshold)
    yield gauge("tacit_batch_age_seconds", "Since when the batch that is not opened collects.", age(batch, now))
    yield gauge("tacit_batch_deadline_seconds", "When it closes with fewer.", coordinator.deadline_s)
    yield Family(
        "tacit_batch_state",
        "gauge",
        "1 for the state that the batch is in.",
        [Sample(status.batch.state == state, {**plan, "state": state}) for state in STATES],
    )
    yield gauge("tacit_snapshot_version", "The newest Snapshot with a HEAD.", status.version)
    if (checks := status.checks) is not None:
        yield gauge("tacit_snapshot_published", "The Snapshot that people get.", checks.published)
        rollbacks = Sample(checks.rollbacks, plan)
        yield Family("tacit_rollbacks_total", "counter", "How often training went back.", [rollbacks])
        held = {alarm.code for alarm in checks.alarms}
        alarms = [Sample(code in held, {**plan, "code": code}) for code in RULES]
        yield Family("tacit_alarm", "gauge", "1 for each alarm of the runbook that holds.", alarms)
    spent = status.privacy.epsilon
    yield gauge("tacit_epsilon_spent", "By the device that landed most often.", inf if spent is None else spent)
    yield gauge(
        "tacit_epsilon_limit", "What the Plan comes to for a device at most.", promise(coordinator.plan).epsilon
    )
    yield gauge("tacit_landings_most", "Updates in opened batches, of the device with most.", counts.most_landings)
    yield gauge("tacit_plan_expires_seconds", "When the Plan ends, in Unix time.", manifest.limits.expires_at)
    yield gauge("tacit_lease_held", "1 where this process opens batches.", _leads(coordinator))
    yield Family(
        "tacit_keyholder_trouble",
        "gauge",
        "1 where a keyholder does not serve, by its number in the Plan.",
        [Sample(j in troubles, {**plan, "keyholder": str(j)}) for j in range(1, len(manifest.keyholders) + 1)],
    )


def _leads(coordinator: "Coordinator") -> bool:
    return coordinator.opener is not None and coordinator.opener.leads
