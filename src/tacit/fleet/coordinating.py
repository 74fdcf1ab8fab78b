"""The coordinator of a run: the production states, steps, weights and rules, over memory instead of a store."""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from tacit.coordinator.applying import SumBroken, apply_mean, bounded_mean, round_mean
from tacit.coordinator.batch import (
    Agreed,
    Applied,
    Batch,
    Closed,
    Collecting,
    Ended,
    Fate,
    Headed,
    Landing,
    Member,
    Opened,
    choose,
    on_clock,
    on_headed,
    on_opened,
    on_prepared,
    on_signed,
    on_summed,
    on_void,
    root_of,
)
from tacit.coordinator.intake import Standing, admit
from tacit.coordinator.optimizer import Memory, remembered
from tacit.coordinator.pace import come_again
from tacit.fleet.draws import device_of
from tacit.fleet.places import Given, Places
from tacit.plan.bundle import Plan, decode_snapshot
from tacit.wire.ids import DeviceKey, Digest, KeyId, PlanId, sha256
from tacit.wire.messages import OpenedMark

NOTHING = OpenedMark(key_id=KeyId(bytes(16)), masks_hash=Digest(bytes(32)), signature=bytes(64))


class Kept(msgspec.Struct):
    """A coordinator between two events."""

    batch: Batch
    queued: list[Member]
    snapshots: dict[int, bytes]
    newest: int
    memory: bytes | None
    places: list[Given]
    try_at: int


class Coordinator:
    """One Plan's. `landings` and `last` say of each device how often it landed, and in which batch last."""

    def __init__(
        self, plan: Plan, deadline: float, opening: float, landings: NDArray[np.uint16], last: NDArray[np.int32]
    ):
        self.plan, self.manifest = plan, plan.manifest
        self._deadline, self._opening = deadline, opening
        self._landings, self._last = landings, last
        self.batch: Batch = Collecting(0, 0)
        self.queued: list[Member] = []
        self.snapshots: dict[int, bytes] = {0: bytes(plan.initial_snapshot)}
        self.newest = 0
        self.memory: Memory | None = None
        rule = self.manifest.batch.places
        self.places = None if rule is None else Places(rule)
        self._try_at = 0  # so many Updates must wait before it is worth while to choose again

    def admit(self, member: Member, now: float, draw: float) -> None:
        """Puts an Update into the queue, or says by a Refusal why not; `draw` spreads who has to come again."""
        device = device_of(member.dpk)
        places = self.places
        standing = Standing(
            self.batch,
            self.newest,
            int(self._landings[device]),
            0,
            len(self.queued),
            come_again(len(self.queued), self.manifest.batch.target, self.pace, draw),
            None if places is None else places.held(member.base_version, device, now),
        )
        admit(member, standing, self.manifest)
        if places is not None:
            places.use(member.base_version, device)
        self.queued.append(member)

    @property
    def pace(self) -> float:
        """Updates that can be opened in a second."""
        return self.manifest.batch.target / max(self._opening, 1e-3)

    def chosen(self, now: float) -> tuple[Member, ...]:
        """Who would be in the batch if it closed now; nobody where it does not."""
        batch = self.batch
        if not isinstance(batch, Collecting):
            return ()
        rule = self.manifest.batch
        least = rule.threshold if now >= batch.since + self._deadline else rule.target
        if len(self.queued) < max(least, self._try_at):
            return ()
        landed = self._landed()
        chosen = choose(self.queued, landed, batch.t, self.manifest)
        if len(chosen) < least:
            self._try_at = len(self.queued) + least - len(chosen)
            return ()
        return chosen

    def again(self) -> None:
        """Something other than the queue's length has changed: choosing may come to something else."""
        self._try_at = 0

    def leave(self, gone: Sequence[Member]) -> None:
        """These wait no longer."""
        names = {member.update_id for member in gone}
        self.queued = [member for member in self.queued if member.update_id not in names]

    def close(self, chosen: Sequence[Member], now: float) -> Opened:
        """The list is fixed, and every keyholder has opened it: its devices have landed."""
        batch = self.batch
        assert isinstance(batch, Collecting), "a batch closes once"
        closing = on_clock(batch, chosen, int(now), 0, self.manifest)
        assert closing is not None and isinstance(closing.after, Closed), "there are enough"
        agreed = on_prepared(closing.after, {}, self.manifest).after
        self.leave(closing.after.members)
        for _ in self.manifest.keyholders:
            assert isinstance(agreed, Agreed), "this Plan has no gate"
            transition = on_opened(agreed, NOTHING, len(self.manifest.keyholders))
            agreed = transition.after
            for dpk in transition.landed:
                self._landings[device_of(dpk)] += 1
                self._last[device_of(dpk)] = batch.t
        assert isinstance(agreed, Opened), "all have opened it"
        self.batch = agreed
        return agreed

    def weights(self, batch: Opened) -> list[int]:
        """By the age of each member."""
        return [self.manifest.batch.weights[batch.t - member.base_version] for member in batch.members]

    def apply(
        self, batch: Opened, unmasked: NDArray[np.int64], after: Callable[[bytes, int], bytes]
    ) -> SumBroken | None:
        """The next Snapshot, by the Plan's rule; `after` may change it. A sum that cannot be makes the batch void."""
        before = self.snapshots[batch.t]
        try:
            mean = round_mean([bounded_mean(unmasked, self.weights(batch), self.manifest)], self.manifest)
            following = apply_mean(before, mean, self.manifest.server, self.memory)
        except SumBroken as broken:
            self.batch = on_void(batch, sha256(before)).after
            self.snapshots[batch.t + 1] = before
            return broken
        snapshot = after(following.snapshot, batch.t + 1)
        self.memory = following.memory
        self.batch = on_summed(batch, sha256(snapshot)).after
        self.snapshots[batch.t + 1] = snapshot
        return None

    def publish(self, now: float) -> list[Member]:
        """HEAD is signed, and the next batch begins, or the Plan ends. Who waited too long is told so."""
        batch = self.batch
        for _ in self.manifest.keyholders:
            assert isinstance(batch, Applied), "each signs once"
            batch = on_signed(batch, bytes(64), PlanId(self.plan.plan_id), len(self.manifest.keyholders)).after
        assert isinstance(batch, Headed), "all have signed"
        self.newest = batch.version
        transition = on_headed(batch, self.queued, int(now), self.manifest)
        self.batch = transition.after
        expired = {moved.update_id for moved in transition.moved if moved.fate is Fate.EXPIRED}
        gone = [member for member in self.queued if member.update_id in expired]
        self.leave(gone)
        self.again()
        if self.places is not None:
            self.places.forget(self.newest - self.manifest.batch.max_age)
        return gone

    def forget(self, needed: int) -> None:
        """Snapshots that nobody starts from any more."""
        for version in [one for one in self.snapshots if one < min(needed, self.newest)]:
            del self.snapshots[version]

    @property
    def is_over(self) -> bool:
        return isinstance(self.batch, Ended)

    @property
    def average(self) -> NDArray[np.float32] | None:
        """What is published beside the newest Snapshot."""
        memory = self.memory
        return memory.average.astype(np.float32) if memory is not None and memory.average.size else None

    def saved(self) -> Kept:
        return Kept(
            self.batch,
            self.queued,
            self.snapshots,
            self.newest,
            None if self.memory is None else self.memory.encode(),
            [] if self.places is None else self.places.saved(),
            self._try_at,
        )

    def restore(self, kept: Kept) -> None:
        self.batch, self.queued, self.snapshots, self.newest = kept.batch, kept.queued, kept.snapshots, kept.newest
        d = self.manifest.program.d
        self.memory = None if kept.memory is None else remembered(self.manifest.server, d, kept.memory)
        self._try_at = kept.try_at
        if self.places is not None:
            self.places.restore(kept.places)

    def values(self, version: int) -> NDArray[np.float32]:
        return decode_snapshot(self.snapshots[version], self.manifest.program.d)

    def _landed(self) -> dict[DeviceKey, Landing]:
        found: dict[DeviceKey, Landing] = {}
        for member in self.queued:
            device = device_of(member.dpk)
            if self._landings[device]:
                found[member.dpk] = Landing(int(self._landings[device]), int(self._last[device]))
        return found


def root(batch: Opened) -> Digest:
    """root(S), which the noise is bound to."""
    return root_of(batch.members)
