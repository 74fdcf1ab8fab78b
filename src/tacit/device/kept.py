"""The prefix's results on disk: a visit after a restart begins where the first one did.

They follow from the examples, so they are as private: they stay in the device's home, within the storage
the owner allows, and go when the Plan is forgotten. A folder is complete or absent, because it is written
under another name first; it is found again by the digest of the examples it was computed from.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tacit.durable import make_folder
from tacit.plan.program import KeptTensor

Kept = Sequence[NDArray[np.uint8]]  # by kept tensor, [examples, example_bytes]


def load_kept(home: Path, plan_id: bytes, digest: bytes, tensors: Sequence[KeptTensor], count: int) -> Kept | None:
    """What was kept for these examples, mapped; None if it is not there whole."""
    folder = _folder(home, plan_id) / digest.hex()
    try:
        found = [np.load(folder / f"{number}.npy", mmap_mode="r") for number in range(len(tensors))]
    except (OSError, ValueError, EOFError):
        return None
    wanted = [(count, tensor.example_bytes) for tensor in tensors]
    if [one.shape for one in found] != wanted or any(one.dtype != np.uint8 for one in found):
        return None
    return found


def save_kept(home: Path, plan_id: bytes, digest: bytes, kept: Kept, storage: int) -> bool:
    """Keeps it, in place of what was kept for other examples.

    False if it does not fit: `storage` is for the prefix results of all Plans together.
    """
    folder = _folder(home, plan_id)
    shutil.rmtree(folder, ignore_errors=True)
    if _bytes_under(home / "kept") + sum(one.nbytes for one in kept) > storage:
        return False
    partial = make_folder(folder / "partial")
    for number, one in enumerate(kept):
        with (partial / f"{number}.npy").open("wb") as file:
            np.save(file, one)
            file.flush()
            os.fsync(file.fileno())
    partial.rename(folder / digest.hex())
    return True


def kept_bytes(home: Path, plan_id: bytes) -> int:
    """How much is kept for a Plan."""
    return _bytes_under(_folder(home, plan_id))


def move_kept(home: Path, before: bytes, after: bytes) -> None:
    """What was kept for one Plan is kept for another from here on: their prefixes make the same of an example."""
    if _folder(home, before).exists() and not _folder(home, after).exists():
        _folder(home, before).rename(_folder(home, after))


def erase_kept(home: Path, plan_id: bytes) -> None:
    """Nothing is kept for this Plan any more."""
    shutil.rmtree(_folder(home, plan_id), ignore_errors=True)


def _folder(home: Path, plan_id: bytes) -> Path:
    return home / "kept" / plan_id.hex()


def _bytes_under(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
