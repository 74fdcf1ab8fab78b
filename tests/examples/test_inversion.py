"""PROTOCOL 12.2: inverting a gradient shows the image of a raw update, and nothing of what a coordinator sees."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "examples/inversion/invert.py"
RECOVERED = 0.8  # images without relation have 0 ± 0.12: 0.8 by chance once in 10^15


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tacit_example_inversion", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_inversion_finds_every_image_in_a_raw_update_and_none_in_what_is_sent_or_opened(example):
    images, digits = example.victims(seed=3)
    model = np.random.default_rng(1).normal(0, 0.05, example.D)

    *alone, (together,) = example.attacks(images, digits, model)

    assert len(alone) == len(together.likenesses) == 20
    for raw, unmasked, sent in alone:
        assert raw.best > 0.999 and unmasked.best > 0.99
        assert sent.best < RECOVERED
    assert np.mean([abs(sent.best) for *_, sent in alone]) < 0.3, "0.1 on average, 0.02 about it"
    assert together.best < RECOVERED


def test_the_script_prints_pictures_and_figures(example, capsys):
    example.main()

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("   ")[0] == "the image" and len(lines) == 14
    assert lines[10].startswith("raw update") and "1.00 on average" in lines[10]
