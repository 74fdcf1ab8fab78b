"""Puts the compiled engine into the wheel, or beside its loader for an editable install."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import sysconfig
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OLDEST_GLIBC = (2, 17)  # an older one has no name that every installer knows


def engine_build(root: str) -> ModuleType:
    """engine/build.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("engine_build", pathlib.Path(root) / "engine" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def platform_tag(library: bytes, machine: str) -> str:
    """What a wheel with this library is called: by the oldest glibc that has every symbol it asks for.

    The versions of these symbols stand in a library as words, and it needs no other library than glibc's.
    """
    platform = machine.replace("-", "_").replace(".", "_")
    versions = {(int(major), int(minor)) for major, minor in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", library)}
    if not platform.startswith("linux_") or not versions:
        return platform
    major, minor = max(versions | {OLDEST_GLIBC})
    return f"manylinux_{major}_{minor}_{platform.removeprefix('linux_')}"


class EngineBuildHook(BuildHookInterface):
    def dependencies(self) -> list[str]:
        """A compiler from the package index, where the machine has none."""
        build = engine_build(self.root)
        return [] if build.has_compiler() else [build.ZIGLANG_PINNED]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        library = engine_build(self.root).build(pathlib.Path(self.root) / "src" / "tacit" / "engine" / "libtacit.so")
        # Loaded by ctypes, so it depends on the platform and not on the version of Python.
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag(library.read_bytes(), sysconfig.get_platform())}"
        if version != "editable":
            build_data["force_include"][str(library)] = "tacit/engine/libtacit.so"
