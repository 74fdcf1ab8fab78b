"""Waits grow, stay below their ceiling, and are spread."""

import os

from hypothesis import given
from hypothesis import strategies as st

from tacit.device.backoff import MOST_ASKED_S, MOST_S, backoff_seconds


@given(st.integers(-3, 10**6), st.binary(min_size=4, max_size=4), st.floats(0, MOST_ASKED_S))
def test_a_wait_is_never_shorter_than_asked_nor_longer_than_that_and_the_ceiling(
    failures: int, drawn: bytes, asked: float
):
    seconds = backoff_seconds(failures, lambda _: drawn, at_least=asked)

    assert asked < seconds < asked + MOST_S + 1


@given(st.integers(1, 10**6), st.floats(MOST_ASKED_S))
def test_nobody_can_ask_a_device_to_stay_away_for_days(failures: int, asked: float):
    assert backoff_seconds(failures, os.urandom, at_least=asked) <= MOST_ASKED_S + MOST_S


@given(st.integers(1, 30), st.binary(min_size=4, max_size=4))
def test_one_more_failure_never_shortens_the_wait(failures: int, drawn: bytes):
    assert backoff_seconds(failures + 1, lambda _: drawn) >= backoff_seconds(failures, lambda _: drawn)


@given(st.integers(1, 30))
def test_two_devices_that_fail_together_do_not_come_back_together(failures: int):
    early = backoff_seconds(failures, lambda n: bytes(n))
    late = backoff_seconds(failures, lambda n: b"\xff" * n)

    assert late > 1.9 * early
