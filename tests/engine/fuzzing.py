"""The fuzzers' programs, built, and the one that takes tapes through a pipe, spoken to.

Address and undefined-behaviour checks come from gcc or clang; the mutator that looks at coverage needs clang's
libFuzzer. What is demanded of a tape is in fuzz/oracle.h.
"""

import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engine import build as engine_build

SOURCES = Path(__file__).with_name("fuzz")
COUNTED = ["-include", str(SOURCES / "steps.h"), "-fsanitize-coverage=trace-pc", "-DCOUNT_STEPS"]


def _linked(output: Path, main: str, extra: list[str]) -> Path:
    """The engine with the oracle and a main program. The fuzzers' own headers count as sources here."""
    sources = [*engine_build.SOURCES.glob("*.c"), SOURCES / "oracle.c", SOURCES / main]
    if output.exists() and output.stat().st_mtime_ns < max(file.stat().st_mtime_ns for file in SOURCES.iterdir()):
        output.unlink()
    return engine_build.link(output, sources, sanitize=True, shared=False, extra=extra)


def piped(folder: Path) -> Path:
    """The program that tries tapes from its standard input, and counts steps."""
    return _linked(folder / "piped", "piped.c", COUNTED)


@dataclass(frozen=True)
class Tally:
    """What became of the tapes tried so far."""

    records: int
    """played, one by one"""
    unplayed: int
    """accepted tapes whose regions are too large to try"""
    dearest: float
    """the most steps that a record took for each of its operations and bytes"""
    accepted: int
    refused: dict[int, int]
    """by rule"""

    @classmethod
    def parse(cls, line: str) -> "Tally":
        """A line of the program."""
        records, unplayed, dearest, accepted, *refused = line.split()
        by_rule = {rule: int(count) for rule, count in enumerate(refused, 1)}
        return cls(int(records), int(unplayed), float(dearest), int(accepted), by_rule)

    @property
    def tried(self) -> int:
        return self.accepted + sum(self.refused.values())


class TapeFailed(Exception):
    """A tape for which something demanded did not hold: `tape` is where it was left."""

    def __init__(self, tape: Path, said: str):
        self.tape, self.said = tape, said
        super().__init__(f"{said}\nthe tape is in {tape}")


def framed(tape: bytes) -> bytes:
    """A tape as the program reads it."""
    return struct.pack("<I", len(tape)) + tape


def try_all(program: Path, tapes: Iterable[bytes], left: Path) -> Tally:
    """Tries some tapes; one that fails is left in a file."""
    done = subprocess.run([program, left], input=b"".join(map(framed, tapes)), capture_output=True, check=False)
    if done.returncode != 0:
        raise TapeFailed(left, done.stderr.decode(errors="replace")[-4000:])
    return Tally.parse(done.stdout.decode().splitlines()[-1])
