"""The charters that this keyholder's operator has agreed to. A Plan inside one of them needs no further word.

HOME/charters/<charter_id, 64 hex>.json    the charter's bytes; its id is their SHA-256

One file a charter, so that the operator's command and the running keyholder share them without asking each other.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from tacit.durable import make_folder, write_file
from tacit.errors import InputError
from tacit.plan.bundle import PlanRefused, read_plan
from tacit.plan.manifest import Charter, KeyholderCard, encode
from tacit.wire.ids import Digest, sha256


@dataclass(frozen=True)
class Shown:
    """A charter that somebody brings, and the cards of the Plan that it came with, if it came with one."""

    charter: Charter
    cards: tuple[KeyholderCard, ...] = ()
    delta: float = 1e-7

    @property
    def charter_id(self) -> Digest:
        return sha256(encode(self.charter))


def read_charter(path: Path) -> Shown:
    """The charter of a Plan's file, or a charter by itself. InputError for everything else."""
    try:
        data = path.read_bytes()[:8]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if data.startswith(b"TACITPLN"):
        plan = read_plan(path)
        return Shown(plan.charter, plan.manifest.keyholders, plan.manifest.delta)
    try:
        return Shown(_parsed(path.read_bytes()))
    except PlanRefused as error:
        raise InputError(f"{path} is neither a Plan nor a charter: {error}") from error


def approve(home: Path, charter: Charter) -> Digest:
    """From here on Plans inside this charter are taken; returns its id.

    >>> import tempfile
    >>> charter = Charter("t", "p", (), bytes(32), (), 1, 1.0, "device", 0)
    >>> with tempfile.TemporaryDirectory() as home:
    ...     name = approve(Path(home), charter)
    ...     is_approved(Path(home), name), is_approved(Path(home), bytes(32)), approved(Path(home)) == [charter]
    (True, False, True)
    """
    data = encode(charter)
    name = sha256(data)
    write_file(_path(make_folder(home / "charters"), name), data)
    return name


def is_approved(home: Path, charter_id: bytes) -> bool:
    return _path(home / "charters", charter_id).exists()


def approved(home: Path) -> list[Charter]:
    """Every charter that was agreed to."""
    return [_parsed(path.read_bytes()) for path in sorted((home / "charters").glob("*.json"))]


def _path(folder: Path, charter_id: bytes) -> Path:
    return folder / f"{charter_id.hex()}.json"


def _parsed(data: bytes) -> Charter:
    try:
        charter = msgspec.json.decode(data, type=Charter)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise PlanRefused(f"this charter cannot be read: {error}") from error
    if encode(charter) != data:
        raise PlanRefused("this charter's bytes are not in their canonical form")
    return charter
