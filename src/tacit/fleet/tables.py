"""Tables that people write: CSV with a header. Whatever is wrong is told with file, line and field.

A table is UTF-8. Lines that begin with `#` may stand above the header; empty lines are passed over. Nothing here
knows what a column means: who reads one asks each row for a whole number or a number between two bounds.
"""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tacit.errors import InputError


class TableWrong(InputError):
    """A file of numbers that cannot be used; the sentence names the place in it."""


@dataclass(frozen=True)
class Row:
    """One line of a table: its texts by column, and where it stands."""

    path: Path
    line: int
    fields: dict[str, str]

    def text(self, field: str) -> str:
        """What stands there, without blanks around it; something must."""
        found = self.fields[field].strip()
        if not found:
            raise self.wrong(field, "is empty")
        return found

    def whole(self, field: str, least: int, most: int, meaning: str) -> int:
        """A whole number between two bounds, both allowed."""
        found = self.text(field)
        # int() also takes 1_000, ٣ and +3, which in a file of numbers are slips.
        if not re.fullmatch(r"-?[0-9]{1,18}", found) or not least <= int(found) <= most:
            raise self.wrong(field, f"is {found[:40]!r}: {meaning}, a whole number from {least:,} to {most:,}")
        return int(found)

    def number(self, field: str, least: float, most: float, meaning: str) -> float:
        """A finite number between two bounds, both allowed."""
        found = self.text(field)
        try:
            value = float(found)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise self.wrong(field, f"is {found[:40]!r}: {meaning}, from {least:,g} to {most:,g}")
        return value

    def wrong(self, field: str, what: str) -> TableWrong:
        return TableWrong(f"{self.path}, line {self.line}: {field} {what}")


@dataclass(frozen=True)
class Table:
    """A file whose header has been read: the lines above it, the columns, and the rows as they come."""

    path: Path
    remarks: tuple[str, ...]
    columns: tuple[str, ...]
    text: str  # header and all that follows

    def rows(self) -> Iterator[Row]:
        """Every row; `TableWrong` at the first with more or fewer fields than the header."""
        lines = _lines(self.path, len(self.remarks), self.text)
        next(lines)  # the header
        for line, fields in lines:
            if fields and len(fields) != len(self.columns):
                raise TableWrong(
                    f"{self.path}, line {line}: {len(fields)} fields, where the header names "
                    f"{len(self.columns)} ({','.join(self.columns)})"
                )
            if fields:
                yield Row(self.path, line, dict(zip(self.columns, fields, strict=True)))


def read_bytes(path: Path) -> bytes:
    """What the file holds."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise TableWrong(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:  # a name that no file can have
        raise TableWrong(f"{str(path)!r} cannot be read ({error})") from None


def table(path: Path, data: bytes, known: Sequence[Sequence[str]]) -> Table:
    """The table in these bytes, whose columns must be one of the `known` lists, in any order.

    >>> table(Path("who.csv"), b"device,example\\n1,5\\n", [("example", "device")]).columns
    ('device', 'example')
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TableWrong(f"{path}, line {line}: byte {data[error.start]:#04x} is not UTF-8") from None
    remarks: list[str] = []
    while text.startswith("#"):
        remark, _, text = text.partition("\n")
        remarks.append(remark.strip())
    first = next(_lines(path, len(remarks), text), None)
    columns = () if first is None else tuple(name.strip() for name in first[1])
    if all(sorted(columns) != sorted(each) for each in known):
        wanted = " or ".join(",".join(each) for each in known)
        found = ",".join(columns)
        shown = f"names {found[:80]!r}" if found else "is empty"
        raise TableWrong(f"{path}, line {len(remarks) + 1}: the header {shown}; expected {wanted}")
    return Table(path, tuple(remarks), columns, text)


def _lines(path: Path, above: int, text: str) -> Iterator[tuple[int, list[str]]]:
    """The fields of every line, with its number in the file."""
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for fields in lines:
            yield above + lines.line_num, fields
    except csv.Error as error:
        raise TableWrong(f"{path}, line {above + lines.line_num}: {error}") from None
