"""From a verified HEAD to an Update in the outbox: one visit, its delta, its debit.

The engine, the prefix's results and the examples are got ready at the first visit and kept for all later
ones; a device that only has something to deliver never loads them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.codec.errors import NotFinite
from tacit.device import events
from tacit.device.client import Client
from tacit.device.decision import debit_of, next_ok_version
from tacit.device.events import Event
from tacit.device.examples import Examples
from tacit.device.joining import Membership, current_credential
from tacit.device.kept import load_kept, save_kept
from tacit.device.ledger import Ledger
from tacit.device.participation import Debited, Debt, Offered, Trained, debited, trained
from tacit.device.settings import JoinSettings
from tacit.device.update import make_update
from tacit.device.visit import Diverged, Rows, Stopped, minibatches, train
from tacit.device.world import AskedToStop, World
from tacit.engine.player import Player
from tacit.errors import TacitError
from tacit.faults import crash_point
from tacit.plan.bundle import decode_snapshot
from tacit.wire.ids import Digest
from tacit.wire.messages import Credential, Head, encode, update_hash


class UpdateTooLarge(TacitError):
    """The Update is larger than its Plan says it may be; nothing was sent or spent."""


@dataclass(frozen=True)
class Dropped:
    """The visit came to nothing, and would again from the same Snapshot where `for_good`."""

    version: int
    reason: str
    for_good: bool


class Trainer:
    """Makes Updates for one Membership."""

    def __init__(
        self,
        member: Membership,
        training: Examples,
        validation: Examples,
        settings: JoinSettings,
        ledger: Ledger,
        client: Client,
        report: Callable[[Event], None],
        world: World,
    ):
        self._member, self._settings = member, settings
        self._validation, self._labels, self._count = validation, training.labels, len(training)
        self._ledger, self._client, self._report, self._world = ledger, client, report, world
        self._player = Player(member.plan.playable())
        self._rows = self._prepared(training)

    def visit(self, head: Head, head_hash: Digest, newest: Callable[[], int]) -> Debited | Dropped:
        """Trains from the Snapshot of `head` and puts the Update into the outbox, paid for.

        `newest` is asked after training: an Update that no batch would take any more is not made.
        """
        manifest, version = self._member.manifest, head.version
        # Asked for first: work that could not be signed for would be work for nothing.
        credential = current_credential(
            self._member, self._ledger, self._client, self._settings.invitation, self._world.now()
        )
        d = manifest.program.d
        snapshot = decode_snapshot(self._client.snapshot(head.snapshot_hash, 4 * d), d)
        offered = self._ledger.offer(self._member.plan_id, version, head_hash, self._world.second())
        try:
            outcome = self._trained(offered, snapshot)
            if isinstance(outcome, Dropped):
                self._ledger.drop(offered)
                return outcome
            after, delta = outcome
            latest = newest()
            if latest > version + manifest.batch.max_age or latest >= manifest.noise.snapshots:
                self._ledger.drop(after)
                return Dropped(version, f"Snapshot {latest} is out and no batch takes one this old", False)
            return self._made(after, delta, credential)
        except BaseException:
            # Before the debit there is nothing to lose; after it the ledger keeps what is owed.
            self._ledger.drop(offered)
            raise

    def _trained(
        self, offered: Offered, snapshot: NDArray[np.float32]
    ) -> tuple[Trained, NDArray[np.float32]] | Dropped:
        manifest, version, world = self._member.manifest, offered.offer.version, self._world
        correct = 0
        if len(self._validation):
            self._player.load(snapshot)
            _, correct, _ = self._player.evaluate(self._validation.inputs, self._validation.labels)
        steps = len(minibatches(self._count, manifest.local, version, b""))
        self._report(events.Training(version, self._count, steps))
        begin, paused, limit = world.monotonic(), 0.0, manifest.limits.max_seconds

        def worked() -> float:
            return world.monotonic() - begin - paused

        def pause() -> None:
            nonlocal paused
            before = world.monotonic()
            world.wait(self._settings.pace)
            paused += world.monotonic() - before

        outcome = train(
            self._player,
            self._rows,
            self._labels,
            manifest,
            snapshot,
            version,
            self._member.order_secret,
            lambda: world.should_stop() or worked() > limit,
            pause,
        )
        if isinstance(outcome, Stopped):
            if world.should_stop():
                raise AskedToStop
            return Dropped(version, f"training took more than the {limit} s of this Plan", True)
        if isinstance(outcome, Diverged):
            return Dropped(version, outcome.reason, True)
        after = trained(offered)
        self._ledger.move(after, world.second())
        held = len(self._validation)
        self._report(events.Trained(version, worked(), outcome.first_loss, outcome.last_loss, correct, held))
        crash_point("device.trained")
        return after, outcome.delta

    def _made(self, state: Trained, delta: NDArray[np.float32], credential: Credential) -> Debited | Dropped:
        manifest, version = self._member.manifest, state.offer.version
        try:
            made = make_update(
                delta,
                manifest=manifest,
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
        data, most = encode(made.upload), manifest.limits.max_upload_bytes
        if len(data) > most:
            raise UpdateTooLarge(
                f"an Update of this Plan has {len(data):,} bytes and the Plan allows {most:,}; nothing was sent "
                "or spent. Tell the Plan's author"
            )
        second = self._world.second()
        debt = Debt(
            update_id=made.upload.update_id,
            update_hash=update_hash(made.upload),
            integers_hash=made.integers_hash,
            mu2=debit_of(manifest),
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
        if not tensors:
            return training.inputs
        plan_id, digest = self._member.plan_id, training.digest()
        found = load_kept(home, plan_id, digest, tensors, len(training))
        rows = found if found is not None else self._player.keep(training.inputs)
        if rows is None:
            return training.inputs
        size = sum(one.nbytes for one in rows)
        self._report(events.Prepared(len(training), size, reused=found is not None))
        if found is None and save_kept(home, plan_id, digest, rows, self._settings.storage):
            # Mapped from the disk, the results need no memory while nothing is trained.
            return load_kept(home, plan_id, digest, tensors, len(training)) or rows
        return rows
