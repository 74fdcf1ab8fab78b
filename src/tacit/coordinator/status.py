"""How a Plan is doing, as a value: what the status route answers and the command line prints."""

from collections.abc import Sequence
from math import isfinite

import msgspec

from tacit.coordinator.batch import Agreed, Batch, Closed, Collecting, Ended, Fate, Opened, Sketching, batch_number
from tacit.coordinator.published import Verdict
from tacit.coordinator.store import Counts
from tacit.plan.bundle import Plan
from tacit.plan.claim import claim
from tacit.privacy.account import Statement
from tacit.privacy.trust import Trust, sentence, trust_of


class Updates(msgspec.Struct, frozen=True):
    """How many Updates were accepted, what became of them, and how many were refused, by code.

    Late ones are refused with E_STALE, replayed ids with E_DUP_ID. `repeated`: the same Update again, which got the
    same receipt. `abandoned`: places whose time was over before an Update came.
    """

    accepted: int
    queued: int
    opened: int
    expired: int
    spoilt: int
    refused: dict[str, int]
    repeated: int = 0
    abandoned: int = 0


class BatchStatus(msgspec.Struct, frozen=True):
    """The current batch: `fill` Updates are in it or wait for it."""

    t: int
    state: str
    fill: int
    target: int
    threshold: int
    closes_at: int | None  # seconds of Unix time, if the threshold is met by then
    most_batches: int
    working: int | None = None  # places that are held, where the Plan gives some
    places: int | None = None  # and how many there are


class Privacy(msgspec.Struct, frozen=True):
    """What was spent so far, by the device that has landed most often. `epsilon` is null where it is infinite.

    `sentence` says so itself: a reader must not take it for what the whole Plan may come to.
    """

    epsilon: float | None
    delta: float
    mu: float
    unit: str
    relation: str
    trust: str
    trust_sentence: str
    trust_claimed: str  # by the Plan's author; a device counts it only as far as its own directory bears it out
    sentence: str
    most_landings: int
    landings_allowed: int


class KeyholderStatus(msgspec.Struct, frozen=True):
    """`trouble` says why it does not serve at the moment; null where it does."""

    key_id: str
    url: str
    trouble: str | None


class Raised(msgspec.Struct, frozen=True):
    """An alarm that holds, since a second of Unix time; `runbook` says where it stands what to do."""

    code: str
    since: int
    sentence: str
    runbook: str


class Checks(msgspec.Struct, frozen=True):
    """Which Snapshot people get, and what is known of it. `by` is `off` where nothing checks: then it is the newest."""

    by: str
    published: int | None
    judged: int  # the newest version that was judged; -1 for none
    newest: Verdict | None
    best: Verdict | None
    rollbacks: int
    back_to: int | None  # training is about to go back to this version
    ahead: int  # versions that nobody has judged yet
    alarms: list[Raised]


class Status(msgspec.Struct, frozen=True):
    """Everything in one look. `version` is null until HEAD 0 is signed; `ended` says why nothing more is opened."""

    plan_id: str
    title: str
    version: int | None
    updates: Updates
    batch: BatchStatus
    privacy: Privacy
    keyholders: list[KeyholderStatus]
    ended: str | None
    ended_code: str | None
    continues: str | None = None  # the Plan before this one, and the one that follows it
    succeeded_by: str | None = None
    checks: Checks | None = None


def status_of(
    plan: Plan,
    batch: Batch,
    counts: Counts,
    version: int | None,
    deadline_s: int | None,
    urls: Sequence[str],
    troubles: Sequence[str | None],
    successor: Plan | None = None,
    checks: Checks | None = None,
) -> Status:
    """The status that these numbers are."""
    fates, manifest = counts.fates, plan.manifest
    match batch:
        case Closed(members=members) | Sketching(members=members) | Agreed(members=members) | Opened(members=members):
            fill = len(members)
        case _:
            fill = fates.get(Fate.QUEUED, 0)
    refused = {code.value: count for code, count in counts.refused.items()}
    return Status(
        plan_id=plan.plan_id.hex(),
        title=manifest.title,
        version=version,
        updates=Updates(
            accepted=sum(fates.values()),
            queued=fates.get(Fate.QUEUED, 0) + fates.get(Fate.IN, 0),
            opened=fates.get(Fate.APPLIED, 0),
            expired=fates.get(Fate.EXPIRED, 0),
            spoilt=fates.get(Fate.SPOILT, 0),
            refused=refused,
            repeated=counts.repeated,
            abandoned=counts.abandoned,
        ),
        batch=BatchStatus(
            t=batch_number(batch),
            state=type(batch).__name__.lower(),
            fill=fill,
            target=manifest.batch.target,
            threshold=manifest.batch.threshold,
            closes_at=batch.since + deadline_s if isinstance(batch, Collecting) and deadline_s is not None else None,
            most_batches=manifest.noise.snapshots,
            working=None if manifest.batch.places is None else counts.working,
            places=None if manifest.batch.places is None else manifest.batch.places.selected,
        ),
        privacy=_privacy(spent(plan, counts.most_mu2), plan, counts.most_landings),
        keyholders=[
            KeyholderStatus(card.key_id.hex(), url, trouble)
            for card, url, trouble in zip(manifest.keyholders, urls, troubles, strict=True)
        ],
        ended=batch.reason if isinstance(batch, Ended) else None,
        ended_code=batch.code.value if isinstance(batch, Ended) else None,
        continues=None if manifest.continues is None else manifest.continues.plan_id.hex(),
        succeeded_by=None if successor is None else successor.plan_id.hex(),
        checks=checks,
    )


def spent(plan: Plan, mu2: float) -> Statement:
    """What one device has spent, against one keyholder's noise.

    The coordinator knows no operator directory, so it can vouch for nobody: its trust is single-operator.
    Who is independent is for each device to say.
    """
    return claim(plan.manifest, mu2, _trust(plan))


def promise(plan: Plan) -> Statement:
    """What the Plan, with those before it, costs a device at most in its whole life, against one keyholder's noise."""
    return claim(plan.manifest, plan.manifest.mu2_life, _trust(plan))


def _trust(plan: Plan) -> Trust:
    return trust_of([card.sig_pk for card in plan.manifest.keyholders], {})


def _privacy(said: Statement, plan: Plan, landings: int) -> Privacy:
    return Privacy(
        epsilon=said.epsilon if isfinite(said.epsilon) else None,
        delta=said.delta,
        mu=said.mu,
        unit=said.unit,
        relation=said.relation,
        trust=said.trust.value,
        trust_sentence=sentence(said.trust),
        trust_claimed=plan.manifest.trust.value,
        sentence=f"Spent so far, by the device that landed most often: {said.sentence}",
        most_landings=landings,
        landings_allowed=plan.manifest.participation.landings,
    )
