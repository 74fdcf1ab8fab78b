"""The written argument names functions: they exist."""

import importlib
import re
from pathlib import Path

EXPLANATIONS = Path(__file__).parents[2] / "docs" / "explanation"
NAMED = re.compile(r"`([\w/]+)\.py:([\w.]+)`")


def test_every_function_that_the_argument_names_is_there():
    named = [
        name
        for file in ("privacy-proof.md", "threat-model.md")
        for name in NAMED.findall((EXPLANATIONS / file).read_text())
    ]

    assert len(named) > 30
    for path, name in named:
        found: object = importlib.import_module(f"tacit.{path.replace('/', '.')}")
        for part in name.split("."):
            found = getattr(found, part)


def test_every_file_that_the_argument_names_is_there():
    root = EXPLANATIONS.parents[1]
    for file in ("privacy-proof.md", "threat-model.md"):
        for path in re.findall(r"`(tests/[\w/]+(?:\.py)?)`", (EXPLANATIONS / file).read_text()):
            assert (root / path).exists(), path
