"""The ring of 2^b and its bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.codec.errors import CodecError
from tacit.codec.quantise import ring_fits
from tacit.codec.ring import RING_BITS, center, low_bits, pack, packed_size, unpack, wrap
from tests.vectors.make import read

rings = st.sampled_from(RING_BITS)
vectors = st.lists(st.integers(0, 2**32 - 1), max_size=9).map(lambda words: np.array(words, np.uint32))


@given(vectors, rings)
def test_unpacking_what_was_packed_gives_the_low_bits_of_each_word(words, bits):
    again = unpack(pack(words, bits), len(words), bits)

    assert again.dtype == np.uint32
    assert again.tolist() == [word % 2**bits for word in words.tolist()]


@given(vectors, rings)
def test_packed_bytes_are_one_little_endian_stream_of_bits(words, bits):
    as_one_number = sum(word % 2**bits << i * bits for i, word in enumerate(words.tolist()))

    assert pack(words, bits) == as_one_number.to_bytes(packed_size(len(words), bits), "little")


@pytest.mark.parametrize("bits", RING_BITS)
def test_the_edges_of_each_ring_are_packed_as_recorded(bits):
    vector = read("packing")[str(bits)]

    words = wrap(np.array(vector["values"]), bits)

    assert words.tolist() == vector["words"]
    assert pack(words, bits).hex() == vector["packed"]
    assert center(words, bits).tolist() == vector["centered"]


def test_twenty_four_bits_are_the_low_three_bytes_of_each_word():
    words = wrap(np.array([0, 1, -1, 2**23, -(2**23)]), 24)

    assert pack(words, 24).hex(" ", 3) == "000000 010000 ffffff 000080 000080"


@given(st.lists(st.integers(-(2**62), 2**62), max_size=9), rings)
def test_centring_gives_the_representative_next_to_zero(values, bits):
    centred = center(wrap(np.array(values, np.int64), bits), bits).tolist()

    assert all(-(2 ** (bits - 1)) <= one < 2 ** (bits - 1) for one in centred)
    assert all((one - value) % 2**bits == 0 for one, value in zip(centred, values, strict=True))


@given(vectors, rings)
def test_a_function_of_the_ring_sees_the_low_bits_only(words, bits):
    assert center(words, bits).tolist() == center(low_bits(words, bits), bits).tolist()
    assert pack(words, bits) == pack(low_bits(words, bits), bits)


@given(st.integers(0, 9), rings, st.integers(-3, 3).filter(bool))
def test_bytes_of_another_length_are_refused(count, bits, off):
    data = bytes(max(0, packed_size(count, bits) + off))
    if len(data) == packed_size(count, bits):
        return

    with pytest.raises(CodecError, match="take"):
        unpack(data, count, bits)


@pytest.mark.parametrize("bits", [12, 20])
def test_unused_bits_that_are_set_are_refused(bits):
    data = bytearray(pack(np.zeros(3, np.uint32), bits))
    data[-1] |= 0x10

    with pytest.raises(CodecError, match="unused bits"):
        unpack(bytes(data), 3, bits)


@pytest.mark.parametrize("bits", [0, 1, 7, 13, 31, 33, 64])
def test_a_ring_of_other_bits_does_not_exist(bits):
    with pytest.raises(CodecError, match="a ring has"):
        wrap(np.zeros(1, np.int64), bits)


@given(st.integers(1, 3000), st.integers(1, 8), st.integers(1, 4096), st.floats(0, 1e6), rings)
def test_no_sum_within_the_bound_wraps_even_with_all_mass_on_one_coordinate(n_max, w_max, big_q, sd, bits):
    extreme = n_max * w_max * big_q
    if not ring_fits(bits, n_max, w_max, big_q, sd):
        return

    for noise in (int(8 * sd), -int(8 * sd)):
        for value in (extreme + noise, -extreme + noise):
            words = np.array([value % 2**32], np.uint32)
            assert center(words, bits).tolist() == [value]


@pytest.mark.parametrize("bits", RING_BITS)
def test_a_sum_fits_up_to_half_the_ring_and_no_further(bits):
    half = 2 ** (bits - 1)

    assert ring_fits(bits, 1, 1, half - 1, 0.0) and not ring_fits(bits, 1, 1, half, 0.0)
    assert ring_fits(bits, 1, 1, half - 9, 1.0) and not ring_fits(bits, 1, 1, half - 8, 1.0)
    assert ring_fits(bits, 2, 2, half - 1, 0.0, share=0.25) and not ring_fits(bits, 2, 2, half, 0.0, share=0.25)


@pytest.mark.parametrize("sd", [float("nan"), float("inf")])
def test_noise_without_a_size_fits_no_ring(sd):
    assert not ring_fits(32, 1, 1, 1, sd)
