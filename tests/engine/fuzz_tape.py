"""Tries changed tapes for a while: `make fuzz-tape`, or `python -m tests.engine.fuzz_tape --seconds 60`.

Half of the time tapes are changed blindly, one thing each (tapes.py), half of it by a mutator that knows what hangs
together (fuzz/mutate.c): in libFuzzer's hands where clang has it, else in those of the program itself.
docs/reference/fuzzing.md says what is demanded of each tape, and keeps the record of the long runs.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from threading import Thread

from engine import build as engine_build
from tacit.engine.library import rules
from tacit.plan.tape import Tape, decode, encode
from tests.engine.fuzzing import NO_LIBFUZZER, Tally, TapeFailed, framed, guided, has_libfuzzer, piped, try_changed
from tests.engine.tapes import MAKERS, sequence, tapes_to_try

FOLDER = engine_build.SOURCES.parent / "build" / "fuzz"
ENDLESS = 10**12
MOST_LENGTH = 20_000
"""Bytes of a compiled tape that is changed: longer ones are slow to try, and have the same records."""
COMPILED = ("lenet", "resnet with group norm", "gpt", "gru")


def compiled_tapes() -> list[Tape]:
    """What the compiler makes of a few small nets; none where torch is not installed."""
    try:
        from tests.compiler.families import whole_family  # it imports torch
    except ImportError:
        return []
    tapes = [tape for name in COMPILED for tape in whole_family(name).playable.tapes.values()]
    return [decode(tape) for tape in tapes if len(tape) <= MOST_LENGTH]


def try_blindly(program: Path, tapes: Iterator[bytes], seconds: float, left: Path) -> Tally:
    """Pipes tapes into the program until time is up or there are no more; says how it goes."""
    begun, said = time.monotonic(), list[str]()
    command = [program, left]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdin and running.stdout and running.stderr
        errors = running.stderr
        readers = [
            Thread(target=lambda: said.extend(line.decode() for line in running.stdout or ())),
            Thread(target=lambda: complaints.append(errors.read().decode(errors="replace"))),
        ]
        complaints = list[str]()
        for reader in readers:
            reader.start()
        shown = begun
        try:
            for tape in tapes:
                running.stdin.write(framed(tape))
                now = time.monotonic()
                if said and now - shown > 5:
                    shown = now
                    show(Tally.parse(said[-1]), now - begun)
                if now - begun > seconds:
                    break
            running.stdin.close()
        except BrokenPipeError:
            pass  # it stopped: why is read below
        for reader in readers:
            reader.join()
    if running.returncode != 0:
        raise TapeFailed(left, complaints[0][-4000:])
    return Tally.parse(said[-1])


def show(tally: Tally, seconds: float) -> None:
    """One line of progress."""
    print(
        f"  {seconds:5.0f} s  {tally.tried:>11,} tapes, {tally.tried / seconds:,.0f} a second, "
        f"{tally.accepted:,} accepted, {tally.records:,} records played",
        flush=True,
    )


def try_guided(program: Path, seeds: Sequence[Tape], seconds: float, folder: Path) -> Tally:
    """libFuzzer for so many seconds, from these tapes and what earlier runs found."""
    found, begin = folder / "found", folder / "seeds"
    for place in (found, begin):
        place.mkdir(parents=True, exist_ok=True)
    for i, tape in enumerate(seeds):
        (begin / f"{i}.tape").write_bytes(encode(tape))
    left = folder / "guided-"
    command = [
        program, f"-max_total_time={max(1, round(seconds))}", "-timeout=20", "-rss_limit_mb=2048",
        f"-max_len={MOST_LENGTH}", f"-artifact_prefix={left}", found, begin,
    ]  # fmt: skip
    begun, last, tail = time.monotonic(), "", list[str]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout
        for line in running.stdout:
            tail = [*tail[-60:], line]
            if line[:1].isdigit():
                last = line
            elif line.startswith("#") and "pulse" in line:
                print(f"  {time.monotonic() - begun:5.0f} s  {line.strip()}", flush=True)
    if running.returncode != 0:
        written = [line.split()[-1] for line in tail if "Test unit written to" in line]
        raise TapeFailed(Path(written[-1] if written else left), "".join(tail)[-4000:])
    return Tally.parse(last)


def try_knowing(program: Path, begin: Sequence[Tape], seconds: float, seed: int, left: Path) -> Tally:
    """The same mutator without libFuzzer: twenty thousand tapes at a time, from these."""
    begun, tally = time.monotonic(), None
    data = [encode(tape) for tape in begin]
    while tally is None or time.monotonic() - begun < seconds:
        more = try_changed(program, data, left, 20_000, seed)
        tally, seed = tally + more if tally else more, (seed + 1) % 2**32
        show(tally, time.monotonic() - begun)
    return tally


def summary(tally: Tally, seconds: float) -> str:
    """What became of the tapes, by rule."""
    lines = [
        f"{tally.tried:,} tapes in {seconds:.0f} s, {tally.tried / seconds:,.0f} a second",
        f"{tally.accepted:>11,} accepted; {tally.records:,} records played; {tally.unplayed:,} too large to be played",
    ]
    names = {number: name for number, (name, _) in rules().items()}
    lines += [f"{count:>11,} refused by rule {rule}, {names[rule]}" for rule, count in tally.refused.items() if count]
    if tally.dearest:
        lines.append(f"at most {tally.dearest:.1f} steps for each operation and byte that a record says")
    return "\n".join(lines)


def seeds(seed: int) -> list[Tape]:
    """Tapes of every kind to begin from."""
    r = Random(seed)
    return [r.choice((*MAKERS, sequence))(r) for _ in range(400)]


def fuzzed(seconds: float, seed: int, only_guided: bool) -> tuple[Tally, float]:
    """Half of the time for each way of changing tapes; what became of them, and how long it took."""
    libfuzzer = has_libfuzzer()
    if not libfuzzer:
        print(NO_LIBFUZZER)
    print("compiling the engine with sanitizers; the first time this takes a minute or two", flush=True)
    by_coverage = guided(FOLDER) if libfuzzer else None
    program, left = piped(FOLDER), FOLDER / "failed.tape"
    compiled = compiled_tapes()
    begin, each, tally = [*seeds(1), *compiled], seconds if only_guided else seconds / 2, None
    begun = time.monotonic()
    if not only_guided:
        print(f"tapes changed blindly, seed {seed}, for {each:.0f} s", flush=True)
        tally = try_blindly(program, tapes_to_try(seed, ENDLESS, compiled), each, left)
    if by_coverage:
        print(f"tapes changed by libFuzzer for {each:.0f} s", flush=True)
        more = try_guided(by_coverage, begin, each, FOLDER)
    else:
        print(f"tapes changed by a mutator that knows them, seed {seed}, for {each:.0f} s", flush=True)
        more = try_knowing(program, begin, each, seed, left)
    return tally + more if tally else more, time.monotonic() - begun


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz_tape", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="of the blind changes; otherwise another one each time")
    parser.add_argument("--guided", action="store_true", help="with libFuzzer alone")
    parser.add_argument("--replay", type=Path, metavar="TAPE", help="try one tape again")
    asked = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        if asked.replay:
            return subprocess.run([piped(FOLDER), "--replay", asked.replay], check=False).returncode
        tally, seconds = fuzzed(
            asked.seconds, time.time_ns() % 2**32 if asked.seed is None else asked.seed, asked.guided
        )
    except KeyboardInterrupt:
        print("\nstopped; nothing had failed so far")
        return 130
    except engine_build.BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except TapeFailed as failed:
        print(failed.said, file=sys.stderr)
        print(f"FAILED. The tape is in {failed.tape}; try it again with", file=sys.stderr)
        print(f"  {sys.executable} -m tests.engine.fuzz_tape --replay {failed.tape}", file=sys.stderr)
        return 1
    print(summary(tally, seconds))
    print("clean: no crash, no hang, no byte outside an operand")
    return 0


if __name__ == "__main__":
    sys.exit(main())
