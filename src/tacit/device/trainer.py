"""From a verified HEAD to an Update in the outbox: one visit, its delta, its debit.

The prefix's results and the examples are got ready at the first visit and kept for all later ones; a device
that only has something to deliver never needs them. Whatever is played here, be it the prefix, the evaluation
or the training, is looked at between two micro-batches: for the Plan's seconds, and for the owner's wish to stop.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from tacit.codec.errors import NotFinite
from tacit.device import events
from tacit.device.client import Client, Refused, Unreachable
from tacit.device.decision import debit_of, next_ok_version
from tacit.device.events import Event
from tacit.device.examples import Examples
from tacit.device.held import hold, load_held
from tacit.device.joining import Membership, current_credential
from tacit.device.judging import judge
from tacit.device.kept import Kept, load_kept, save_kept
from tacit.device.ledger import Ledger
from tacit.device.participation import Debited, Debt, Offered, Trained, debited, trained
from tacit.device.settings import JoinSettings
from tacit.device.silo import train_groups
from tacit.device.update import make_update
from tacit.device.visit import Diverged, Rows, Stopped, minibatches, train
from tacit.device.world import AskedToStop, World
from tacit.engine.player import Player
from tacit.errors import InputError, TacitError
from tacit.faults import crash_point
from tacit.plan.bundle import decode_snapshot
from tacit.plan.cards import cards_at
from tacit.plan.manifest import OnDevice
from tacit.privacy.groups import members
from tacit.wire.ids import Digest
from tacit.wire.messages import Credential, Head, encode, update_hash
from tacit.wire.signed import sign_ask

ENOUGH = "enough devices have judged it"


class UpdateTooLarge(TacitError):
    """The Update is larger than its Plan says it may be; nothing was sent or spent."""


class PrefixTooSlow(InputError):
    """The frozen part of the model takes longer for these examples than a visit of this Plan may."""

    def __init__(self, plan: str, examples: int, limit: int):
        super().__init__(
            f"Plan {plan} allows {limit} s for one visit, and its frozen part alone takes this device longer for "
            f"{examples} examples; nothing was trained. Give fewer examples, or ask its author for more seconds"
        )


@dataclass(frozen=True)
class Dropped:
    """The visit came to nothing, and would again from the same Snapshot where `for_good`."""

    version: int
    reason: str
    for_good: bool


class _Watch:
    """The seconds that a Plan has worked here, without the waits that the owner asked for."""

    def __init__(self, world: World, limit: int):
        self._world, self._limit = world, limit
        self._began, self._paused = world.monotonic(), 0.0

    def worked(self) -> float:
        return self._world.monotonic() - self._began - self._paused

    def pause(self, seconds: float) -> None:
        before = self._world.monotonic()
        self._world.wait(seconds)
        self._paused += self._world.monotonic() - before

    def over(self) -> bool:
        """Whether the Plan's seconds are used up; AskedToStop if the owner wants an end."""
        if self._world.should_stop():
            raise AskedToStop
        return self.worked() > self._limit


class Trainer:
    """Makes Updates for one Membership."""

    def __init__(
        self,
        member: Membership,
        player: Player,
        training: Examples,
        validation: Examples,
        settings: JoinSettings,
        ledger: Ledger,
        client: Client,
        report: Callable[[Event], None],
        world: World,
    ):
        self._member, self._settings = member, settings
        self._validation, self._labels, self._weights = validation, training.labels, training.weights
        each = np.arange(len(training), dtype=np.int64) if training.groups is None else training.groups
        self._groups = members(each)
        self._ledger, self._client, self._report, self._world = ledger, client, report, world
        self._player = player
        self._judged = training if member.manifest.evaluation is not None else None
        self._rows = self._prepared(training)

    def visit(self, head: Head, head_hash: Digest, newest: Callable[[], int]) -> Debited | Dropped:
        """Trains from the Snapshot of `head` and puts the Update into the outbox, paid for.

        `newest` is asked after training: an Update that no batch would take any more is not made.
        """
        manifest, version = self._member.manifest, head.version
        if self._full(version):
            return Dropped(version, ENOUGH, True)
        # Asked for first: work that could not be signed for would be work for nothing.
        credential = current_credential(
            self._member, self._ledger, self._client, self._settings.invitation, self._world.now()
        )
        if manifest.batch.places is not None:
            # Without a place the work would be for a batch that is full; whoever has none is told when to ask again.
            self._client.place(sign_ask(self._member.key, self._member.plan_id, version, credential))
        d = manifest.program.d
        snapshot = decode_snapshot(self._fetched(head.snapshot_hash, manifest.snapshot_bytes)[: 4 * d], d)
        offered = self._ledger.offer(self._member.plan_id, version, head_hash, self._world.second())
        try:
            if isinstance(manifest.noise.mechanism, OnDevice):
                # Whatever becomes of a visit whose noise is drawn here, its groups have paid for it.
                debit = debit_of(manifest, self._ledger.standing(self._member.plan_id))
                self._ledger.pay(offered, debit, self._member.mu2_most)
            outcome = self._trained(offered, snapshot)
            if isinstance(outcome, Dropped):
                self._ledger.drop(offered)
                return outcome
            after, delta = outcome
            latest = newest()
            if latest > version + manifest.batch.max_age or latest >= manifest.noise.snapshots:
                self._ledger.drop(after)
                return Dropped(version, f"Snapshot {latest} is out and no batch takes one this old", False)
            if self._full(version):
                self._ledger.drop(after)
                return Dropped(version, ENOUGH, True)
            return self._made(after, delta, credential, head)
        except BaseException:
            # Before the debit there is nothing to lose; after it the ledger keeps what is owed.
            self._ledger.drop(offered)
            raise

    def _fetched(self, digest: Digest, size: int) -> bytes:
        """A Snapshot, as what it differs by from the one before where that can be: the Plan's own is the first."""
        home, plan_id = self._settings.home, self._member.plan_id
        held = load_held(home, plan_id) or bytes(self._member.plan.initial_snapshot)
        data = self._client.snapshot(digest, size, held)
        if data != held:
            hold(home, plan_id, data)
        return data

    def _full(self, version: int) -> bool:
        """Whether an answer about this Snapshot would be paid for and be too late: no other batch takes it."""
        if self._judged is None:
            return False
        try:
            return self._client.full(version)
        except (Refused, Unreachable):
            return False  # a mirror of the static files has no status

    def _trained(
        self, offered: Offered, snapshot: NDArray[np.float32]
    ) -> tuple[Trained, NDArray[np.float32]] | Dropped:
        manifest, version, world = self._member.manifest, offered.offer.version, self._world
        watch = _Watch(world, manifest.limits.max_seconds)
        too_slow = Dropped(version, f"it took more than the {manifest.limits.max_seconds} s of this Plan", True)
        if manifest.evaluation is not None and self._judged is not None:
            judgement = judge(
                self._player, self._judged, manifest.evaluation, snapshot, watch.over, self._settings.group
            )
            if isinstance(judgement, Stopped):
                return too_slow
            after = trained(offered)
            self._ledger.move(after, world.second())
            found = events.HeldBack(len(self._judged), judgement.loss, judgement.correct)
            self._report(events.Judged(version, watch.worked(), found))
            return after, judgement.said
        held = self._held_back(snapshot, watch)
        if held is None:
            return too_slow
        evaluated = watch.worked()
        on_device = isinstance(manifest.noise.mechanism, OnDevice)
        counted = len(self._groups) if on_device else len(self._labels)
        self._report(
            events.Training(version, len(self._labels), len(minibatches(counted, manifest.local, version, b"")))
        )
        order, pause = self._member.order_secret, lambda: watch.pause(self._settings.pace)
        if on_device:
            outcome = train_groups(
                self._player,
                self._rows,
                self._labels,
                self._groups,
                manifest,
                snapshot,
                version,
                order,
                world.random,
                watch.over,
                pause,
            )
        else:
            outcome = train(
                self._player,
                self._rows,
                self._labels,
                self._weights,
                manifest,
                snapshot,
                version,
                order,
                watch.over,
                pause,
            )
        if isinstance(outcome, Stopped):
            return too_slow
        if isinstance(outcome, Diverged):
            return Dropped(version, outcome.reason, True)
        after = trained(offered)
        self._ledger.move(after, world.second())
        seconds = watch.worked() - evaluated
        self._report(events.Trained(version, seconds, outcome.first_loss, outcome.last_loss, held))
        crash_point("device.trained")
        return after, outcome.delta

    def _held_back(self, snapshot: NDArray[np.float32], watch: _Watch) -> events.HeldBack | None:
        """What the Snapshot makes of the held-back examples; None if the Plan's seconds were over first."""
        held, size, loss, right = self._validation, self._player.microbatch, 0.0, 0.0
        self._player.load(snapshot)
        for start in range(0, len(held), size):
            if watch.over():
                return None
            part = {name: values[start : start + size] for name, values in held.inputs.items()}
            here = self._player.evaluate(part, held.labels[start : start + size])
            loss, right = loss + here[0], right + here[1]
        counted = self._member.manifest.program.score == "accuracy"
        return events.HeldBack(len(held), loss / max(1, len(held)), right if counted else None)

    def _made(
        self, state: Trained, delta: NDArray[np.float32], credential: Credential, head: Head
    ) -> Debited | Dropped:
        manifest, version = self._member.manifest, state.offer.version
        # Seals are for the cards that keyholders have at this version: one that lost its state has another.
        cards = cards_at(manifest, self._member.plan_id, head.rekeyed, version)
        try:
            upload = make_update(
                delta,
                manifest=msgspec.structs.replace(manifest, keyholders=cards),
                plan_id=self._member.plan_id,
                base_version=version,
                head_hash=state.offer.head_hash,
                key=self._member.key,
                hedge_key=self._member.hedge_key,
                credential=credential,
                random=self._world.random,
            )
        except NotFinite as error:
            self._ledger.drop(state)
            return Dropped(version, str(error), True)
        data, most = encode(upload), manifest.limits.max_upload_bytes
        if len(data) > most:
            raise UpdateTooLarge(
                f"an Update of this Plan has {len(data):,} bytes and the Plan allows {most:,}; nothing was sent "
                "or spent. Tell the Plan's author"
            )
        second = self._world.second()
        debt = Debt(
            update_id=upload.update_id,
            update_hash=update_hash(upload),
            mu2=debit_of(manifest, self._ledger.standing(self._member.plan_id)),
            next_ok_version=next_ok_version(manifest, version),
            size=len(data),
            made_at=second,
        )
        after = debited(state, debt)
        self._ledger.debit(after, data, second, self._member.mu2_most)
        crash_point("device.debited")
        return after

    def _prepared(self, training: Examples) -> Rows:
        """What every step starts from: the prefix's results where the Plan has a prefix, else the inputs."""
        tensors, home = self._member.manifest.program.kept, self._settings.home
        if not tensors or self._judged is not None:
            return training.inputs
        if len(training) * sum(tensor.example_bytes for tensor in tensors) > self._settings.memory:
            return training.inputs  # then the prefix is played anew at every step: slower, and within the limit
        plan_id, digest = self._member.plan_id, training.digest()
        found = load_kept(home, plan_id, digest, tensors, len(training))
        rows = found if found is not None else self._kept(training)
        size = sum(one.nbytes for one in rows)
        self._report(events.Prepared(len(training), size, reused=found is not None))
        if found is None and save_kept(home, plan_id, digest, rows, self._settings.storage):
            # Mapped from the disk, the results need no memory while nothing is trained.
            return load_kept(home, plan_id, digest, tensors, len(training)) or rows
        return rows

    def _kept(self, training: Examples) -> Kept:
        """The prefix's results, a row for each example. Once for a Plan, so it has a visit's seconds to itself."""
        manifest, size = self._member.manifest, self._player.microbatch
        watch = _Watch(self._world, manifest.limits.max_seconds)
        rows = [np.empty((len(training), tensor.example_bytes), np.uint8) for tensor in manifest.program.kept]
        for start in range(0, len(training), size):
            if watch.over():
                raise PrefixTooSlow(self._member.plan.name, len(training), manifest.limits.max_seconds)
            part = self._player.keep({name: values[start : start + size] for name, values in training.inputs.items()})
            assert part is not None, "a Plan that keeps results has a prefix tape, by its checks"
            for row, results in zip(rows, part, strict=True):
                row[start : start + size] = results
        return rows
