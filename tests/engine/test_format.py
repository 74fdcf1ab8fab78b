"""The format is written down three times, in Python, in C and in words: all three say the same."""

import re
from enum import IntEnum
from pathlib import Path

import pytest

from tacit.engine.visit import Result
from tacit.plan import tape
from tacit.plan.tape import SIGNATURES, WRITABLE, Accumulate, Fn, Kind, Mode, Op, Region

ROOT = Path(__file__).parents[2]
HEADER = (ROOT / "engine" / "format.h").read_text() + (ROOT / "engine" / "tacit.h").read_text()
PAGE = (ROOT / "docs" / "reference" / "tape.md").read_text()


def enum_in_c(name: str, prefix: str) -> dict[str, int]:
    """The members of a C enum, counted as C does."""
    body = re.search(rf"enum {name} \{{(.*?)\}}", HEADER, re.DOTALL)
    assert body is not None, name
    members: dict[str, int] = {}
    value = 0
    for entry in re.sub(r"/\*.*?\*/", "", body[1], flags=re.DOTALL).split(","):
        if match := re.match(rf"\s*{prefix}(\w+)(?:\s*=\s*(\d+))?\s*$", entry):
            value = int(match[2]) if match[2] else value
            members[match[1]] = value
            value += 1
    return members


def members(enum: type[IntEnum]) -> dict[str, int]:
    return {member.name: member.value for member in enum}


@pytest.mark.parametrize(
    ("enum", "name", "prefix"),
    [
        (Op, "op", "OP_"),
        (Fn, "fn", "FN_"),
        (Mode, "mode", "MODE_"),
        (Accumulate, "accumulate", "ACCUMULATE_"),
        (Region, "tacit_region", "TACIT_"),
        (Kind, "tacit_kind", "TACIT_"),
        (Result, "tacit_result", "TACIT_"),
    ],
)
def test_c_counts_as_python_does(enum: type[IntEnum], name: str, prefix: str):
    assert enum_in_c(name, prefix) == members(enum)


@pytest.mark.parametrize(
    "name",
    ["HEADER_SIZE", "RECORD_SIZE", "OPERANDS", "PARAMETERS", "REGIONS", "PANEL", "ALIGNMENT", "MAP_REGISTERS"],
)
def test_c_and_python_agree_on_sizes(name: str):
    found = re.search(rf"\b{name} = (\d+)", HEADER)

    assert found is not None
    assert int(found[1]) == getattr(tape, name)


def test_the_page_names_every_operation_with_its_operands():
    table = PAGE.split("## Operations")[1].split("### Maps")[0]
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|([^|]*)\|([^|]*)\|", table, re.MULTILINE)

    assert {name: int(number) for number, name, _, _ in rows} == members(Op)
    for _, name, outputs, inputs in rows:
        signature = SIGNATURES[Op[name]]
        if Op[name] is not Op.MAP:
            assert [*signature.outputs] == [w for w in outputs.strip().split(", ") if w]
            assert [*signature.inputs] == [w for w in inputs.strip().split(", ") if w]


def test_the_page_names_every_function_mode_and_region():
    functions = {name: int(number) for number, name in re.findall(r"\| (\d+) \| ([A-Z]+) \|", PAGE)}
    modes = {name: int(number) for number, name in re.findall(r"^\| (\d) \| ([A-Z_]+) \| `x", PAGE, re.MULTILINE)}

    assert {name: functions.get(name) for name in members(Fn)} == members(Fn)
    assert modes == members(Mode)


def test_the_page_says_who_writes_a_region():
    rows = re.findall(r"^\| (\d+) \| ([a-z]+) \| [^|]+ \| ([^|]+) \|$", PAGE, re.MULTILINE)

    assert {name.upper(): int(number) for number, name, _ in rows} == members(Region)
    for _, name, writers in rows:
        writing = {kind.name.lower() for kind in Kind if Region[name.upper()] in WRITABLE[kind]}
        said = writers.strip()
        named = {"all": {kind.name.lower() for kind in Kind}, "nobody": set[str]()}
        assert named.get(said, set(said.split(", "))) == writing
