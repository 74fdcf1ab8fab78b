"""Where each tensor of the model stands: its panels, and its place in the flat order of a Snapshot.

A Snapshot is one float32 vector of d values: the subset's tensors in the Plan's order, each flattened as
PyTorch does. The engine keeps the same values in zero-padded panels. `sides` shows both as views of equal
shape, so loading a Snapshot and taking one are copies that need no memory of their own; `permutation` says
the same as indices, twice as large as the Snapshot itself.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tacit.plan.narrow import MOST_STEPS, narrow, widen
from tacit.plan.tape import Number, number_bytes

PANEL = 16

# Every language reads these exactly; a reader refuses what lies outside.
Count = Annotated[int, Meta(ge=0, lt=2**53)]

Form = Literal["vector", "dense", "conv", "rows"]
Place = Literal["state", "frozen"]


class TensorPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One parameter or buffer: PyTorch's name and shape, and its place in a region.

    `image` is (C, H, W) where a dense layer reads a flattened image: PyTorch flattens channels first and
    the engine channels last, so the weight's columns are permuted once, here, instead of at every step.
    Rows are an embedding's: row-major, each padded to a multiple of 16. `number` says in how many bits a frozen
    convolution's or dense layer's panels are held: all of them are one row of CONVERT's.
    """

    name: str
    shape: tuple[Count, ...]
    form: Form
    place: Place
    offset: Count  # bytes into the region, a multiple of 64
    image: tuple[Count, Count, Count] | None = None
    groups: Count = 1  # of a convolution; PyTorch's shape is (O, C / groups, KH, KW)
    number: Number = Number.FLOAT32


class Panels(NamedTuple):
    """How a tensor's values stand: `struct tacit_place` in engine/tacit.h says the same.

    Flat, value (group, output, channel, pixel) follows value by value, the last index running fastest. In panels each
    group's outputs are padded to a multiple of 16, and pixels come before channels.
    """

    groups: int
    outputs: int
    channels: int
    pixels: int


def panels_of(place: TensorPlace) -> Panels:
    """A tensor's panels; a vector is one column of outputs, and each of an embedding's rows a group.

    >>> panels_of(TensorPlace("c", (32, 3, 5, 5), "conv", "state", 0))
    Panels(groups=1, outputs=32, channels=3, pixels=25)
    """
    if place.form == "vector":
        return Panels(1, math.prod(place.shape), 1, 1)
    if place.form == "rows":
        return Panels(place.shape[0], place.shape[1], 1, 1)
    groups = 1 if is_depthwise(place) else place.groups
    inner = math.prod(place.shape[1:])
    channels = place.shape[1] if place.form == "conv" else place.image[0] if place.image else inner
    return Panels(groups, place.shape[0] // groups, channels, inner // channels)


def padded_size(place: TensorPlace) -> int:
    """How many values the panels hold.

    >>> padded_size(TensorPlace("fc.weight", (10, 64), "dense", "state", 0))
    1024
    """
    groups, outputs, channels, pixels = panels_of(place)
    return groups * _padded(outputs) * channels * pixels


def _padded(count: int) -> int:
    return -(-count // PANEL) * PANEL


def is_depthwise(place: TensorPlace) -> bool:
    """Whether every channel is a group of its own."""
    return place.groups > 1 and place.groups == place.shape[0] and place.shape[1] == 1


def positions(place: TensorPlace) -> NDArray[np.int64]:
    """For each value in PyTorch's order, its index in the tensor's panels.

    >>> positions(TensorPlace("fc.bias", (3,), "vector", "state", 0)).tolist()
    [0, 1, 2]
    """
    groups, outputs, channels, pixels = panels_of(place)
    group, output, channel, pixel = np.ogrid[:groups, :outputs, :channels, :pixels]
    panel = group * (_padded(outputs) // PANEL) + output // PANEL
    return (((panel * pixels + pixel) * channels + channel) * PANEL + output % PANEL).ravel()


def pack(values: NDArray[np.float32], place: TensorPlace) -> NDArray[np.float32]:
    """A tensor as panels, zero-padded.

    >>> pack(np.ones((3,), np.float32), TensorPlace("b", (3,), "vector", "state", 0)).sum()
    np.float32(3.0)
    """
    panels = np.zeros(padded_size(place), np.float32)
    panels[positions(place)] = values.reshape(-1)
    return panels


def unpack(panels: NDArray[np.float32], place: TensorPlace) -> NDArray[np.float32]:
    """The tensor in PyTorch's shape; the inverse of `pack`."""
    return panels[positions(place)].reshape(place.shape)


def stored_bytes(place: TensorPlace) -> int:
    """What a frozen tensor takes.

    >>> stored_bytes(TensorPlace("fc.weight", (10, 64), "dense", "frozen", 0, number=Number.INT8))
    1088
    """
    return number_bytes(place.number, padded_size(place))


def stored(values: NDArray[np.float32], place: TensorPlace, steps: int = MOST_STEPS) -> NDArray[np.uint8]:
    """A frozen tensor as it stands in FROZEN, rounded where it is held in fewer bits."""
    return narrow(pack(values, place), place.number, steps)


def restored(found: NDArray[np.uint8], place: TensorPlace) -> NDArray[np.float32]:
    """The tensor in PyTorch's shape, as the engine reads it.

    >>> place = TensorPlace("b", (2,), "vector", "frozen", 0)
    >>> restored(stored(np.array([1.0, 2.0], np.float32), place), place).tolist()
    [1.0, 2.0]
    """
    return unpack(widen(found, place.number, padded_size(place)), place)


def permutation(places: Sequence[TensorPlace]) -> NDArray[np.int64]:
    """Where each of a Snapshot's d values stands in the STATE region, in float32 elements."""
    parts = [positions(place) + place.offset // 4 for place in places if place.place == "state"]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def sides(
    places: Sequence[TensorPlace], snapshot: NDArray[np.float32], state: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The same values in a Snapshot and in STATE, as pairs of views of equal shape: assign one side to the other.

    >>> snapshot, state = np.arange(3, dtype=np.float32), np.zeros(16, np.float32)
    >>> for flat, panels in sides([TensorPlace("b", (3,), "vector", "state", 0)], snapshot, state):
    ...     panels[...] = flat
    >>> state[:4].tolist()
    [0.0, 1.0, 2.0, 0.0]
    """
    at = 0
    for place in places:
        if place.place == "state":
            count, begin = math.prod(place.shape), place.offset // 4
            yield from _tensor_sides(place, snapshot[at : at + count], state[begin : begin + padded_size(place)])
            at += count


def _tensor_sides(
    place: TensorPlace, flat: NDArray[np.float32], panels: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    if place.form == "vector":
        yield flat, panels[: len(flat)]
        return
    if place.form == "rows":
        rows, wide = place.shape
        yield flat.reshape(rows, wide), panels.reshape(rows, -1)[:, :wide]
        return
    groups, outputs, channels, pixels = panels_of(place)
    for group, block in zip(
        flat.reshape(groups, outputs, channels, pixels),
        panels.reshape(groups, -1, pixels, channels, PANEL),
        strict=True,
    ):
        full = outputs // PANEL
        whole = group[: full * PANEL].reshape(full, PANEL, channels, pixels)
        yield whole.transpose(0, 3, 2, 1), block[:full]
        if rest := outputs % PANEL:
            yield group[full * PANEL :].transpose(2, 1, 0), block[full, ..., :rest]
