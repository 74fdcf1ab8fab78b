"""The engine within the owner's limits: what a Plan takes is measured here, whatever its manifest claims."""

from tacit.device.settings import JoinSettings
from tacit.engine.player import Player
from tacit.engine.tape import MOST
from tacit.errors import InputError
from tacit.plan.bundle import Plan

# No play can be stopped half-way, so none may cost more than a fast device does in the Plan's whole
# `max_seconds`: 100 billion operations a second, and as many bytes moved. On a slow device one play may then
# still take minutes; what these shut out is a tape that never ends.
MOST_RATE = 10**11


class PlanMisstated(InputError):
    """Training takes another amount of memory than the Plan says; nothing was run."""

    def __init__(self, plan: str, claimed: int, taken: int):
        self.claimed, self.taken = claimed, taken
        super().__init__(
            f"Plan {plan} says that training takes {claimed:,} bytes and it takes {taken:,}; nothing was run. "
            "Tell its author"
        )


def player_of(plan: Plan, settings: JoinSettings) -> Player:
    """The Plan's tapes, verified and ready. InputError for a Plan that takes more than is allowed or claimed.

    `settings.memory` is compared with all that is allocated, for the prefix and the evaluation too. The
    frozen weights are not in that: they are mapped from the Plan's file and can be dropped at any time.
    """
    manifest = plan.manifest
    most = min(MOST, MOST_RATE * manifest.limits.max_seconds)
    player = Player(plan.playable(), most_operations=most, most_bytes=most, most_memory=settings.memory)
    claimed = manifest.program.resources.training_bytes
    if player.training_bytes != claimed:
        raise PlanMisstated(plan.name, claimed, player.training_bytes)
    return player
