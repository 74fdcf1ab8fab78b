"""What an owner can say to `tacit join`: read once, passed as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tacit.privacy.trust import Trust

MIB = 2**20


@dataclass(frozen=True)
class Wishes:
    """What the owner asks for; by default nothing but a battery that is not nearly empty.

    `hours` are those of the local day in which work may be done: (22, 6) is the night.
    """

    least_battery: float = 0.2
    only_charging: bool = False
    least_idle_seconds: float = 0.0
    avoid_metered: bool = True
    hours: tuple[int, int] = (0, 24)


@dataclass(frozen=True)
class JoinSettings:
    """One device in one Plan.

    once         end after one accepted Update
    pace         seconds to wait after every minibatch, to be slow on purpose
    poll         seconds between two looks at the coordinator
    allow_mu2    what this device may spend in its life, where the owner allows another amount than
                 `tacit.device.ledger.MU2_DEVICE_MAX`
    memory       the most bytes training may take, storage the most that prefix results may take on disk
    validation   the share of the examples that is held back, to see what a Snapshot is worth here
    jitter       an Update leaves after a random wait of up to so many seconds
    operators    signing key to name, for every keyholder whose operator the owner holds for independent
    accept_trust the least that its keyholders must be worth by that directory, where a Plan claims more
    group        what this device says it is, where an evaluation measures groups; it leaves in a masked sum alone
    invitation   where enrolment asks for one, and the link has none
    authority    a file of certificates that stand for the coordinator's, in place of the system's
    """

    link: str
    data: Path
    home: Path
    once: bool = False
    pace: float = 0.0
    poll: float = 5.0
    allow_mu2: float | None = None
    memory: int = 512 * MIB
    storage: int = 64 * MIB
    validation: float = 0.1
    jitter: float = 0.0
    wishes: Wishes = Wishes()
    operators: Mapping[bytes, str] = field(default_factory=dict[bytes, str])
    accept_trust: Trust | None = None
    invitation: str = ""
    authority: Path | None = None
    group: str = ""
