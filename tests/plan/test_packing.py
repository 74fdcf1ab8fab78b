"""A Plan that goes over the wire packed arrives as it was, or not at all."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.plan.packing import PIECE, PackingBroken, packed, unpacked


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """The bytes in pieces of these sizes, over and over; all in one where there are none."""
    pieces, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)] if sizes else len(data)
        pieces.append(data[at : at + size])
        at, turn = at + size, turn + 1
    return pieces


@given(data=st.binary(max_size=5000), sizes=st.lists(st.integers(1, 400), max_size=5))
def test_what_was_packed_comes_out_however_it_is_cut(data: bytes, sizes: list[int]):
    assert b"".join(unpacked(cut(packed(data), sizes), len(data))) == data


@given(data=st.binary(min_size=1, max_size=500), kept=st.integers(0, 10_000), more=st.binary(min_size=1, max_size=30))
def test_what_is_cut_short_or_followed_by_anything_is_refused(data: bytes, kept: int, more: bytes):
    whole = packed(data)

    with pytest.raises(PackingBroken):
        list(unpacked([whole[: kept % len(whole)]], 1000))
    with pytest.raises(PackingBroken, match="follows"):
        list(unpacked([whole + more], 1000))
    with pytest.raises(PackingBroken, match="follows"):
        list(unpacked([whole, more], 1000))


@given(data=st.binary(max_size=300))
def test_any_bytes_at_all_are_unpacked_or_refused(data: bytes):
    try:
        found = b"".join(unpacked([data], 1 << 20))
    except PackingBroken:
        return
    assert zlib.decompress(data, 31) == found


def test_little_that_becomes_much_is_given_up_after_the_most_that_is_taken():
    small = packed(bytes(200 * PIECE))

    taken = sum(map(len, unpacked([small], 3 * PIECE)))

    assert len(small) < PIECE
    assert 3 * PIECE < taken <= 4 * PIECE


def test_weights_in_few_steps_pack_better_than_zlib_does_by_itself():
    draw = np.random.default_rng(1)
    weights = np.rint(draw.normal(0, 5, 60_000)).astype(np.int8).tobytes()
    tapes = draw.integers(0, 9, 4000, np.int32).repeat(4).tobytes()

    for data, least in ((weights, 0.95), (tapes, 1.0)):
        assert len(packed(data)) <= least * len(zlib.compress(data, 9)) + 12  # the ends of either stream
