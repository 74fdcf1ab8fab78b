"""The manifest: everything a Plan says, as signed data.

Its bytes are JSON in one canonical form (what `encode` writes); they are hashed and signed as written,
and `plan_id` is their SHA-256. A key that is unknown, missing or doubled makes the Plan unreadable.
Integers stay below 2**53, so every language reads them exactly. Byte strings are base64. Numbers are written in
the shortest form that reads back: a reader in another language checks for unknown, missing and doubled keys
instead of writing the bytes again.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tacit.plan.layout import Count
from tacit.plan.program import Program
from tacit.plan.server import Server
from tacit.privacy.blt import Blt, squared_sensitivities
from tacit.privacy.gate import bits_needed, deviation, longest, tail
from tacit.privacy.trust import Trust

FORMAT = 5

# Floats that are far from where arithmetic with them could overflow or vanish.
Positive = Annotated[float, Meta(gt=1e-12, lt=1e18)]


Unit = Literal["device", "patient", "record"]
Rotation = Literal["none", "hadamard/1"]


class KeyholderCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to reach one keyholder and seal to it. `key_id` names this pair of keys, `operator` who runs it by its own
    word: whom a device holds for independent stands in that device's directory and nowhere else."""

    sig_pk: bytes
    hpke_pk: bytes
    key_id: bytes
    url: str
    operator: str = ""


class Charter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an owner and each keyholder's operator agree to, once per Task. Plans inside it need no further word.

    `mu2_total` is for one device and all Plans together. Where it names `classes`, every Plan is of one of them and a
    device takes part in the Plans of one.
    """

    title: str
    purpose: str
    data_sources: tuple[str, ...]
    author: bytes
    keyholders: tuple[bytes, ...]  # their signing keys
    most_plans: Count
    mu2_total: Positive
    unit: Unit
    expires_at: Count  # seconds since 1970
    classes: tuple[str, ...] = ()
    # So many devices in a hundred judge Snapshots and never train (docs/explanation/evaluation.md).
    evaluators: Annotated[int, Meta(ge=0, le=50)] = 0


class Continues(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which Plan this one follows, and the Snapshot of it that this one starts from.

    `lineage` is the first Plan of the chain and `before` how many come before this one: so a newcomer knows both.
    """

    plan_id: bytes
    version: Count
    snapshot_hash: bytes
    lineage: bytes
    before: Count


class Quantisation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PROTOCOL 6.1: a delta of norm `clip` becomes integers with sum of squares at most `q` squared.

    With `rotation` a public rotation spreads the delta over its coordinates first, so that a smaller ring holds sums.
    """

    bits: Count
    q: Count
    q_in: Count
    clip: Positive
    rounding: Literal["stochastic-cond/1"] = "stochastic-cond/1"
    rotation: Rotation = "none"


class Alike(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="mean"):
    """Every group counts alike."""


class Median(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="median"):
    """The median of the groups, in each value by itself."""


class Trimmed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="trimmed"):
    """In each value the mean without so many of the largest and as many of the smallest."""

    cut: Count


class Geometric(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="geometric"):
    """The point whose distances to the groups' means sum to the least."""


class Bounded(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="bounded"):
    """The mean of what the groups say, each shortened to this length first, noise included."""

    length: Positive


Robust = Alike | Median | Trimmed | Geometric | Bounded


class Places(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many devices are at work on a Snapshot at once; after so many seconds another has a device's place."""

    selected: Count
    seconds: Count


class BatchRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which Updates may be opened together, and how many sums make one step of the Snapshot.

    Without `places` any device may start from any Snapshot. So many `groups` as that are opened one after the other,
    each a batch by itself; together they are a round, and their `robust` mean moves the Snapshot once.
    """

    target: Count  # a batch closes at this many
    most: Count  # and never holds more
    threshold: Count  # nor is opened with fewer
    max_age: Count  # an Update may start from a Snapshot this many versions old
    weights: tuple[Count, ...]  # by age, 0..max_age
    places: Places | None = None
    groups: Count = 1
    robust: Robust = Alike()

    @property
    def weight_most(self) -> int:
        return max(self.weights)


class Participation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device spends: at most `landings` Updates in the Plan's life, those in the Plans before it included."""

    landings: Count
    separation: Count = 1
    devices: Count = 0  # as many its author counts on
    cohort: Literal["train", "eval"] = "train"


class Plain(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="plain/1"):
    """Every sum gets noise of its own, independent of all others."""


class OnDevice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="local/1"):
    """Each site adds its noise itself, before anything leaves (PROTOCOL 9); keyholders add none.

    The summed gradient of each group (a patient's examples) is clipped to `clip`; every step's sum gets a Gaussian of
    standard deviation `sigma * sensitivity * clip`. A landing goes over all groups `passes` times.
    """

    group: str  # the field that says whose an example is; empty where each record counts for itself
    clip: Positive
    passes: Count


Mechanism = Plain | Blt | OnDevice


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PROTOCOL 8.2: noisy sketches by which an Update that is far too long is left out before a list is opened."""

    rows: Count
    z: Positive  # a landing costs mu² = 1/z²
    eta: Positive  # how much longer than in the mean a sketch of an honest Update may be, squared

    @property
    def delta(self) -> float:
        """What a landing adds to δ: that the sketch of an Update is longer than its noise was made for."""
        return tail(self.rows, self.eta)

    def deviation(self, big_q: int) -> float:
        """s: the standard deviation of one keyholder's noise in one row of a sketch, in steps of the ring."""
        return deviation(self.rows, self.z, self.eta, big_q)

    def bits(self, big_q: int, keyholders: int) -> int:
        """How many bits a ring must have for sketches and all their noise."""
        return bits_needed(self.deviation(big_q), keyholders, longest(self.rows, self.eta, big_q))


class Noise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every keyholder adds to every sum, and what that is worth.

    One sum gets rounded Gaussians that come from `sigma * sensitivity * W * Q` a coordinate (as they are, or
    correlated over sums); over the Plan's life a device is then protected with mu = 1/sigma (Gaussian differential
    privacy), and what the gate costs comes on top.
    `mu2_total` is what a device has spent at most when the Plan is over, in the Plans before it too.
    """

    mechanism: Mechanism
    sigma: Positive
    sensitivity: Positive  # S_C: sqrt(landings) for plain/1, sqrt(landings * passes) for local/1
    snapshots: Count  # most batches ever opened
    mu2_total: Positive
    delta: Positive
    unit: Unit = "device"
    gate: Gate | None = None


class Evaluation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device of the evaluation cohort says of a Snapshot; nothing is trained. `tacit.plan.evaluated` says how.

    Then a Snapshot has the values that are judged, and behind them what was said, in the mean, of the one before it.
    """

    of: bytes  # the lineage of the Plans whose Snapshots are judged
    most_loss: Positive  # an example's loss counts as no more than this
    right: bool  # whether an example is right or wrong
    bins: Annotated[int, Meta(ge=0, le=30)]  # of confidence; none where the model does not choose one class
    groups: tuple[str, ...] = ()  # of devices, by their owners' word: each is also measured by itself
    counts: Annotated[int, Meta(ge=0, le=30)] = 0  # of how many examples a device has: 1, 2 to 3, 4 to 7, ...

    @property
    def values(self) -> int:
        """How many numbers are said.

        >>> Evaluation(bytes(32), 4.6, right=True, bins=10).values
        23
        >>> Evaluation(bytes(32), 4.6, right=True, bins=0, groups=("phone", "laptop"), counts=12).values
        21
        """
        return 2 + self.right + 2 * self.bins + len(self.groups) * (2 + self.right) + self.counts


@lru_cache(maxsize=64)  # whoever simulates a fleet asks for every device
def squares(noise: Noise, part: Participation) -> tuple[float, ...]:
    """S_C² after 0, 1, ... landings of one device, worst case.

    >>> squares(Noise(Plain(), 1.3, 2.0, 2000, 0.6, 1e-7), Participation(4))
    (0.0, 1.0, 2.0, 3.0, 4.0)
    """
    match noise.mechanism:
        case Blt() as blt:
            return squared_sensitivities(blt, part.landings, part.separation, noise.snapshots)
        case Plain():
            return tuple(float(count) for count in range(part.landings + 1))
        case OnDevice(passes=passes):
            return tuple(float(count * passes) for count in range(part.landings + 1))


def gate_cost(noise: Noise, landings: int) -> float:
    """The mu² of so many landings' sketches."""
    return 0.0 if noise.gate is None else landings / noise.gate.z**2


def whole_delta(noise: Noise, part: Participation) -> float:
    """δ with the gate's share for all landings of a device."""
    return noise.delta + (0.0 if noise.gate is None else part.landings * noise.gate.delta)


class LocalTraining(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one visit does: `epochs` passes in minibatches of `minibatch`, each split into micro-batches.

    With `whole` a pass leaves out its last examples where they do not fill a minibatch. With `variance_weight` the
    delta is shortened before it is clipped, by what of the gradient is noise between minibatches.
    """

    epochs: Count
    minibatch: Count
    balance: bool = False
    whole: bool = False
    variance_weight: bool = False


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device grants this Plan at most; it refuses a Plan that asks for more than its owner allows."""

    max_upload_bytes: Count
    max_memory: Count
    max_seconds: Count
    expires_at: Count


class Blob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stretch of the bundle behind the manifest, 64-byte aligned, in the order of the list."""

    name: str
    size: Count
    sha256: bytes


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Count
    title: str
    charter_id: bytes
    created_at: Count
    program: Program
    local: LocalTraining
    server: Server
    quantisation: Quantisation
    batch: BatchRule
    participation: Participation
    noise: Noise
    keyholders: tuple[KeyholderCard, ...]
    enrolment: bytes  # the enrolment authority's signing key
    coordinator: bytes  # the coordinator's signing key
    limits: Limits
    blobs: tuple[Blob, ...]
    continues: Continues | None = None
    device_class: str = ""
    trust: Trust = Trust.SINGLE_OPERATOR  # what its author says of it; a device works out its own and takes no more
    evaluation: Evaluation | None = None

    @property
    def values(self) -> int:
        """How many numbers a visit comes to."""
        return self.program.d if self.evaluation is None else self.evaluation.values

    @property
    def words(self) -> int:
        """How many words of the ring an Update has."""
        return self.values

    @property
    def snapshot_bytes(self) -> int:
        """What a Snapshot takes: the trained values, and in an evaluation what was said of those before."""
        return 4 * (self.program.d + (0 if self.evaluation is None else self.evaluation.values))

    def divisor(self, weights: Sequence[int]) -> int:
        """What a sum of Updates with these weights is divided by: their own sum where its noise stands by itself.

        Correlated noises take each other back only where every sum is divided by the same number. There it is that of
        a full batch of all ages alike, and a batch that is not full moves the Snapshot less.
        """
        if isinstance(self.noise.mechanism, Blt):
            return round(self.batch.target * sum(self.batch.weights) / len(self.batch.weights))
        return sum(weights)

    @property
    def squared_sensitivities(self) -> tuple[float, ...]:
        """S_C² after 0, 1, ... `landings` landings in this Plan, worst case."""
        return squares(self.noise, self.participation)

    def spent(self, landings: int) -> float:
        """The mu² that so many landings in this Plan have cost a device."""
        noise = self.noise
        summed = self.squared_sensitivities[landings] / (noise.sensitivity * noise.sigma) ** 2
        return summed + gate_cost(noise, landings)

    def debit(self, landing: int) -> float:
        """The mu² that landing number `landing` (from 1) in this Plan costs."""
        return self.spent(landing) - self.spent(landing - 1)

    @property
    def delta(self) -> float:
        """The δ that belongs to every ε of this Plan."""
        return whole_delta(self.noise, self.participation)

    @property
    def mu2_life(self) -> float:
        """The mu² that a device has spent at most when this Plan is over, since the first Plan of its chain."""
        return self.spent(self.participation.landings) if self.continues is None else self.noise.mu2_total


def encode(value: Manifest | Charter) -> bytes:
    """The canonical bytes."""
    return msgspec.json.encode(value)
