"""A sweep's file: which runs of `tacit simulate` there are, by name. Values only: nothing is played here.

[run]                                # the same in every run: options of `tacit simulate` without their dashes
task = "task.py"                     # paths are seen from the folder of this file
data = "photos.npz"
devices = 500

[grid]                               # every combination of these
strategy = ["tacit", "fedbuff"]
seed = [1, 2, 3]

[[point]]                            # and this one besides; there may be more
strategy = "central"
"""

import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from tacit.errors import InputError

TABLES = ("run", "grid", "point")
OURS = {"out": "the sweep names the folders", "help": "it plays nothing"}
LONGEST_NAME = 100

Setting: TypeAlias = str | int | float | bool | tuple[str | int | float, ...]


class GridInvalid(InputError):
    """A sweep's file that says nothing sensible; the sentence has file, line and key."""


@dataclass(frozen=True)
class Point:
    """One run: everything that is asked of it, and what tells it from its neighbours."""

    name: str
    settings: Mapping[str, Setting]
    apart: Mapping[str, Setting]

    @property
    def words(self) -> list[str]:
        """What stands behind `tacit simulate`.

        >>> Point("a", {"task": "task.py", "at_work": 20, "keep": True, "mix": ("a=1", "b=2")}, {}).words
        ['task.py', '--at-work=20', '--keep', '--mix=a=1,b=2']
        """
        options = (_option(key, value) for key, value in self.settings.items() if key != "task")
        task = [_text(self.settings["task"])] if "task" in self.settings else []
        return [*task, *(word for word in options if word is not None)]


@dataclass(frozen=True)
class Grid:
    """The file and its points, in its order: those of the grid first, seeds or whatever stands last varying fastest."""

    file: Path
    text: str
    points: tuple[Point, ...]

    def line(self, key: str) -> str:
        """Where a setting is first named, as errors begin.

        >>> Grid(Path("grid.toml"), "[run]\\ndays = 3\\n", ()).line("days")
        'grid.toml line 2, run.days'
        """
        for number, table, name in _keys(self.text):
            if name.replace("-", "_") == key and table in TABLES:
                return f"{self.file} line {number}, {table}.{name}"
        return f"{self.file}"


def read_grid(file: Path) -> Grid:
    """The sweep that a file describes."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GridInvalid(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise GridInvalid(f"{file} is no TOML: {error}") from error
    return Grid(file, text, _points(file, text, tables))


def _points(file: Path, text: str, tables: dict[str, Any]) -> tuple[Point, ...]:
    for name, value in tables.items():
        if name not in TABLES:
            raise GridInvalid(
                f"{_at(file, text, None, name)}: [{name}] is no table of a sweep; there are [run], [grid] and [[point]]"
                if isinstance(value, dict | list)
                else f"{_at(file, text, None, name)}: it stands in no table; write it below [run]"
            )
    run, grid = tables.get("run", {}), tables.get("grid", {})
    others = tables.get("point", [])
    for name, value, form in (("run", run, dict), ("grid", grid, dict), ("point", others, list)):
        if not isinstance(value, form):
            wanted = "[[point]]" if name == "point" else f"[{name}]"
            raise GridInvalid(f"{_at(file, text, None, name)}: write it as {wanted}")
    fixed = _settings(file, text, "run", run)
    axes: dict[str, list[Setting]] = {}
    for key, values in cast(dict[str, Any], grid).items():
        if not isinstance(values, list) or not values:
            raise GridInvalid(f"{_at(file, text, 'grid', key)}: a list of at least one value is expected")
        each = cast(list[Any], values)
        axes[_key(file, text, "grid", key)] = [_setting(file, text, "grid", key, value) for value in each]
    combined = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    besides = [_settings(file, text, "point", point) for point in cast(list[Any], others)]
    if besides and not axes:
        combined = []
    return tuple(_named(fixed, [*combined, *besides], file))


def _named(fixed: dict[str, Setting], varied: Iterable[dict[str, Setting]], file: Path) -> Iterator[Point]:
    """Points by readable names, each once."""
    taken: dict[str, str] = {}
    for apart in varied:
        settings = fixed | apart
        if "task" not in settings:
            raise GridInvalid(f'{file}: no task is named; write task = "task.py" below [run]')
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        name = slug(apart, digest)
        if name in taken and taken[name] != digest:
            name = f"{name}-{digest}"
        if name in taken:
            continue
        taken[name] = digest
        yield Point(name, settings, apart)


def slug(apart: Mapping[str, Setting], digest: str) -> str:
    """A name for a folder; with a few digits of a hash where letters had to go.

    >>> slug({"strategy": "fedavg", "seed": 3}, "0badcafe"), slug({"split": "dirichlet:0.5"}, "0badcafe"), slug({}, "")
    ('strategy-fedavg_seed-3', 'split-dirichlet-0.5', 'run')
    >>> slug({"data": "a/b c.npz"}, "0badcafe")
    'data-a-b-c.npz-0badcafe'
    """
    whole = "_".join(f"{key}-{_text(value)}" for key, value in apart.items()) or "run"
    name = re.sub(r"[^A-Za-z0-9.+=_-]+", "-", whole)
    # A colon or comma reads as a dash, and which of the two it was hardly ever matters; points that are the same then
    # are told apart by `_named`.
    if name == re.sub(r"[:,]", "-", whole) and len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{digest}"


def _settings(file: Path, text: str, table: str, values: Any) -> dict[str, Setting]:
    if not isinstance(values, dict):
        raise GridInvalid(f"{_at(file, text, None, table)}: settings by name are expected")
    return {
        _key(file, text, table, key): _setting(file, text, table, key, value)
        for key, value in cast(dict[str, Any], values).items()
    }


def _key(file: Path, text: str, table: str, key: str) -> str:
    name = key.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise GridInvalid(f"{_at(file, text, table, key)}: {key!r} is no option of tacit simulate")
    if name in OURS:
        raise GridInvalid(f"{_at(file, text, table, key)}: leave it out, {OURS[name]}")
    return name


def _setting(file: Path, text: str, table: str, key: str, value: Any) -> Setting:
    if isinstance(value, list):
        parts = cast(list[Any], value)
        if parts and all(isinstance(part, str | int | float) and not isinstance(part, bool) for part in parts):
            return tuple(parts)
    elif isinstance(value, str | int | float):
        return value
    raise GridInvalid(
        f"{_at(file, text, table, key)}: a text, a number, true, false or a list of texts or numbers is expected"
    )


def _option(key: str, value: Setting) -> str | None:
    name = f"--{key.replace('_', '-')}"
    if isinstance(value, bool):
        return name if value else None
    return f"{name}={_text(value)}"


def _text(value: Setting) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _at(file: Path, text: str, table: str | None, key: str) -> str:
    """File, line and key, as errors begin."""
    path = key if table is None else f"{table}.{key}"
    for number, within, name in _keys(text):
        if (table is None and key in (within, name)) or (table == within and name == key):
            return f"{file} line {number}, {path}"
    return f"{file}, {path}"


def _keys(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, table and key of all that is written plainly; a header has no key."""
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line):
            table = header[1].strip("\"'")
            yield number, table, ""
        elif key := re.match(r"\s*([A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')\s*=", line):
            yield number, table, key[1].strip("\"'")


def seeds_apart(points: Sequence[Point]) -> bool:
    """Whether runs differ in their seed, so that a mean over seeds says something.

    >>> seeds_apart([Point("a", {}, {"seed": 1}), Point("b", {}, {"seed": 2})])
    True
    """
    return len({point.apart.get("seed") for point in points}) > 1
