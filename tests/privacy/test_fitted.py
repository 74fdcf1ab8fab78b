"""The shipped strategies: each is what its row says, and together they reach what the protocol promises."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.privacy.blt import broken, re_keyable, running_error, sensitivity
from tacit.privacy.fitted import TABLE, shipped, strategies


def error(snapshots, landings, separation):
    """The noise of the running sum at mu = 1."""
    blt = shipped(snapshots, landings, separation)
    return sensitivity(blt, landings, separation, snapshots) * running_error(blt, snapshots)


@pytest.mark.parametrize(
    ("snapshots", "landings", "separation", "rough"),
    [
        (500, 1, 500, 2.83), (500, 4, 100, 6.39), (500, 8, 50, 10.3), (2000, 1, 2000, 3.27),
        (2000, 2, 400, 4.97), (2000, 4, 400, 7.26), (2000, 4, 100, 8.43), (2000, 8, 50, 14.5),
    ],
)  # fmt: skip
def test_the_protocols_table_is_reached_to_a_percent(snapshots, landings, separation, rough):
    assert error(snapshots, landings, separation) <= 1.01 * rough


@settings(max_examples=25)
@given(st.integers(11, 8192), st.integers(1, 16), st.floats(0.02, 1.0))
def test_correlated_noise_is_less_than_plain_and_a_keyholder_could_begin_anew(snapshots, landings, share):
    snapshots = max(snapshots, 4 * landings)  # a device that is in nearly every sum gains nothing
    separation = max(1, int(share * (snapshots // (landings + 1))))

    found = error(snapshots, landings, separation)

    assert broken(shipped(snapshots, landings, separation)) is None
    assert found < math.sqrt(landings * (snapshots + 1) / 2)
    if landings * separation < snapshots:
        assert re_keyable(shipped(snapshots, landings, separation), landings, separation, snapshots) is None


@pytest.mark.parametrize(("snapshots", "landings", "separation"), [(100_000, 4, 20_000), (1 << 20, 64, 1000)])
def test_numbers_far_outside_the_table_still_find_a_strategy_that_helps(snapshots, landings, separation):
    assert error(snapshots, landings, separation) < math.sqrt(landings * (snapshots + 1) / 2) / 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"theta": [1.0], "omega": [0.5]}, "is none: theta = 1"),
        ({"theta": [0.5], "omega": [1.1]}, "is none: omega"),
        ({"theta": [0.5], "omega": [0.5]}, "says sensitivity = "),
        ({"sensitivity": 1.0}, "says sensitivity = 1.0, and it is"),
        ({"spread": 2.0}, "says spread = 2.0"),
        ({"error": float("nan")}, "says error = nan"),
    ],
)
def test_a_row_that_is_not_what_it_says_is_refused(change, sentence):
    rows = json.loads(TABLE.read_text())

    with pytest.raises(ValueError, match=sentence):
        strategies(json.dumps([rows[0], rows[1] | change]))


def test_the_table_covers_what_people_ask_for():
    asked = {(row["snapshots"], row["landings"], row["separation"]) for row in json.loads(TABLE.read_text())}

    assert {(2**power, landings) for power in range(4, 14) for landings in (1, 2, 4, 8)} <= {one[:2] for one in asked}
    assert {(500, 8, 50), (2000, 4, 400), (2000, 4, 100)} <= asked
    assert np.all([len(row["theta"]) <= 5 for row in json.loads(TABLE.read_text())])
