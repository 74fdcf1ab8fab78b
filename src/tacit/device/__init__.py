"""The device: trains, decides when, remembers, sends.

`run` is the whole of it; everything else here is what it takes and what it reports. Importing this room
loads neither the engine nor the cryptography; the first call does.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tacit.device.events import Ended, Event, line, record
from tacit.device.link import JoinLink, parse_link
from tacit.device.settings import JoinSettings, Wishes

if TYPE_CHECKING:
    from tacit.device.world import World

__all__ = ["Ended", "Event", "JoinLink", "JoinSettings", "Wishes", "line", "parse_link", "record", "run"]


def run(
    settings: JoinSettings,
    report: Callable[[Event], None],
    should_stop: Callable[[], bool] | None = None,
    world: "World | None" = None,
) -> Ended:
    """Joins a Plan and takes part in it until it is over; see `tacit.device.agent.run`."""
    from tacit.device import agent

    return agent.run(settings, report, should_stop, world)
