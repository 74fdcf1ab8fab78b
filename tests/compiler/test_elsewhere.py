"""Compiled tasks on other machines: the bytes of AVX2 on aarch64, and a millionth away at most in WebAssembly."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing

import numpy as np
import pytest
from numpy.typing import NDArray

from tacit.compiler.compile import Compiled
from tacit.engine.library import instructions
from tacit.plan.program import Playable
from tests.compiler.families import FAMILIES, MICROBATCH, compiled_family, family, family_examples, whole_family
from tests.compiler.models import Engine, layers
from tests.engine.conftest import ELSEWHERE, started
from tests.engine.elsewhere import Elsewhere

STEPS = 2


@pytest.fixture(scope="module")
def elsewhere(request: pytest.FixtureRequest) -> Iterator[dict[str, Elsewhere]]:
    """Every other machine: a task is compiled once for all of them."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(closing(started(request, m))) for name, m in ELSEWHERE.items()}


def trained(name: str, playable: Playable) -> list[NDArray[np.float32]]:
    """The first gradient, the state after two steps, and what the model says then."""
    x, y, weight = family_examples(name, MICROBATCH)
    player = Engine(playable)
    kept, gradients = player.keep(x), list[NDArray[np.float32]]()
    for _ in range(STEPS):
        player.step(kept or x, y, weight, float(weight.sum()), first=True)
        gradients.append(player.gradient())
        player.apply(0.02)
    return [gradients[0], player.snapshot(), player.predict(x)]


def check(compiled: Compiled, name: str, elsewhere: Mapping[str, Elsewhere]) -> None:
    here = trained(name, compiled.playable)
    for machine, engine in elsewhere.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tacit.engine.tape.library", lambda engine=engine: engine)
            there = trained(name, compiled.playable)
        for ours, theirs in zip(here, there, strict=True):
            if machine == "aarch64 under emulation" and instructions() != "baseline":
                assert ours.tobytes() == theirs.tobytes()
            else:
                assert np.linalg.norm(ours - theirs) <= 1e-6 * np.linalg.norm(ours), machine


@pytest.mark.parametrize("name", FAMILIES)
def test_two_steps_of_all_of_it_and_what_it_predicts_are_the_same(name: str, elsewhere: dict[str, Elsewhere]) -> None:
    check(whole_family(name), name, elsewhere)


@pytest.mark.parametrize("name", list(FAMILIES)[::5])
def test_so_are_two_steps_of_its_last_half_from_the_prefix(name: str, elsewhere: dict[str, Elsewhere]) -> None:
    groups = list(layers(family(name)).values())
    subset = [parameter for group in groups[len(groups) // 2 :] for parameter in group]
    check(compiled_family(name, subset), name, elsewhere)
