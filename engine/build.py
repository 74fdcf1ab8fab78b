"""Compiles engine/*.c into the one shared library that `tacit.engine` loads.

The only place that knows the compiler flags: the package's build hook and `make engine` both come
here. Standard library only, because it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

SOURCES = pathlib.Path(__file__).resolve().parent
LIBRARY = SOURCES.parent / "src" / "tacit" / "engine" / "libtacit.so"

# No -ffast-math: a NaN must stay a NaN, or the check for a diverged step sees nothing.
# No -march=native: a wheel built here has to run on the next machine.
FLAGS = (
    "-std=c11 -O3 -fPIC -fno-math-errno -fno-trapping-math -ffp-contract=fast "
    "-fvisibility=hidden -Wall -Wextra -Wno-psabi"
).split()
# Compiled once more for each entry, under its name; play.c chooses when a tape is opened.
KERNELS = {
    *("conv.c", "depthwise.c", "gather.c", "kernels.c", "loss.c", "map.c"),
    *("matmul.c", "narrow.c", "norm.c", "pool.c", "reduce.c", "softmax.c"),
}
VARIANTS = {"x86_64": {"avx2": ["-mavx2", "-mfma"]}}
SANITIZE = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all".split()
NO_COMPILER = (
    "tacit's engine is written in C and no C compiler was found, so nothing was built. "
    "Install one (Debian and Ubuntu: `apt install gcc`; macOS: `xcode-select --install`) "
    "or name yours in the environment variable CC."
)


class BuildError(Exception):
    """The library could not be built; the message says what to do."""


def compiler() -> list[str]:
    """The command that compiles C: $CC if it is set, else the first of cc, gcc, clang on the PATH."""
    if wanted := shlex.split(os.environ.get("CC", "")):
        if shutil.which(wanted[0]) is None:
            raise BuildError(f"CC names {wanted[0]!r}, which is not on the PATH. Correct it or unset it.")
        return wanted
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise BuildError(NO_COMPILER)


def is_current(output: pathlib.Path, sources: Sequence[pathlib.Path]) -> bool:
    """Whether `output` is newer than every source, header and this file."""
    if not output.exists():
        return False
    inputs = [*sources, *SOURCES.glob("*.h"), pathlib.Path(__file__)]
    return output.stat().st_mtime_ns > max(file.stat().st_mtime_ns for file in inputs)


def build(output: pathlib.Path, *, sanitize: bool = False, portable: bool = False) -> pathlib.Path:
    """Brings `output` up to date and returns it. `sanitize` adds address and undefined-behaviour checks;
    `portable` leaves out what only newer processors have."""
    return link(output, sorted(SOURCES.glob("*.c")), sanitize=sanitize, portable=portable)


def link(
    output: pathlib.Path,
    sources: Sequence[pathlib.Path],
    *,
    sanitize: bool = False,
    portable: bool = False,
    shared: bool = True,
    extra: Sequence[str] = (),
) -> pathlib.Path:
    """Compiles `sources`, the kernels among them once for every variant, and links them."""
    if not sources:
        raise BuildError(f"there is no C source in {SOURCES}; the checkout is incomplete")
    if is_current(output, sources):
        return output
    command = [*compiler(), *FLAGS, *(SANITIZE if sanitize else []), *extra, f"-I{SOURCES}"]
    variants = {} if portable else VARIANTS.get(machine(), {})
    macros = [f"-DTACIT_WITH_{name.upper()}" for name in variants]
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".build-") as folder:
        jobs: list[tuple[str, list[str]]] = []
        for source in sources:
            jobs.append((f"{folder}/{source.stem}.o", [*macros, "-c", str(source)]))
            for name, flags in variants.items() if source.name in KERNELS else ():
                variant = [*flags, f"-DTACIT_VARIANT={name}", "-c", str(source)]
                jobs.append((f"{folder}/{source.stem}-{name}.o", variant))
        run_all([[*command, *arguments, "-o", made] for made, arguments in jobs])
        # Another process may have the old library mapped: make it beside that one, then swap.
        fresh = f"{folder}/linked"
        kind = ["-shared"] if shared else []
        run_all([[*command, *kind, *(made for made, _ in jobs), "-o", fresh]])
        os.replace(fresh, output)
    return output


def machine() -> str:
    """What the compiler compiles for, which need not be this machine."""
    asked = subprocess.run([*compiler(), "-dumpmachine"], capture_output=True, text=True, check=False)
    return asked.stdout.strip().partition("-")[0]


def run_all(commands: Sequence[Sequence[str]]) -> None:
    """Runs commands side by side; what the compiler says goes to standard error."""
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    said = [process.communicate()[1] for process in running]
    for command, process, words in zip(commands, running, said, strict=True):
        sys.stderr.write(words)
        if process.returncode != 0:
            raise BuildError(f"the C compiler stopped with code {process.returncode}: {shlex.join(command)}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile tacit's engine.")
    parser.add_argument("--output", type=pathlib.Path, default=LIBRARY)
    parser.add_argument("--sanitize", action="store_true", help="with address and undefined-behaviour checks")
    asked = parser.parse_args()
    try:
        library = build(asked.output, sanitize=asked.sanitize)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{library}: {library.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
