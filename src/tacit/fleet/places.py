"""Places in memory: the coordinator's own rule about who may be at work on a Snapshot, without its table."""

from dataclasses import dataclass, field

import msgspec

from tacit.coordinator.places import Held
from tacit.plan.manifest import Places as Rule


class Given(msgspec.Struct):
    """A place on a Snapshot: until when it is held; None once its Update has come."""

    version: int
    device: int
    until: float | None


@dataclass
class Places:
    """Those of one Plan."""

    rule: Rule
    given: dict[int, dict[int, float | None]] = field(default_factory=dict[int, dict[int, float | None]])

    def held(self, version: int, device: int, now: float) -> Held:
        """What stands between an Update of this device and the queue."""
        here = self.given.get(version, {})
        own = here.get(device)
        used = sum(until is None for until in here.values())
        others = [until for one, until in here.items() if until is not None and one != device and until > now]
        free_in = max(1, round(min(others) - now)) if others else None
        return Held(own is not None and own > now, used + len(others), free_in)

    def give(self, version: int, device: int, now: float) -> float | None:
        """Until when the device has its place; None where it has none, or has had it."""
        here = self.given.setdefault(version, {})
        if device in here or not self.held(version, device, now).is_free(self.rule.selected):
            return None
        here[device] = now + self.rule.seconds
        return here[device]

    def is_free(self, version: int, now: float) -> bool:
        """Whether anybody may begin."""
        return self.held(version, -1, now).is_free(self.rule.selected)

    def use(self, version: int, device: int) -> None:
        self.given.setdefault(version, {})[device] = None

    def forget(self, oldest: int) -> None:
        """Places for Snapshots that no batch takes Updates of any more."""
        for version in [one for one in self.given if one < oldest]:
            del self.given[version]

    def saved(self) -> list[Given]:
        return [Given(v, device, until) for v, here in self.given.items() for device, until in here.items()]

    def restore(self, saved: list[Given]) -> None:
        self.given.clear()
        for one in saved:
            self.given.setdefault(one.version, {})[one.device] = one.until
