"""Puts the compiled engine into the wheel, or beside its loader for an editable install."""

from __future__ import annotations

import importlib.util
import pathlib
import sysconfig
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class EngineBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = pathlib.Path(self.root)
        spec = importlib.util.spec_from_file_location("engine_build", root / "engine" / "build.py")
        assert spec is not None and spec.loader is not None
        engine_build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(engine_build)

        library = engine_build.build(root / "src" / "tacit" / "engine" / "libtacit.so")
        # Loaded by ctypes, so it depends on the platform and not on the version of Python.
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        if version != "editable":
            build_data["force_include"][str(library)] = "tacit/engine/libtacit.so"
