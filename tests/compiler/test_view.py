"""A view is a fact about an operand: whatever PyTorch does to a shape, numpy finds the same elements."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.compiler.ir import Value
from tacit.compiler.view import EXAMPLES, View, aligned, expand, is_usual, permute, reshape, squeeze, unsqueeze, view_of
from tacit.plan.tape import Region


def places(view: View) -> Any:
    """Where in memory every element of a view stands, in the view's shape."""
    total = np.zeros((), np.int64)
    for atoms in view.dims:
        along = np.zeros(1, np.int64)
        for size, stride in atoms:
            along = (along[:, None] + np.arange(size) * stride).ravel()
        total = total[..., None] + along
    return total


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.data())
def test_a_view_sees_what_numpy_sees(shape: list[int], data: st.DataObject) -> None:
    value = Value("w", tuple(shape), Region.STATE, batched=False)
    view = view_of(value, range(len(shape)))
    right = np.arange(int(np.prod(shape))).reshape(shape)

    for _ in range(data.draw(st.integers(1, 4), label="looks")):
        match data.draw(st.sampled_from(["permute", "unsqueeze", "squeeze", "reshape"]), label="look"):
            case "permute":
                order = data.draw(st.permutations(range(right.ndim)), label="order")
                view, right = permute(view, order), right.transpose(order)
            case "unsqueeze":
                at = data.draw(st.integers(0, right.ndim), label="at")
                view, right = unsqueeze(view, at), np.expand_dims(right, at)
            case "squeeze":
                view, right = squeeze(view, range(right.ndim)), right.squeeze()
            case _:
                wanted = data.draw(st.sampled_from(factorings(right.size)), label="shape")
                found = reshape(view, wanted)
                if found is None:
                    continue
                view, right = found, right.reshape(wanted)
        assert view.shape == right.shape
        assert (places(view) == right).all()


def factorings(total: int) -> list[tuple[int, ...]]:
    """Shapes of up to three dimensions with so many elements."""
    divisors = [d for d in range(1, total + 1) if total % d == 0]
    return [
        (total,),
        *((a, total // a) for a in divisors),
        *((a, b, total // a // b) for a in divisors for b in divisors if total // a % b == 0),
    ]


def test_a_flattened_image_can_be_unfolded_again() -> None:
    image = view_of(Value("x", (2, 5, 7, 3), Region.ARENA), (0, 3, 1, 2))
    flat = reshape(image, (-1, 105))

    assert flat is not None
    assert reshape(flat, (-1, 3, 5, 7)) == image


@pytest.mark.parametrize(
    ("shape", "is_view"),
    [((-1, 21, 5), False), ((-1, 2, 3, 35), True), ((-1, 6, 35), True), ((-1,), True), ((-1, 4), False)],
)
def test_a_view_may_cut_an_axis_but_not_join_across_one(shape: tuple[int, ...], is_view: bool) -> None:
    image = view_of(Value("x", (2, 5, 7, 6), Region.ARENA), (0, 3, 1, 2))

    assert (reshape(image, shape) is not None) == is_view


def test_alike_views_are_equal_however_they_came_about() -> None:
    image = view_of(Value("x", (2, 5, 7, 6), Region.ARENA), (0, 3, 1, 2))
    cut = reshape(image, (EXAMPLES, 2, 3, 5, 7))

    assert cut is not None
    assert reshape(cut, (EXAMPLES, 6, 35)) == reshape(image, (EXAMPLES, 6, 35))
    assert is_usual(image)
    assert not is_usual(permute(image, (0, 1, 3, 2)))


def test_two_views_are_cut_into_common_pieces() -> None:
    image = view_of(Value("x", (2, 5, 7, 6), Region.ARENA), (0, 3, 1, 2))
    plain = view_of(Value("y", (2, 1, 1, 210), Region.ARENA), (0, 3))
    flat = reshape(image, (EXAMPLES, 210))

    assert flat is not None
    assert aligned(flat, plain) == [(EXAMPLES, 210, 210), (35, 6, 1), (6, 1, 35)]


def test_repeating_keeps_the_memory_and_changes_the_shape() -> None:
    vector = view_of(Value("b", (3,), Region.STATE, batched=False), (0,))

    repeated = expand(vector, (4, 3))

    assert repeated.shape == (4, 3)
    assert (places(repeated) == np.arange(3)).all()
    flat = reshape(repeated, (12,))
    assert flat is not None
    assert places(flat).tolist() == [0, 1, 2] * 4
