"""The fuzzers' programs, built, and the one that takes tapes through a pipe, spoken to.

Address and undefined-behaviour checks come from gcc or clang; the mutator that looks at coverage needs clang's
libFuzzer. What is demanded of a tape is in fuzz/oracle.h.
"""

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engine import build as engine_build

SOURCES = Path(__file__).with_name("fuzz")
COUNTED = ["-include", str(SOURCES / "steps.h"), "-fsanitize-coverage=trace-pc", "-DCOUNT_STEPS"]


def _linked(output: Path, own: list[str], extra: list[str]) -> Path:
    """The engine with the oracle and sources of ours. The fuzzers' own headers count as sources here."""
    sources = [*engine_build.SOURCES.glob("*.c"), SOURCES / "oracle.c", *(SOURCES / name for name in own)]
    if output.exists() and output.stat().st_mtime_ns < max(file.stat().st_mtime_ns for file in SOURCES.iterdir()):
        output.unlink()
    return engine_build.link(output, sources, sanitize=True, shared=False, extra=extra)


NO_LIBFUZZER = (
    "clang with libFuzzer was not found, so no tape is kept for the code that it reaches. On Debian 12: "
    "apt install clang libclang-rt-14-dev"
)


def has_libfuzzer() -> bool:
    """Whether clang is here with the library that changes inputs by the code that they reach."""
    if shutil.which("clang") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "one.c"
        source.write_text("int LLVMFuzzerTestOneInput(const char *b, unsigned long n) { return !b && n; }\n")
        command = ["clang", "-fsanitize=fuzzer,address,undefined", source, "-o", source.with_suffix("")]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def guided(folder: Path) -> Path:
    """libFuzzer's program, with the mutator of tapes."""
    before = os.environ.get("CC")
    os.environ["CC"] = "clang"
    try:
        return _linked(folder / "guided", ["mutate.c"], ["-fsanitize=fuzzer"])
    finally:
        del os.environ["CC"]
        if before is not None:
            os.environ["CC"] = before


def piped(folder: Path) -> Path:
    """The program that tries tapes from its standard input, as they are or changed, and counts steps."""
    return _linked(folder / "piped", ["piped.c", "mutate.c"], COUNTED)


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

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.records + other.records,
            self.unplayed + other.unplayed,
            max(self.dearest, other.dearest),
            self.accepted + other.accepted,
            {rule: count + other.refused.get(rule, 0) for rule, count in self.refused.items()},
        )


class TapeFailed(Exception):
    """A tape for which something demanded did not hold: `tape` is where it was left."""

    def __init__(self, tape: Path, said: str):
        self.tape, self.said = tape, said
        super().__init__(f"{said}\nthe tape is in {tape}")


def framed(tape: bytes) -> bytes:
    """A tape as the program reads it."""
    return struct.pack("<I", len(tape)) + tape


def try_all(program: Path, tapes: Iterable[bytes], left: Path, *more: str) -> Tally:
    """Tries some tapes; one that fails is left in a file. `more` is what else the program is told."""
    done = subprocess.run([program, left, *more], input=b"".join(map(framed, tapes)), capture_output=True, check=False)
    if done.returncode != 0:
        raise TapeFailed(left, done.stderr.decode(errors="replace")[-4000:])
    return Tally.parse(done.stdout.decode().splitlines()[-1])


def try_changed(program: Path, tapes: Iterable[bytes], left: Path, count: int, seed: int) -> Tally:
    """Tries so many tapes that the mutator makes of these."""
    return try_all(program, tapes, left, "--change", str(count), str(seed))
