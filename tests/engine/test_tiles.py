"""The innermost loops of convolutions keep their sums in registers: one on the stack costs half of the speed."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from engine import build as engine_build

HOT = re.compile(r"^(weight_tile|tile)_\d+(_\d+)?(\.\w+)*$")
TILES = 6 + 9  # of weight gradients, and of pixels by panels; a compiler may take one into its caller
SUM_ON_STACK = re.compile(r"\bvfmadd\w+\s.*\(%r[sb]p")


def disassembled(output: Path, compiler: str) -> dict[str, list[str]]:
    """The instructions of each function of conv.c, built for AVX2."""
    command = [compiler, *engine_build.FLAGS, *engine_build.AVX2, "-DTACIT_VARIANT=avx2", "-c"]
    subprocess.run([*command, str(engine_build.SOURCES / "conv.c"), "-o", str(output)], check=True)
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", output], check=True, capture_output=True, text=True
    ).stdout
    parts = re.split(r"^[0-9a-f]+ <([\w.]+)>:$", text, flags=re.MULTILINE)
    return {name: body.splitlines() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_sum_of_a_tile_lives_on_the_stack(tmp_path: Path, compiler: str):
    if platform.machine() != "x86_64" or shutil.which(compiler) is None or shutil.which("objdump") is None:
        pytest.skip(f"needs an x86-64 machine with {compiler} and objdump (apt install {compiler} binutils)")

    tiles = {name: body for name, body in disassembled(tmp_path / "conv.o", compiler).items() if HOT.match(name)}

    assert len(tiles) >= TILES
    for name, body in tiles.items():
        assert sum("vfmadd" in line for line in body) >= 2, name
        assert not [line for line in body if SUM_ON_STACK.search(line)], name
