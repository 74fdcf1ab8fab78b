"""Runs that are over, a line each in a file: another machine goes on from it, and tables are printed without playing.

Folders of runs are large and stay where they were played; what they came to is a few hundred numbers.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from published.outcome import Played

FORM = 1  # counted up by who changes what a run comes to: lines of another form are as good as not there


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`run` says which: setting, seed, and what distinguishes it, as its folder is named."""

    run: str
    form: int
    played: Played


class Record:
    """The lines of a file, which need not be there yet.

    >>> import tempfile
    >>> from published.outcome import Moment, came_to
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     one = came_to("tacit", 0, 1, [Moment(0.5, 1.0, 1, 1, 1, 1.0)], 1, 1, 1, 1)
    ...     Record(Path(folder) / "runs").add("a/b", one)
    ...     [name for name in ("a/b", "a/c") if Record(Path(folder) / "runs").found(name)]
    ['a/b']
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[str, Played] = {}
        for number, text in enumerate(path.read_bytes().splitlines() if path.exists() else (), start=1):
            try:
                line = msgspec.json.decode(text, type=Line)
            except msgspec.MsgspecError as error:
                how = "take that line out, and its run is played again"
                raise SystemExit(f"{path}, line {number}: {error}; {how}") from error
            if line.form == FORM:
                self._lines[line.run] = line.played

    def found(self, run: str) -> Played | None:
        return self._lines.get(run)

    def add(self, run: str, played: Played) -> None:
        """Keeps it, in the file as well."""
        self._lines[run] = played
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(Line(run, FORM, played)) + b"\n")
