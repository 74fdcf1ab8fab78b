"""The twelve devices of the demo: how fast each is, and what befalls it."""

from dataclasses import dataclass
from enum import StrEnum


class Mishap(StrEnum):
    """What happens to a device in the middle of the run."""

    NONE = ""
    KILLED = "killed with -9, restarted"
    AWAY = "goes away, returns"


@dataclass(frozen=True)
class Role:
    """One device. `visit_seconds` is how long it takes for one visit, as a slower machine would."""

    name: str
    speed: str
    visit_seconds: float
    mishap: Mishap = Mishap.NONE


def cast(devices: int) -> tuple[Role, ...]:
    """Three speeds and a straggler; the fourth device is killed, the seventh goes away for a while.

    >>> [role.speed for role in cast(12)].count("straggler")
    1
    """
    fast, medium = round(devices * 5 / 12), round(devices * 9 / 12)
    roles: list[Role] = []
    for i in range(devices):
        speed, seconds = ("fast", 1.0) if i < fast else ("medium", 1.6) if i < medium else ("slow", 2.4)
        if i == devices - 1:
            speed, seconds = "straggler", 4.0
        mishap = Mishap.KILLED if i == min(3, devices - 2) else Mishap.AWAY if i == min(6, devices - 3) else Mishap.NONE
        roles.append(Role(f"device-{i:02d}", speed, seconds, mishap))
    return tuple(roles)
