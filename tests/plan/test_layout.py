"""Panels: every value has one place, padding is zero, and flat order and panels are each other's inverse."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tacit.plan.layout import PANEL, TensorPlace, pack, padded_size, permutation, positions, sides, unpack

small = st.integers(1, 20)


@st.composite
def places(draw: st.DrawFn) -> TensorPlace:
    match draw(st.sampled_from(["vector", "dense", "image", "conv", "groups", "depthwise", "rows"])):
        case "vector":
            return TensorPlace("v", (draw(st.integers(1, 60)),), "vector", "state", 0)
        case "dense":
            return TensorPlace("d", (draw(st.integers(1, 40)), draw(small)), "dense", "state", 0)
        case "image":
            image = (draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 4)))
            return TensorPlace("i", (draw(st.integers(1, 40)), math.prod(image)), "dense", "state", 0, image)
        case "rows":
            return TensorPlace("r", (draw(st.integers(1, 9)), draw(st.integers(1, 40))), "rows", "state", 0)
        case "groups":
            groups = draw(st.integers(2, 4))
            shape = (groups * draw(small), draw(small), draw(st.integers(1, 3)), draw(st.integers(1, 3)))
            return TensorPlace("g", shape, "conv", "state", 0, groups=groups)
        case "depthwise":
            shape = (draw(st.integers(2, 40)), 1, draw(st.integers(1, 3)), draw(st.integers(1, 3)))
            return TensorPlace("w", shape, "conv", "state", 0, groups=shape[0])
        case _:
            shape = (draw(st.integers(1, 40)), draw(small), draw(st.integers(1, 3)), draw(st.integers(1, 3)))
            return TensorPlace("c", shape, "conv", "state", 0)


@given(places())
def test_a_tensor_comes_back_from_its_panels(place: TensorPlace):
    values = np.arange(1, math.prod(place.shape) + 1, dtype=np.float32).reshape(place.shape)

    panels = pack(values, place)

    assert np.array_equal(unpack(panels, place), values)
    assert np.count_nonzero(panels) == values.size


@given(places())
def test_every_value_has_a_place_of_its_own_inside_the_panels(place: TensorPlace):
    where = positions(place)

    assert len(set(where.tolist())) == math.prod(place.shape)
    assert where.min() >= 0 and where.max() < padded_size(place)
    assert padded_size(place) % PANEL == 0


def test_a_convolution_stands_output_panel_then_tap_then_channel():
    place = TensorPlace("c", (17, 3, 2, 2), "conv", "state", 0)
    values = np.random.default_rng(0).normal(size=place.shape).astype(np.float32)

    panels = pack(values, place).reshape(2, 2, 2, 3, PANEL)

    assert panels[1, 1, 0, 2, 0] == values[16, 2, 1, 0]
    assert panels[0, 0, 1, 1, 5] == values[5, 1, 0, 1]


def test_each_group_has_panels_of_its_own():
    place = TensorPlace("c", (2 * 17, 3, 2, 2), "conv", "state", 0, groups=2)
    values = np.random.default_rng(0).normal(size=place.shape).astype(np.float32)

    panels = pack(values, place).reshape(2, 2, 2, 2, 3, PANEL)

    assert panels[1, 0, 1, 0, 2, 4] == values[17 + 4, 2, 1, 0]
    assert panels[1, 1, 1, 0, 2, 0] == values[17 + 16, 2, 1, 0]


def test_where_every_channel_is_a_group_sixteen_share_a_panel():
    place = TensorPlace("c", (20, 1, 3, 3), "conv", "state", 0, groups=20)
    values = np.random.default_rng(0).normal(size=place.shape).astype(np.float32)

    panels = pack(values, place).reshape(2, 3, 3, 1, PANEL)

    assert panels[1, 2, 0, 0, 3] == values[19, 0, 2, 0]


def test_a_flattened_image_is_read_channels_last():
    place = TensorPlace("d", (1, 2 * 3 * 4), "dense", "state", 0, (2, 3, 4))
    image = np.arange(24, dtype=np.float32).reshape(2, 3, 4)

    column = pack(image.reshape(1, -1), place).reshape(24, PANEL)[:, 0]

    assert np.array_equal(column, image.transpose(1, 2, 0).ravel())


def test_the_flat_order_runs_over_the_trained_tensors_only():
    frozen = TensorPlace("a", (4,), "vector", "frozen", 0)
    first = TensorPlace("b", (3,), "vector", "state", 64)
    second = TensorPlace("c", (2,), "vector", "state", 0)

    assert permutation([frozen, first, second]).tolist() == [16, 17, 18, 0, 1]


@given(st.lists(places(), min_size=1, max_size=4))
def test_both_sides_of_a_snapshot_are_where_the_permutation_says(tensors: list[TensorPlace]):
    begins = np.cumsum([0, *(padded_size(place) for place in tensors)])
    state = np.zeros(begins[-1], np.float32)
    # The flat order is not the order in memory.
    standing = [replace(place, offset=4 * int(at)) for place, at in zip(tensors, begins, strict=False)][::-1]
    snapshot = np.arange(1, len(permutation(standing)) + 1, dtype=np.float32)
    back = np.zeros_like(snapshot)

    for flat, panels in sides(standing, snapshot, state):
        panels[...] = flat
    for flat, panels in sides(standing, back, state):
        flat[...] = panels

    assert np.array_equal(state[permutation(standing)], snapshot)
    assert np.count_nonzero(state) == len(snapshot)
    assert np.array_equal(back, snapshot)
