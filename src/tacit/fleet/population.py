"""Who is in a fleet: of each device its profile, how much slower it computes, and how fast it sends and receives.

All of it is drawn once from the seed and kept in arrays, 14 bytes a device. Shares are exact, not probable: of 100
devices with 90 % stragglers 90 are. Who is a straggler says nothing about its profile or its link.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tacit.errors import InputError
from tacit.fleet.availability import HOUR, Availability, there
from tacit.fleet.chance import dealt
from tacit.fleet.drawing import panels, save
from tacit.fleet.traces import DAY, Rates, Traces, dealt_traces, read_rates
from tacit.plan.profile import Profile, RadioName, read_profile

RADIOS: tuple[RadioName, ...] = ("wifi", "lte")

# Assumed, for whom nothing else is said: mostly phones of some years.
EVERYDAY: Mapping[str, float] = MappingProxyType(
    {"phone-mid": 0.5, "phone-recent": 0.3, "laptop-entry": 0.1, "pi-4b": 0.1}
)

_PROFILES, _RADIOS, _STRAGGLERS, _SLOWDOWNS, _LINKS = 11, 12, 13, 14, 15


class PopulationWrong(InputError):
    """A setting of the population that cannot be; the sentence says what can."""


@dataclass(frozen=True)
class Stragglers:
    """A share of the devices takes `least` to `most` times as long to compute, uniformly drawn.

    >>> Stragglers(0.9).sentence
    '90% of the devices compute 5 to 20 times slower (uniform), the others as fast as their profile'
    """

    share: float = 0.9
    least: float = 5.0
    most: float = 20.0

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 1 <= self.least <= self.most <= 1000):
            raise PopulationWrong(
                f"a share of stragglers of {self.share:g}, {self.least:g} to {self.most:g} times slower: "
                "the share is from 0 to 1, and 1 <= least <= most <= 1000"
            )

    @property
    def sentence(self) -> str:
        if not self.share:
            return "no stragglers: every device computes as fast as its profile"
        return (
            f"{self.share:.0%} of the devices compute {self.least:g} to {self.most:g} times slower (uniform), "
            "the others as fast as their profile"
        )


@dataclass(frozen=True, eq=False)
class Links:
    """How fast devices send. Wi-Fi where a device has it; of those that also have LTE, the share `lte` uses that.

    Bytes a second are those of the profile, or `rates` that were measured; what a byte costs is always the profile's.
    """

    lte: float = 0.0
    rates: Rates | None = None
    source: str = "a trace"

    def __post_init__(self) -> None:
        if not 0 <= self.lte <= 1:
            raise PopulationWrong(f"a share of {self.lte:g} that uses LTE: from 0 to 1")

    @property
    def sentence(self) -> str:
        speed = "of the profile" if self.rates is None else f"of {len(self.rates):,} measured links ({self.source})"
        return f"bytes a second {speed}" + (f", {self.lte:.0%} over LTE where there is a choice" if self.lte else "")


@dataclass(frozen=True, eq=False)
class Population:
    """Every device of a fleet, by its number."""

    profiles: tuple[Profile, ...]
    profile: NDArray[np.uint8]  # of each device: which of them
    slowdown: NDArray[np.float32]  # how many times longer it computes than its profile says; 1 for who is no straggler
    down: NDArray[np.float32]  # bytes a second; inf where the profile has no radio and a transfer costs nothing
    up: NDArray[np.float32]
    radio: NDArray[np.uint8]  # index into RADIOS

    def __len__(self) -> int:
        return len(self.profile)


def populate(
    count: int,
    seed: int,
    *,
    mix: Mapping[str, float] = EVERYDAY,
    stragglers: Stragglers = Stragglers(0.0),
    links: Links | None = None,
    traces: Traces | None = None,
) -> Population:
    """A fleet of `count` devices: profiles by name (or file) and share, and who among them is slow.

    `traces` are real devices: their slowdowns multiply those of stragglers, their rates go before those of `links`.
    `availability.Traced` of the same file and seed gives each device the windows of the same row.

    >>> fleet = populate(10, seed=1, mix={"phone-mid": 0.7, "pi-4b": 0.3}, stragglers=Stragglers(0.5))
    >>> np.bincount(fleet.profile).tolist(), int((fleet.slowdown > 1).sum())
    ([7, 3], 5)
    """
    if count < 1:
        raise PopulationWrong(f"a fleet of {count} devices: at least one")
    shares = _shares(mix)
    links = links or Links()
    profiles = tuple(read_profile(name) for name in shares)
    profile = _shuffled(counted(list(shares.values()), count), seed, _PROFILES).astype(np.uint8)
    radio, up, down = _linked(profiles, profile, links, seed)
    slowdown = np.ones(count, np.float32)
    slow = _shuffled(counted([1 - stragglers.share, stragglers.share], count), seed, _STRAGGLERS) == 1
    drawn = np.random.default_rng([seed, _SLOWDOWNS]).uniform(stragglers.least, stragglers.most, count)
    slowdown[slow] = drawn[slow]
    if traces is not None:
        row = dealt_traces(np.arange(count), len(traces), seed)
        if traces.slowdown is not None:
            slowdown *= traces.slowdown[row]
        if traces.rates is not None:
            up, down = _measured(up, traces.rates.up[row]), _measured(down, traces.rates.down[row])
    return Population(profiles, profile, slowdown, down, up, radio)


def counted(shares: list[float], count: int) -> NDArray[np.int64]:
    """How many each share comes to, summing to `count`: whole parts, and the largest rests get what is left.

    >>> counted([0.5, 0.3, 0.2], 7).tolist()
    [4, 2, 1]
    """
    exact = np.array(shares, np.float64) / math.fsum(shares) * count
    found = np.floor(exact + 1e-9).astype(np.int64)  # 0.9 of 100 is 90, whatever floats make of it
    for index in np.argsort(found - exact, kind="stable")[: count - int(found.sum())]:
        found[index] += 1
    return found


def _shuffled(counts: NDArray[np.int64], seed: int, stream: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, stream]).permutation(np.repeat(np.arange(len(counts)), counts))


def _shares(mix: Mapping[str, float]) -> dict[str, float]:
    if not 1 <= len(mix) <= 255:
        raise PopulationWrong(f"a mix of {len(mix)} profiles: from 1 to 255")
    for name, share in mix.items():
        if not (share >= 0 and math.isfinite(share)):
            raise PopulationWrong(f"a share of {share:g} of {name}: shares are not negative")
    if not sum(mix.values()) > 0:
        raise PopulationWrong("every share of the mix is 0: at least one is not")
    return dict(mix)


def _linked(
    profiles: tuple[Profile, ...], profile: NDArray[np.uint8], links: Links, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    has = np.array([[name in each.radios for name in RADIOS] for each in profiles])[profile]
    wants = _shuffled(counted([1 - links.lte, links.lte], len(profile)), seed, _RADIOS) == 1
    radio = (has[:, 1] & (wants | ~has[:, 0])).astype(np.uint8)
    rates = np.full((len(profiles), len(RADIOS), 2), np.inf, np.float32)
    for number, each in enumerate(profiles):
        for index, name in enumerate(RADIOS):
            if name in each.radios:
                found = each.radios[name]
                rates[number, index] = found.up_bytes_per_second, found.down_bytes_per_second
    up, down = rates[profile, radio].T
    if links.rates is not None:
        row = dealt(np.arange(len(profile)), len(links.rates), seed, _LINKS)
        up, down = _measured(up, links.rates.up[row]), _measured(down, links.rates.down[row])
    return radio, np.ascontiguousarray(up), np.ascontiguousarray(down)


def _measured(of_profile: NDArray[np.float32], rates: NDArray[np.float32]) -> NDArray[np.float32]:
    """The measured rates, of those that have a radio."""
    return np.where(np.isinf(of_profile), of_profile, rates)


def parse_mix(text: str) -> dict[str, float]:
    """Profiles and their shares, which need not sum to 1.

    >>> parse_mix("phone-mid=0.7,pi-4b=0.3")
    {'phone-mid': 0.7, 'pi-4b': 0.3}
    >>> parse_mix("pi-5")
    {'pi-5': 1.0}
    """
    mix: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = (each.strip() for each in part.partition("="))
        if not name or name in mix or (equals and not re.fullmatch(_NUMBER, share)):
            raise PopulationWrong(
                f"a mix of {text!r}: profiles, each once, with their shares, such as phone-mid=0.7,pi-4b=0.3"
            )
        mix[name] = float(share) if equals else 1.0
    return _shares(mix)


def parse_stragglers(text: str) -> Stragglers:
    """A share, and between what their slowdown lies.

    >>> parse_stragglers("0.9:5-20") == parse_stragglers("0.9")
    True
    """
    said = re.fullmatch(rf"({_NUMBER})(?::({_NUMBER})-({_NUMBER}))?", text)
    if said is None:
        raise PopulationWrong(f"stragglers {text!r}: a share from 0 to 1, such as 0.9, or with its slowdowns, 0.9:5-20")
    return Stragglers(float(said[1])) if said[2] is None else Stragglers(*map(float, said.groups()))


def parse_links(text: str) -> Links:
    """`profile`, `lte:SHARE`, or a file of measured throughputs.

    >>> parse_links("lte:0.3").lte
    0.3
    """
    if text == "profile":
        return Links()
    said = re.fullmatch(rf"lte:({_NUMBER})", text)
    if said is not None:
        return Links(float(said[1]))
    path = Path(text)
    if path.suffix not in (".csv", ".npz"):
        raise PopulationWrong(f"links {text!r}: profile, lte:SHARE, or a file .csv or .npz of bytes a second")
    return Links(rates=read_rates(path), source=path.name)


_NUMBER = r"[0-9]*\.?[0-9]+"


def drawn_population(population: Population, availability: Availability, path: Path, most: int = 2000) -> None:
    """A picture, SVG or PNG by its suffix: profiles, slowdowns, bytes a second, and who is there over three days."""
    figure, axes = panels(2, 2, (9.0, 6.2))
    profiles, slow, rates, day = axes
    counts = np.bincount(population.profile, minlength=len(population.profiles))
    profiles.barh([each.name for each in population.profiles], counts.tolist(), color="C0")
    profiles.set_title(f"profiles of {len(population):,} devices")
    slow.hist(population.slowdown, bins=40, color="C0")
    slow.set_title("how many times slower than its profile")
    for label, values, colour in (("down", population.down, "C0"), ("up", population.up, "C1")):
        finite = values[np.isfinite(values)]
        if len(finite):
            edges = np.geomspace(float(finite.min()) * 0.9, float(finite.max()) * 1.1, 40)
            rates.hist(finite, bins=edges, histtype="step", linewidth=1.6, color=colour, label=label)
            rates.set_xscale("log")
    if rates.get_legend_handles_labels()[1]:
        rates.legend(frameon=False)
    rates.set_title("bytes a second")
    devices = np.arange(min(len(population), most))
    moments = np.arange(0.0, 3 * DAY + 1, HOUR)
    day.fill_between(moments / HOUR, there(availability, devices, moments) * 100, color="C0", alpha=0.35, linewidth=0)
    day.set_xticks(range(0, 73, 12))
    day.set_xlim(0, 72)
    day.set_ylim(0, 100)
    day.set_xlabel("hours")
    shown = "" if len(devices) == len(population) else f" (of the first {most:,})"
    day.set_title(f"% of devices that are there{shown}")
    save(figure, path)
