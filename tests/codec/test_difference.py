"""Differences of Snapshots: nothing is lost, and nothing that is sent instead is believed."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.codec.difference import difference, made_of
from tacit.codec.errors import CodecError

words = st.lists(st.integers(0, 2**32 - 1), max_size=40)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), max_size=40))
def test_any_two_snapshots_come_back_whatever_their_bits_mean(pairs: list[tuple[int, int]]):
    before = np.array([one for one, _ in pairs], "<u4").tobytes()
    after = np.array([two for _, two in pairs], "<u4").tobytes()

    assert made_of(before, difference(before, after)) == after


@given(words, st.binary(max_size=60))
def test_what_is_no_difference_is_refused_or_gives_a_snapshot_as_long(values: list[int], made: bytes):
    before = np.array(values, "<u4").tobytes()

    with contextlib.suppress(CodecError):
        assert len(made_of(before, b"\x01" + made)) == len(before)


def test_bytes_left_out_and_bytes_added_are_found():
    before, after = np.arange(9, dtype="<u4").tobytes(), np.arange(1, 10, dtype="<u4").tobytes()
    made = difference(before, after)

    for wrong in (made[:-1], made + b"\0", b"\x02" + made[1:], b"", made[:5]):
        with pytest.raises(CodecError):
            made_of(before, wrong)
    with pytest.raises(CodecError):
        made_of(before + bytes(4), made)


def test_a_small_file_unpacks_to_no_more_than_a_snapshot():
    """A bomb: a plane that would be sixteen million bytes long."""
    bomb = difference(bytes(1 << 24), bytes(1 << 24))

    with pytest.raises(CodecError, match="longer or shorter"):
        made_of(bytes(400), bomb)


def test_what_changed_by_a_thousandth_costs_six_tenths_and_what_did_not_nothing():
    random = np.random.default_rng(0)
    before = random.normal(0, 0.05, 20000).astype("<f4")
    after = (before + random.normal(0, 0.00005, 20000)).astype("<f4")

    assert len(difference(before.tobytes(), after.tobytes())) < 0.6 * after.nbytes
    assert len(difference(before.tobytes(), before.tobytes())) < 0.01 * after.nbytes
