"""Profiles: every number lies in its range and has somebody who vouches for it."""

import ast
import contextlib
import json
import math
import operator
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.plan.profile import (
    RANGES,
    ProfileWrong,
    encode_profile,
    numbers,
    parse_profile,
    read_profile,
    shipped,
    source_of,
)

PHONE = json.loads(encode_profile(read_profile("phone-recent")))
ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def changed(path: str, value: Any) -> bytes:
    """The file of a phone with another value at a path; levels go by their names."""
    tree = json.loads(json.dumps(PHONE))
    *above, last = path.split(".")
    at = tree
    for step in above:
        at = next(level for level in at if level["name"] == step) if isinstance(at, list) else at[step]
    at[last] = value
    return json.dumps(tree).encode()


def calculated(node: ast.AST) -> float:
    match node:
        case ast.Expression(body):
            return calculated(body)
        case ast.Constant(value) if isinstance(value, int | float):
            return value
        case ast.BinOp(left, op, right):
            return ARITHMETIC[type(op)](calculated(left), calculated(right))
        case _:
            raise AssertionError(f"{ast.unparse(node)} is no arithmetic")


def test_there_is_a_profile_of_every_class_of_devices():
    assert shipped() == (
        "browser-phone",
        "laptop-entry",
        "micro-server",
        "phone-mid",
        "phone-recent",
        "pi-3b-plus",
        "pi-4b",
        "pi-5",
    )


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_profile_is_called_as_its_file_and_is_read_back_as_it_was(name):
    profile = read_profile(name)

    assert profile.name == name
    assert parse_profile(encode_profile(profile)) == profile


@pytest.mark.parametrize("name", shipped())
def test_every_number_of_a_shipped_profile_has_a_source_of_its_own(name):
    profile = read_profile(name)

    for path in numbers(profile):
        source = source_of(profile, path)
        assert source is profile.sources.get(path), path
        assert source.kind != "published" or source.address.startswith("https://"), path


@pytest.mark.parametrize("name", shipped())
def test_arithmetic_of_a_source_comes_to_the_number_that_it_is_for(name):
    profile, found = read_profile(name), 0
    for path, source in profile.sources.items():
        if source.arithmetic:
            found += 1
            made = calculated(ast.parse(source.arithmetic, mode="eval"))
            assert math.isclose(made, numbers(profile)[path], rel_tol=1e-5), path

    assert found


def test_every_number_has_a_range():
    for name in shipped():
        for path in numbers(read_profile(name)):
            patterns = [p for p in RANGES if re.fullmatch(p.replace(".", r"\.").replace("*", r"[^.]+"), path)]
            assert len(patterns) == 1, path


@st.composite
def impossible(draw: st.DrawFn) -> tuple[str, float]:
    path = draw(st.sampled_from(sorted(numbers(read_profile("phone-recent")))))
    low, high = next(
        (found.low, found.high)
        for pattern, found in RANGES.items()
        if re.fullmatch(pattern.replace(".", r"\.").replace("*", r"[^.]+"), path)
    )
    below = st.floats(max_value=low, exclude_max=True, allow_infinity=False)
    above = st.floats(min_value=high, exclude_min=True, allow_infinity=False)
    return path, draw(below | above)


@given(impossible())
def test_a_number_outside_its_range_is_refused_by_its_name_with_its_value(drawn):
    path, value = drawn

    with pytest.raises(ProfileWrong) as refused:
        parse_profile(changed(path, value))

    said = str(refused.value)
    assert said.startswith(f"profile phone-recent: {path} = {value:g}: it is between ")
    assert "; " in said  # and what to do


def test_the_sentence_names_field_value_range_unit_and_a_way_out():
    with pytest.raises(ProfileWrong) as refused:
        parse_profile(changed("power.busy_watts", -3))

    assert str(refused.value) == (
        "profile phone-recent: power.busy_watts = -3: it is between 0 and 1,000 watts; write watts: 500 mW is 0.5"
    )


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("name", "My Phone", "small letters"),
        ("colour", "red", "colour"),
        ("power.busy_watts", "1 W", "float"),
        ("radios.none", PHONE["radios"]["wifi"], "radios.none: without a radio"),
        ("radios.5g", PHONE["radios"]["wifi"], "5g"),
        ("compute.levels", [], "compute"),
        ("compute.levels", PHONE["compute"]["levels"][:2], "null for the last"),
        ("compute.levels", [PHONE["compute"]["levels"][n] for n in (1, 0, 2)], "from small to large"),
        ("compute.levels", [PHONE["compute"]["levels"][n] for n in (0, 0, 2)], "each once"),
        ("sources", {"power": {"kind": "assumed", "text": "a guess"}}, "compute.peak has no source"),
        ("sources", PHONE["sources"] | {"power.fast": {"kind": "assumed", "text": "a guess"}}, "is no number"),
        ("sources", PHONE["sources"] | {"memory_bytes": {"kind": "assumed", "text": ""}}, "no text"),
        ("sources", PHONE["sources"] | {"memory_bytes": {"kind": "published", "text": "8 GB"}}, "at which address"),
        ("sources", PHONE["sources"] | {"memory_bytes": {"kind": "derived", "text": "8 GB"}}, "write the arithmetic"),
        ("sources", PHONE["sources"] | {"memory_bytes": {"kind": "heard", "text": "8 GB"}}, "heard"),
    ],
)
def test_what_is_no_profile_is_refused_with_a_reason(path, value, said):
    with pytest.raises(ProfileWrong, match=re.escape(said)):
        parse_profile(changed(path, value))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b'{"name": "a"}', b'{"name": NaN}', b"\xff"])
def test_bytes_that_are_no_profile_are_refused(data):
    with pytest.raises(ProfileWrong, match="this is not a profile"):
        parse_profile(data)


def test_one_source_may_stand_for_all_numbers_below_it():
    sources = {
        path: {"kind": "assumed", "text": "a guess"}
        for path in ("compute", "power", "radios", "battery", "memory_bytes", "base_bytes")
    }

    profile = parse_profile(changed("sources", sources))

    assert source_of(profile, "radios.lte.tail_joules") is profile.sources["radios"]


def test_a_file_that_is_wrong_or_not_there_is_named(tmp_path: Path):
    file = tmp_path / "mine.json"

    with pytest.raises(ProfileWrong, match="tacit calibrate -o"):
        read_profile(str(file))
    file.write_bytes(changed("battery.volts", 0))
    with pytest.raises(ProfileWrong, match=f"{re.escape(str(file))}: profile phone-recent: battery.volts = 0"):
        read_profile(str(file))


def test_an_unknown_name_lists_those_that_there_are():
    with pytest.raises(ProfileWrong, match=r"no profile 'toaster'; there are browser-phone, .*pi-5"):
        read_profile("toaster")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(["", *PHONE, *(f"compute.{name}" for name in PHONE["compute"]), "radios.wifi", *RANGES]), anything
)
def test_whatever_stands_in_a_file_there_is_a_profile_or_a_sentence(path, value):
    path = path.replace("levels.*", "levels.L2").replace("radios.*", "radios.lte").replace("work.*.*", "work")
    data = changed(path, value) if path else json.dumps(value).encode()

    with contextlib.suppress(ProfileWrong):
        assert numbers(parse_profile(data))


@pytest.mark.parametrize("value", ["1" + "0" * 400, "1e400", "-1e400", "NaN", "Infinity"])
def test_a_number_beyond_all_others_is_refused(value):
    with pytest.raises(ProfileWrong):
        parse_profile(changed("base_bytes", 0).replace(b'"base_bytes": 0', f'"base_bytes": {value}'.encode()))
