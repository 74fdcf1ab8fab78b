"""Virtual time: whatever is put comes out by time, and in the order it was put where times are equal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.fleet import queue as queue_module
from tacit.fleet.queue import Queue

TIMES = st.lists(st.integers(0, 40).map(lambda n: n / 2), max_size=40)


@pytest.fixture(autouse=True, params=[1, 3, queue_module.PIECE], scope="module")
def piece(request: pytest.FixtureRequest):
    """However few events of a stretch are objects at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue_module, "PIECE", request.param)
        yield


@given(st.lists(st.tuples(TIMES, st.integers(0, 20)), max_size=6), st.sampled_from([0.7, 5.0, 1000.0]))
def test_events_come_as_a_sort_would_give_them(rounds: list[tuple[list[float], int]], width: float) -> None:
    queue, waiting, number, now = Queue(width), list[tuple[float, int]](), 0, 0.0
    for times, taken in rounds:
        later = [max(now, time) for time in times]
        if number % 2:
            queue.put_many(np.array(later), 1, np.arange(number, number + len(later)))
        else:
            for offset, time in enumerate(later):
                queue.put(time, 1, number + offset)
        waiting += [(time, number + offset) for offset, time in enumerate(later)]
        number += len(later)
        for _ in range(taken):
            event, expected = queue.pop(), min(waiting, default=None)
            assert (None if event is None else (event.time, event.what)) == expected
            if expected is not None:
                waiting.remove(expected)
                now = expected[0]
        assert queue.count == len(waiting)


@given(TIMES, st.integers(0, 40), TIMES)
def test_what_was_saved_goes_on_as_it_would_have(times: list[float], taken: int, more: list[float]) -> None:
    one = Queue(5.0)
    one.put_many(np.array(times), 0, np.arange(len(times)))
    now = 0.0
    for _ in range(taken):
        event = one.pop()
        now = now if event is None else event.time
    other = Queue(5.0)
    other.restore(one.saved())
    for number, time in enumerate(more):
        one.put(max(now, time), 2, number)
        other.put(max(now, time), 2, number)
    assert other.count == one.count
    while (event := one.pop()) is not None:
        assert other.pop() == event
    assert other.pop() is None


def test_infinity_never_comes_and_the_next_stretch_is_shown_whole() -> None:
    shown: list[list[int]] = []
    queue = Queue(10.0, lambda times, kinds, whats: shown.append(whats.tolist()))
    queue.put_many(np.array([12.0, np.inf, 3.0, 11.0]), 0, np.arange(4))
    assert [event.what for event in iter(queue.pop, None)] == [2, 3, 0]
    assert shown == [[2], [3, 0]]
