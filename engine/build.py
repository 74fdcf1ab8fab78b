"""Compiles engine/*.c: into the one shared library that `tacit.engine` loads, or into every build there is.

The only place that knows the compiler flags: the package's build hook, `make engine` and `make engine-all`
come here. Standard library only, because it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
AVX2 = ["-mavx2", "-mfma"]
# -O3 makes its many tiles three times as large and no faster.
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-O2"]
VARIANTS = {"x86_64": {"avx2": AVX2, "avx512": AVX512}}
SANITIZE = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all".split()
# Which of them is first where several are there: docs/decisions/0023.
COMPILERS = ("gcc", "clang", "cc")
# A compiler in a Python package: it needs nothing else on the machine, and compiles for other ones too.
ZIGLANG = "ziglang"
ZIGLANG_PINNED = "ziglang==0.17.0"
STRIPPED = ["-g0", "-s"]  # it writes what a debugger reads unless told
GLIBC = "2.17"  # what manylinux2014 promises
NO_COMPILER = (
    "tacit's engine is written in C and no C compiler was found, so nothing was built. "
    "Install one (Debian and Ubuntu: `apt install clang`; macOS: `xcode-select --install`; "
    f"anywhere: `pip install {ZIGLANG_PINNED}` into this Python) "
    "or name yours in the environment variable CC."
)


class BuildError(Exception):
    """The library could not be built; the message says what to do."""


class Target(NamedTuple):
    """A machine that `make engine-all` compiles for."""

    triple: str
    file: str
    most_kb: int  # the size it is to stay below, in 1000 bytes
    state: str  # how far it is tested
    variants: Mapping[str, list[str]]
    flags: tuple[str, ...] = ()  # of every compilation
    linking: tuple[str, ...] = ("-shared",)


NATIVE_KB, WEB_KB = 500, 150
# Memory comes from the host and never grows; the stack lies at its beginning, so one too deep is a trap.
WEB = "-mexec-model=reactor -rdynamic -Wl,--import-memory,-z,stack-size=131072,--initial-memory=196608".split()
TARGETS = {
    "linux-x86_64": Target(f"x86_64-linux-gnu.{GLIBC}", "libtacit.so", NATIVE_KB, "tested", VARIANTS["x86_64"]),
    "linux-aarch64": Target(f"aarch64-linux-gnu.{GLIBC}", "libtacit.so", NATIVE_KB, "tested under emulation", {}),
    "macos-aarch64": Target("aarch64-macos", "libtacit.dylib", NATIVE_KB, "untested", {}),
    "macos-x86_64": Target("x86_64-macos", "libtacit.dylib", NATIVE_KB, "untested", {"avx2": AVX2}),
    "windows-x86_64": Target("x86_64-windows-gnu", "tacit.dll", NATIVE_KB, "untested", {"avx2": AVX2}),
    "web": Target("wasm32-wasi", "engine.wasm", WEB_KB, "tested", {}, ("-msimd128",), tuple(WEB)),
    "web-relaxed": Target(
        "wasm32-wasi", "engine-relaxed.wasm", WEB_KB, "tested", {}, ("-msimd128", "-mrelaxed-simd"), tuple(WEB)
    ),
}


def compiler() -> list[str]:
    """The command that compiles C for this machine: $CC if it is set, else what is found first."""
    if wanted := shlex.split(os.environ.get("CC", "")):
        if shutil.which(wanted[0]) is None:
            raise BuildError(f"CC names {wanted[0]!r}, which is not on the PATH. Correct it or unset it.")
        return wanted
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    return [*ziglang(), *STRIPPED, "-target", this_machine()]


def ziglang() -> list[str]:
    """The C compiler of the package ziglang, where it is installed for this Python."""
    if importlib.util.find_spec(ZIGLANG) is None:
        raise BuildError(NO_COMPILER)
    return [sys.executable, "-m", ZIGLANG, "cc"]


def has_compiler() -> bool:
    """Whether there is one without installing the package ziglang."""
    return bool(os.environ.get("CC")) or any(shutil.which(name) for name in COMPILERS)


def this_machine() -> str:
    """The machine that this runs on, as ziglang calls it. Without it, it compiles for this very processor."""
    processor = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if sys.platform == "darwin":
        return f"{processor}-macos"
    if sys.platform == "win32":
        return f"{processor}-windows-gnu"
    return f"{processor}-linux-" + (f"gnu.{GLIBC}" if platform.libc_ver()[0] == "glibc" else "musl")


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


def build_for(target: Target, output: pathlib.Path, extra: Sequence[str] = ()) -> pathlib.Path:
    """Brings the library for another machine up to date, without what only a debugger reads."""
    command = [*ziglang(), "-target", target.triple, *FLAGS, *target.flags, *extra, *STRIPPED]
    return _link(output, sorted(SOURCES.glob("*.c")), command, target.variants, target.linking)


def program_for(target: Target, output: pathlib.Path, sources: Sequence[pathlib.Path]) -> pathlib.Path:
    """A program with the engine in it for another Linux, which needs nothing there but the processor."""
    triple = target.triple.partition("-")[0] + "-linux-musl"
    command = [*ziglang(), "-target", triple, *FLAGS, *target.flags]
    return _link(output, [*sorted(SOURCES.glob("*.c")), *sources], command, target.variants, ["-static", "-s"])


def link(
    output: pathlib.Path,
    sources: Sequence[pathlib.Path],
    *,
    sanitize: bool = False,
    portable: bool = False,
    without: str = "",
    shared: bool = True,
    extra: Sequence[str] = (),
) -> pathlib.Path:
    """Compiles `sources` for this machine, the kernels among them once for every variant (but one), and links them."""
    if not sources:
        raise BuildError(f"there is no C source in {SOURCES}; the checkout is incomplete")
    if is_current(output, sources):
        return output
    command = [*compiler(), *FLAGS, *(SANITIZE if sanitize else []), *extra]
    all_of_them = {} if portable else VARIANTS.get(machine(), {})
    variants = {name: flags for name, flags in all_of_them.items() if name != without}
    return _link(output, sources, command, variants, ["-shared"] if shared else [])


def _link(
    output: pathlib.Path,
    sources: Sequence[pathlib.Path],
    command: Sequence[str],
    variants: Mapping[str, list[str]],
    linking: Sequence[str],
) -> pathlib.Path:
    if is_current(output, sources):
        return output
    macros = [f"-DTACIT_WITH_{name.upper()}" for name in variants]
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".build-") as folder:
        jobs: list[tuple[str, list[str]]] = []
        for source in sources:
            jobs.append((f"{folder}/{source.stem}.o", [*macros, "-c", str(source)]))
            for name, flags in variants.items() if source.name in KERNELS else ():
                variant = [*flags, f"-DTACIT_VARIANT={name}", "-c", str(source)]
                jobs.append((f"{folder}/{source.stem}-{name}.o", variant))
        run_all([[*command, f"-I{SOURCES}", *arguments, "-o", made] for made, arguments in jobs])
        # Another process may have the old library mapped: make it beside that one, then swap.
        fresh = f"{folder}/{output.name}"
        run_all([[*command, *linking, *(made for made, _ in jobs), "-o", fresh]])
        os.replace(fresh, output)
    return output


def machine() -> str:
    """What the compiler compiles for, which need not be this machine."""
    command = compiler()
    if "-target" in command:
        return command[command.index("-target") + 1].partition("-")[0]
    asked = subprocess.run([*command, "-dumpmachine"], capture_output=True, text=True, check=False)
    return asked.stdout.strip().partition("-")[0]


def run_all(commands: Sequence[Sequence[str]]) -> None:
    """Runs commands side by side; what the compiler says goes to standard error."""
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    said = [process.communicate()[1] for process in running]
    for command, process, words in zip(commands, running, said, strict=True):
        sys.stderr.write(words)
        if process.returncode != 0:
            raise BuildError(f"the C compiler stopped with code {process.returncode}: {shlex.join(command)}")


def build_all(folder: pathlib.Path, names: Sequence[str]) -> bool:
    """Builds these targets and prints their sizes; False if one is larger than it is to be."""
    good = True
    for name in names:
        target = TARGETS[name]
        size = build_for(target, folder / name / target.file).stat().st_size
        fits = size <= 1000 * target.most_kb
        good &= fits
        print(
            f"{name:<20} {target.file:<20} {size / 1000:6.1f} KB of {target.most_kb}"
            f"  {'' if fits else 'TOO LARGE, '}{target.state}",
            flush=True,
        )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile tacit's engine.")
    parser.add_argument("--output", type=pathlib.Path, default=LIBRARY)
    parser.add_argument("--sanitize", action="store_true", help="with address and undefined-behaviour checks")
    parser.add_argument("--all", type=pathlib.Path, metavar="FOLDER", help="every build there is, into this folder")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"with --all, only these: {', '.join(TARGETS)}")
    asked = parser.parse_args()
    if unknown := [name for name in asked.targets if name not in TARGETS]:
        parser.error(f"{', '.join(unknown)}: no such target; there are {', '.join(TARGETS)}")
    try:
        if asked.all:
            return 0 if build_all(asked.all, asked.targets or list(TARGETS)) else 1
        library = build(asked.output, sanitize=asked.sanitize)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{library}: {library.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
