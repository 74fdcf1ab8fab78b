"""What an agent takes from outside besides the network, as one value that a test can replace."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from tacit.device.conditions import read_conditions
from tacit.device.decision import Clock, Conditions

SLICE_S = 0.2  # how long a wait goes on before it looks whether to stop


class AskedToStop(Exception):
    """The owner ended the agent while it waited or trained."""


@dataclass(frozen=True)
class World:
    """Time, randomness, the machine's condition, and the owner's wish to stop."""

    should_stop: Callable[[], bool] = lambda: False
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[int], bytes] = os.urandom
    conditions: Callable[[], Conditions] = read_conditions

    def second(self) -> int:
        """Now, in whole seconds since 1970."""
        return int(self.now())

    def clock(self) -> Clock:
        """Now, with the local hour."""
        now = self.now()
        local = time.localtime(now)
        return Clock(now, local.tm_hour + local.tm_min / 60)

    def wait(self, seconds: float) -> None:
        """Waits; AskedToStop as soon as the owner says so."""
        while True:
            if self.should_stop():
                raise AskedToStop
            if seconds <= 0:
                return
            self.sleep(min(seconds, SLICE_S))
            seconds -= SLICE_S
