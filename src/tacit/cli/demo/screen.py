"""What a person sees while the demo runs: a line a device, a bar for accuracy and one for ε."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tacit.cli.demo.watch import Watched


@dataclass(frozen=True)
class Moment:
    """The run as it stands."""

    seconds: float
    version: int
    snapshots: int
    accuracy: float
    central: float | None
    epsilon: float
    epsilon_budget: float
    delta: float
    trust: str
    accepted: int
    opened: int


class Screen:
    """Redraws in place on a terminal; elsewhere a line each time a fifth of the run has passed."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._drawn = 0
        self._said = -1

    def show(self, moment: Moment, devices: Sequence[Watched]) -> None:
        if self._live:
            self._redraw(lines(moment, devices))
            return
        step = 10 * moment.version // max(1, moment.snapshots)
        if step > self._said:
            self._said = step
            print(*lines(moment, devices)[-3:], sep="\n", file=sys.stderr, flush=True)

    def say(self, sentence: str) -> None:
        """A line that stays, above the live part."""
        if self._live and self._drawn:
            sys.stderr.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0
        print(sentence, file=sys.stderr, flush=True)

    def _redraw(self, text: Sequence[str]) -> None:
        wide = shutil.get_terminal_size().columns - 1
        if self._drawn:
            sys.stderr.write(f"\x1b[{self._drawn}A\x1b[J")
        sys.stderr.write("".join(f"{line[:wide]}\n" for line in text))
        sys.stderr.flush()
        self._drawn = len(text)


def lines(moment: Moment, devices: Sequence[Watched]) -> list[str]:
    """The picture as text."""
    rows = [
        f"  {device.role.name}  {device.role.speed:9}  {device.received:3d} Updates  {_doing(device)}"
        for device in devices
    ]
    goal = f" (central {moment.central:.1%})" if moment.central is not None else ""
    return [
        *rows,
        f"Snapshot {moment.version:3d} of {moment.snapshots}   {moment.accepted} Updates accepted, "
        f"{moment.opened} opened in sums   {moment.seconds:.0f} s",
        f"accuracy  {_bar(moment.accuracy)} {moment.accuracy:6.1%}{goal}",
        f"epsilon   {_bar(min(1.0, moment.epsilon / moment.epsilon_budget))} {moment.epsilon:,.0f} of "
        f"{moment.epsilon_budget:,.0f} at most   (device, δ = {moment.delta:g}, zero-out, {moment.trust})",
    ]


def _doing(device: Watched) -> str:
    if device.ended is not None:
        return f"ended: {device.ended}"
    if not device.alive and device.lives:
        return "gone"
    back = f" ({device.role.mishap.value})" if device.lives > 1 else ""
    return device.doing + back


def _bar(share: float, wide: int = 30) -> str:
    full = round(max(0.0, min(1.0, share)) * wide)
    return "█" * full + "░" * (wide - full)
