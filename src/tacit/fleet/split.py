"""Who has which examples: a data set dealt to devices, as alike or as different as a person asks for.

    iid              shuffled and cut into equal parts
    dirichlet:A      equal parts whose classes are mixed by Dirichlet(A): small A, few classes a device
    classes:K        K classes a device, each class cut evenly among those that have it
    quantity:S       shuffled, parts of log-normal size with deviation S
    natural:FIELD    one device for each value of a field: a writer, a patient, a site
    file:WHO.csv     as a file says: example,device

No example is dealt twice. All are dealt, but by a file, which may leave some out. The same seed deals the same.

Dirichlet is by device, as Acar and others (2021) deal: each device draws the shares of its classes around those of
the whole, and takes its examples without putting back; a class that has run out is left out of the shares of later
devices. Where classes are as large as one another, A is the concentration of each; Hsu, Qi and Brown (2019) give the
sum over classes instead. The other common form draws for each class how it is shared among devices (Yurochkin and
others 2019), which makes sizes uneven at the same time and leaves devices with nothing: here, which and how many are
two settings (docs/decisions/0049).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from tacit.errors import InputError
from tacit.fleet.drawing import panels, save
from tacit.fleet.draws import shuffled
from tacit.fleet.population import counted
from tacit.fleet.tables import read_bytes, table

Labels = NDArray[Any]
_STREAM, _HELD = 21, 31
_LARGEST = 1 << 40


class SplitWrong(InputError):
    """A split that cannot be made of these examples; the sentence says what can."""


@dataclass(frozen=True)
class Iid:
    """Everybody has of everything."""


@dataclass(frozen=True)
class Dirichlet:
    """Label skew: each device's mix of classes is drawn around that of the whole, with concentration `alpha`."""

    alpha: float


@dataclass(frozen=True)
class Classes:
    """Label skew: `each` classes a device, no more and no fewer."""

    each: int


@dataclass(frozen=True)
class Quantity:
    """Quantity skew: sizes are log-normal, with standard deviation `sigma` of their logarithm."""

    sigma: float


@dataclass(frozen=True)
class Natural:
    """By whose the examples are; the field's values come as `clients`."""

    field: str


@dataclass(frozen=True)
class FromFile:
    """By a table example,device."""

    path: Path


Split = Iid | Dirichlet | Classes | Quantity | Natural | FromFile


@dataclass(frozen=True, eq=False)
class Shares:
    """Device k has the examples order[offsets[k] : offsets[k + 1]]. `note` is what a person should be told."""

    order: NDArray[np.int64]
    offsets: NDArray[np.int64]
    note: str = ""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, device: int) -> NDArray[np.int64]:
        return self.order[self.offsets[device] : self.offsets[device + 1]]

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)


def parse_split(text: str) -> Split:
    """A split as it is written.

    >>> parse_split("dirichlet:0.5"), parse_split("classes:2"), parse_split("natural:user")
    (Dirichlet(alpha=0.5), Classes(each=2), Natural(field='user'))
    """
    name, _, value = text.partition(":")
    match name:
        case "iid" if text == "iid":
            return Iid()
        case "dirichlet":
            return Dirichlet(_between(text, value, 1e-3, 1e6, "a concentration, such as dirichlet:0.5"))
        case "quantity":
            return Quantity(_between(text, value, 0, 5, "a deviation of the logarithm, such as quantity:1.0"))
        case "classes" if re.fullmatch(r"[1-9][0-9]{0,5}", value):
            return Classes(int(value))
        case "natural" if value:
            return Natural(value)
        case "file" if value:
            return FromFile(Path(value))
        case _:
            raise SplitWrong(
                f"split {text!r}: iid, dirichlet:ALPHA, classes:HOW_MANY, quantity:SIGMA, natural:FIELD or file:WHO.csv"
            )


def sentence(split: Split) -> str:
    """What people are told of it.

    >>> sentence(Dirichlet(0.5))
    'equal parts, classes mixed by Dirichlet(0.5) for each device'
    """
    match split:
        case Iid():
            return "shuffled, in equal parts"
        case Dirichlet(alpha):
            return f"equal parts, classes mixed by Dirichlet({alpha:g}) for each device"
        case Classes(each):
            return f"{each} {'class' if each == 1 else 'classes'} a device"
        case Quantity(sigma):
            return f"shuffled, in parts of log-normal size (σ = {sigma:g})"
        case Natural(field):
            return f"a device for each {field}"
        case FromFile(path):
            return f"as {path.name} says"
        case _:
            assert_never(split)


def deal(
    labels: Labels, devices: int, split: Split, seed: int, clients: NDArray[Any] | None = None, least: int = 1
) -> Shares:
    """Who has which of the examples that have these labels; `least` is how many each device must have.

    A natural split has as many devices as there are clients, whatever `devices` says; its note tells so.

    >>> shares = deal(np.arange(100) % 10, 10, Classes(2), seed=1)
    >>> [len(set(shares.of(device) % 10)) for device in range(3)], int(shares.sizes.sum())
    ([2, 2, 2], 100)
    """
    count = len(labels)
    if devices < 1 or least < 1:
        raise SplitWrong(f"{devices} devices with {least} examples each or more: at least 1 and 1")
    if not isinstance(split, Natural) and devices * least > count:
        few = "one each" if least == 1 else f"{least} each"
        raise SplitWrong(
            f"{count:,} examples cannot be dealt to {devices:,} devices, {few}; {count // least:,} devices is the most"
        )
    random = np.random.default_rng([seed, _STREAM])
    note = ""
    match split:
        case Iid():
            owner = random.permutation(np.repeat(np.arange(devices), _even(count, devices)))
        case Quantity(sigma):
            sizes = least + counted(np.exp(sigma * random.standard_normal(devices)).tolist(), count - least * devices)
            owner = random.permutation(np.repeat(np.arange(devices), sizes))
        case Dirichlet(alpha):
            owner = _mixed(_classes(labels, "Dirichlet"), devices, alpha, random)
        case Classes(each):
            owner = _few(_classes(labels, "a number of classes a device"), devices, each, random)
        case Natural(field):
            names, owner = _named(field, clients, count)
            if len(names) != devices:
                note = f"there are {len(names):,} of {field}, so there are {len(names):,} devices, not {devices:,}"
            devices = len(names)
        case FromFile(path):
            owner = _written(path, count, devices)
            left = int((owner < 0).sum())
            note = f"{left:,} of {count:,} examples are dealt to nobody" if left else ""
        case _:
            assert_never(split)
    dealt = np.flatnonzero(owner >= 0)
    sizes = np.bincount(owner[dealt], minlength=devices)
    for device in np.flatnonzero(sizes < least)[:1].tolist():
        raise SplitWrong(
            f"{sentence(split)}: device {device} gets {sizes[device]:,} examples, and {least:,} is the least; "
            "take fewer devices, or another split"
        )
    order = dealt[np.argsort(owner[dealt], kind="stable")]
    return Shares(order, np.concatenate([[0], np.cumsum(sizes)]), note)


def held_out(count: int, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of so many examples devices get, and which the published model is judged on.

    >>> kept, held = held_out(10, 0.2, seed=1)
    >>> len(kept), len(held), sorted([*kept, *held]) == list(range(10))
    (8, 2, True)
    """
    order, test = shuffled(seed, _HELD, count), max(1, round(share * count))
    if test >= count:
        raise SplitWrong(f"of {count} examples {test} are for testing, and none is left; give more data")
    return np.sort(order[test:]), np.sort(order[:test])


def _even(count: int, parts: int) -> NDArray[np.int64]:
    return np.full(parts, count // parts) + (np.arange(parts) < count % parts)


def are_classes(labels: Labels) -> bool:
    """Whether each example has one class: a whole number, alone."""
    return labels.dtype.kind in "iub" and labels.size == len(labels) and len(labels) > 0


def _classes(labels: Labels, what: str) -> NDArray[np.int64]:
    """Of each example the number of its class among those that occur."""
    if not are_classes(labels):
        raise SplitWrong(
            f"{what} deals by class, and these labels are {labels.dtype} {labels.shape[1:] or ''}".rstrip()
            + ", not one class an example: take iid, quantity:SIGMA, natural:FIELD or file:WHO.csv"
        )
    return np.unique(labels.reshape(-1), return_inverse=True)[1].reshape(-1)


def _mixed(labels: NDArray[np.int64], devices: int, alpha: float, random: np.random.Generator) -> NDArray[np.int64]:
    left = np.bincount(labels)
    shares = left / len(labels)
    taken = np.zeros((devices, len(left)), np.int64)
    # Whoever comes last takes what is left, so no device's number says how early it came.
    for device, size in zip(random.permutation(devices).tolist(), _even(len(labels), devices).tolist(), strict=True):
        mix = random.dirichlet(alpha * len(shares) * shares)
        while (open_ := size - int(taken[device].sum())) > 0:
            weights = np.where(left > 0, mix, 0)
            # Where all that is left has a share of 0 (it was too small for a float), by what there is of it.
            weights = weights if weights.sum() > 0 else left.astype(np.float64)
            more = np.minimum(random.multinomial(open_, weights / weights.sum()), left)
            taken[device] += more
            left = left - more
    return _handed(labels, taken, random)


def _few(labels: NDArray[np.int64], devices: int, each: int, random: np.random.Generator) -> NDArray[np.int64]:
    sizes = np.bincount(labels)
    if each > len(sizes):
        raise SplitWrong(f"{each} classes a device, and there are {len(sizes)}")
    if devices * each < len(sizes):
        raise SplitWrong(
            f"{each} {'class' if each == 1 else 'classes'} for each of {devices} devices leave some of {len(sizes)} "
            "classes to nobody: take more devices, or more classes each"
        )
    if devices * each > len(labels):
        raise SplitWrong(f"{each} classes for each of {devices} devices are more than the {len(labels)} examples")
    room = _rooms(sizes, devices, each)
    taken = np.zeros((devices, len(sizes)), np.int64)
    for device in range(devices):
        # A class that needs everybody who is left is not a matter of chance; so no class is ever left over.
        must = np.flatnonzero(room == devices - device)
        may = np.flatnonzero((room > 0) & (room < devices - device))
        chosen = random.choice(may, each - len(must), replace=False, p=room[may] / room[may].sum()) if len(may) else may
        taken[device, must] = taken[device, chosen] = 1
        room = room - taken[device]
    for number, size in enumerate(sizes.tolist()):
        holders = random.permutation(np.flatnonzero(taken[:, number]))
        taken[holders, number] = _even(size, len(holders))
    return _handed(labels, taken, random)


def _rooms(sizes: NDArray[np.int64], devices: int, each: int) -> NDArray[np.int64]:
    """How many devices have each class: by its size, at least one, at most all, and no more than it has examples."""
    most = np.minimum(devices, sizes)
    if int(most.sum()) < devices * each:
        raise SplitWrong(
            f"{each} classes for each of {devices} devices need {devices * each:,} pairs, and the classes have "
            f"examples for {int(most.sum()):,}: take fewer devices, or fewer classes each"
        )
    room = np.clip(counted(sizes.tolist(), devices * each), 1, most)
    while (off := devices * each - int(room.sum())) != 0:  # by one at a time, where most examples share a place
        able = room < most if off > 0 else room > 1
        crowd = np.where(able, sizes / room, -np.inf if off > 0 else np.inf)
        room[int(np.argmax(crowd) if off > 0 else np.argmin(crowd))] += 1 if off > 0 else -1
    return room


def _handed(labels: NDArray[np.int64], taken: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Whose each example is, when of each device and class it is known how many."""
    owner = np.empty(len(labels), np.int64)
    for number in range(taken.shape[1]):
        mine = np.flatnonzero(labels == number)
        owner[mine] = random.permutation(np.repeat(np.arange(len(taken)), taken[:, number]))
    return owner


def _named(field: str, clients: NDArray[Any] | None, count: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    if clients is None:
        raise SplitWrong(f"natural:{field} needs whose each example is: there is no {field} in the data")
    if clients.size != count or len(clients) != count:
        raise SplitWrong(
            f"natural:{field}: {field} has shape {clients.shape}, and one is needed for each of {count} examples"
        )
    if clients.dtype.kind not in "iubUS":
        raise SplitWrong(f"natural:{field}: {field} is {clients.dtype}, and whole numbers or names are needed")
    names, owner = np.unique(clients.reshape(-1), return_inverse=True)
    return names, owner.reshape(-1).astype(np.int64)


def _written(path: Path, count: int, devices: int) -> NDArray[np.int64]:
    owner = np.full(count, -1, np.int64)
    line = np.zeros(count, np.int64)
    for row in table(path, read_bytes(path), [("example", "device")]).rows():
        example = row.whole("example", 0, count - 1, f"one of {count:,} examples")
        device = row.whole("device", 0, devices - 1, f"one of {devices:,} devices")
        if owner[example] >= 0:
            raise row.wrong("example", f"is {example}, which line {line[example]} gave to device {owner[example]}")
        owner[example], line[example] = device, row.line
    return owner


def drawn(
    shares: Shares, labels: Labels, classes: Sequence[str] | int, path: Path, most: int = 100, title: str = ""
) -> None:
    """A picture, SVG or PNG by its suffix: devices across, classes up, a dot as large as how many.

    Where labels are not classes, bars: how many examples each device has. `classes` are their names or their number.
    """
    shown = min(len(shares), most)
    figure, axes = panels(1, 1, (max(5.0, 1.6 + 0.11 * shown), 4.2))
    axis = axes[0]
    if are_classes(labels):
        names = [str(number) for number in range(classes)] if isinstance(classes, int) else list(classes)
        flat = labels.reshape(-1).astype(np.int64)
        counts = np.zeros((shown, len(names)), np.int64)
        for device in range(shown):
            mine = flat[shares.of(device)]
            mine = mine[(mine >= 0) & (mine < len(names))]  # labels that training ignores have no row
            counts[device] = np.bincount(mine, minlength=len(names))
        across, up = np.nonzero(counts)
        room = 60.0 if shown > 50 else 120.0  # square points of the largest dot
        axis.scatter(
            across, up, s=room * counts[across, up] / max(1, counts.max()), color="C0", alpha=0.75, linewidths=0
        )
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(-0.7, len(names) - 0.3)
        axis.set_ylabel("class")
        told = f"the largest dot is {counts.max():,} examples"
    else:
        axis.bar(range(shown), shares.sizes[:shown].tolist(), color="C0", width=0.8)
        axis.set_ylabel("examples")
        told = f"{int(shares.sizes.min()):,} to {int(shares.sizes.max()):,} examples a device"
    axis.set_xlim(-1, shown)
    some = "" if shown == len(shares) else f", the first {shown} of {len(shares):,} are shown"
    axis.set_xlabel(f"device; {told}{some}")
    if title:
        axis.set_title(title)
    save(figure, path)


def _between(text: str, value: str, least: float, most: float, meaning: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise SplitWrong(f"split {text!r}: {meaning}, from {least:g} to {most:g}")
    return number
