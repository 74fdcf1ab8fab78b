"""Tens of thousands of broken and unusual tapes, under sanitizers and what the fuzzers demand of every tape."""

import shutil
from pathlib import Path
from random import Random

import pytest

from tacit.engine.library import rules
from tacit.engine.tape import VerifiedTape
from tacit.plan.tape import encode
from tests.engine.fuzzing import Tally, piped, try_all, try_changed
from tests.engine.tapes import MAKERS, sequence, tapes_to_try

needs_sanitizers = pytest.mark.skipif(
    shutil.which("gcc") is None, reason="sanitizers are tried with gcc; on Debian and Ubuntu: apt install gcc"
)


@pytest.fixture(scope="module")
def program(request: pytest.FixtureRequest) -> Path:
    """The fuzzers' program with the engine in it, sanitized; kept between runs."""
    assert request.config.cache is not None
    return piped(Path(request.config.cache.mkdir("engine")))


@pytest.fixture(scope="module")
def tally(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Tally:
    return try_all(program, tapes_to_try(seed=1, count=36_000), tmp_path_factory.mktemp("fuzz") / "failed.tape")


@needs_sanitizers
def test_no_tape_makes_the_engine_leave_its_operands_or_its_cost(tally: Tally):
    assert tally.tried == 36_000
    # Neither a verifier that refuses everything nor one that accepts everything would pass.
    assert tally.accepted > tally.tried // 4
    assert tally.accepted < tally.tried * 3 // 4
    assert tally.records > tally.accepted


@needs_sanitizers
def test_spoiled_tapes_break_every_rule_that_one_change_can_break(tally: Tally):
    named = {name: tally.refused[rule] for rule, (name, _) in rules().items()}

    assert {name for name, count in named.items() if count == 0} <= {"memory", "writable", "limits", "pace"}


@needs_sanitizers
def test_no_tape_that_the_mutator_makes_does_either(program: Path, tmp_path: Path):
    r = Random(3)
    begin = [encode(r.choice((*MAKERS, sequence))(r)) for _ in range(300)]

    tally = try_changed(program, begin, tmp_path / "failed.tape", count=20_000, seed=1)

    assert tally.tried == 20_000
    assert tally.accepted > tally.tried // 5
    # What one change alone cannot do, the mutator does: all but what needs a lack of memory.
    assert {rules()[rule][0] for rule, count in tally.refused.items() if count == 0} <= {"memory"}


def test_every_unspoiled_tape_is_accepted():
    r = Random(2)

    for _ in range(500):
        tape = r.choice((*MAKERS, sequence))(r)
        assert VerifiedTape.load(encode(tape)).operations == tape.operations
