"""Randomness that protects somebody comes from the operating system, and pure rooms are handed theirs.

A seeded generator in place of the system's would undo masking and noise without any other test noticing,
so this reads the sources: `device`, `keyholder`, `coordinator` and `cli` may ask the operating system
(`os.urandom`, `secrets`); `privacy`, `codec`, `wire`, `plan`, `engine` and `task` take random bytes as
arguments. `compiler` may use a seeded generator, because initial values and trial inputs protect nobody; `fleet` uses
nothing else, because a run that is played again must come to the same bytes.
"""

import ast
import pathlib

import pytest

ROOMS = pathlib.Path(__file__).parents[1] / "src" / "tacit"
SEEDED = ("random", "numpy.random", "torch.random", "torch.manual_seed", "torch.rand", "torch.Generator")
SYSTEM = ("os.urandom", "os.getrandom", "secrets", "uuid")
REFUSED = {
    "device": SEEDED,
    "keyholder": SEEDED,
    "coordinator": SEEDED,
    "cli": SEEDED,
    "privacy": SEEDED + SYSTEM,
    "codec": SEEDED + SYSTEM,
    "wire": SEEDED + SYSTEM,
    "plan": SEEDED + SYSTEM,
    "engine": SEEDED + SYSTEM,
    "task": SEEDED + SYSTEM,
    "fleet": SYSTEM,
}
# A file of those rooms that may use a seeded generator, with the reason.
ALLOWED: dict[str, str] = {}


def names_used(source: str) -> list[tuple[int, str]]:
    """Every dotted name in the source with its line, written out in full through the file's imports."""
    tree = ast.parse(source)
    meaning: dict[str, str] = {}
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.append((node.lineno, alias.name))
                top = alias.name.split(".")[0]
                meaning[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.append((node.lineno, full))
                meaning[alias.asname or alias.name] = full
    for node in ast.walk(tree):
        parts: list[str] = []
        at = node
        while isinstance(at, ast.Attribute):
            parts.insert(0, at.attr)
            at = at.value
        if parts and isinstance(at, ast.Name) and at.id in meaning:
            found.append((getattr(node, "lineno", 0), ".".join([meaning[at.id], *parts])))
    return found


def refused_names(source: str, refused: tuple[str, ...]) -> list[str]:
    return sorted(
        {
            f"line {line}: {name}"
            for line, name in names_used(source)
            for word in refused
            if name == word or name.startswith(word + ".")
        }
    )


def files_of(room: str) -> list[pathlib.Path]:
    return [ROOMS / f"{room}.py"] if (ROOMS / f"{room}.py").exists() else sorted((ROOMS / room).rglob("*.py"))


@pytest.mark.parametrize("room", REFUSED)
def test_a_room_uses_no_randomness_that_it_must_not(room: str):
    files = files_of(room)

    assert files, f"there is no room {room}"
    for file in files:
        place = str(file.relative_to(ROOMS))
        if place not in ALLOWED:
            assert refused_names(file.read_text(), REFUSED[room]) == [], place


def test_every_exception_is_a_file_that_exists():
    assert [place for place in ALLOWED if not (ROOMS / place).exists()] == []


@pytest.mark.parametrize(
    "source",
    [
        "import random",
        "import random as r\nr.random()",
        "from random import Random",
        "import numpy as np\nnp.random.default_rng(7)",
        "from numpy import random",
        "from numpy.random import default_rng as rng",
        "import numpy\ndef f():\n    return numpy.random.rand()",
        "import torch\ntorch.manual_seed(0)",
    ],
)
def test_a_seeded_generator_is_found_however_it_is_imported(source: str):
    assert refused_names(source, SEEDED)


@pytest.mark.parametrize("source", ["from os import urandom", "import os\nos.urandom(16)", "import secrets"])
def test_a_pure_room_that_asks_the_system_is_found(source: str):
    assert refused_names(source, SYSTEM)


def test_innocent_names_are_left_alone():
    assert refused_names("import os\nos.path.join('a')\nrandom = 1\nfrom x import random_mask", SEEDED + SYSTEM) == []
