"""The compiled form of a model and a subset, from a folder where it has been compiled before by the same sources."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from models import MODELS, SGD
from torch import nn

import tacit
from tacit.compiler.compile import compile_program
from tacit.plan.program import Playable
from tacit.plan.tape import Kind, Tape

# What a compiled program depends on, besides PyTorch.
SOURCES = ("compiler/*.py", "plan/*.py", "task.py", "../../bench/models.py")
# What only estimates: no compiled program depends on it.
APART = ("compute.py", "effort.py", "reuse.py", "profile.py", "estimate.py")


@dataclass(frozen=True)
class Compiled:
    """What is played, and its tapes with notes."""

    playable: Playable
    tapes: Mapping[Kind, Tape]


def compiled(
    name: str, subset: str, microbatch: int, module: nn.Module, trains: list[str], cache: Path | None
) -> Compiled:
    """`module` and `trains` are what `subset_of` returns for the model and the subset."""
    kept = cache and cache / f"{name}-{subset}-{microbatch}-{sources_hash()}.pickle".replace(" ", "_")
    if kept and kept.exists():
        return pickle.loads(kept.read_bytes())  # noqa: S301 (a folder of the person who runs this)
    model = MODELS[name]
    made = compile_program(
        module,
        model.inputs,
        "y",
        model.classes,
        loss=model.loss,
        subset=trains,
        microbatch=microbatch,
        optimizer=SGD,
    )
    result = Compiled(made.playable, made.tapes)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Whoever reads at the same time sees a whole file or none.
        fresh = kept.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(pickle.dumps(result))
        fresh.replace(kept)
    return result


def sources_hash() -> str:
    """Changes with every change of what compiles."""
    root = Path(tacit.__file__).parent
    files = sorted(file for pattern in SOURCES for file in root.glob(pattern) if file.name not in APART)
    digest = hashlib.sha256(torch.__version__.encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
