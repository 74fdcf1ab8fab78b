"""A Plan as one file: read, checked, written. No torch, no engine, no network.

    0   TACITPLN | format u32 | manifest size u32 | charter size u32 | 0 u32
   24   author's public key (32) | signature of plan_id (64) | signature of charter_id (64) | 0 (8)
  192   manifest | charter | zeros to a multiple of 64 | blobs, each followed by zeros to a multiple of 64

Integers of the header are little-endian. The author signs `TACIT1/plan\\0 | SHA-256(manifest)` and
`TACIT1/charter\\0 | SHA-256(charter)`; the manifest lists every blob with its SHA-256, so nothing in the
file is unsigned. `parse_plan` is the only way to get a `Plan`, and it refuses whatever does not hold.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from tacit.errors import InputError
from tacit.plan import manifest as canonical
from tacit.plan.checks import broken_numbers
from tacit.plan.manifest import FORMAT, Blob, Charter, Manifest
from tacit.plan.packing import delivered_bytes
from tacit.plan.program import Playable
from tacit.plan.tape import ALIGNMENT, Kind, up
from tacit.wire import preimage
from tacit.wire.ids import Digest, Lineage, PlanId
from tacit.wire.keys import SigningKey, verify

MAGIC = b"TACITPLN"
_HEADER = struct.Struct("<8sIIII32s64s64s8s")
MOST_MANIFEST = 4 << 20

_Form = TypeVar("_Form", Manifest, Charter)


class PlanRefused(InputError):
    """This is not a Plan that may be used; the sentence says why and what to do."""

    code = "E_PLAN"


@dataclass(frozen=True, eq=False)
class Plan:
    """A Plan whose signature, digests and numbers have been checked. Only `parse_plan` makes one."""

    plan_id: bytes
    manifest: Manifest
    charter: Charter
    author: bytes
    blobs: Mapping[str, NDArray[np.uint8]]
    raw: memoryview

    @property
    def name(self) -> str:
        """How people see it: title and the first bytes of its id."""
        return f"{self.manifest.title} {self.plan_id.hex()[:8]}"

    @property
    def lineage(self) -> Lineage:
        """The first Plan of the chain; a Plan that continues none is its own."""
        continues = self.manifest.continues
        return Lineage(self.plan_id if continues is None else continues.lineage)

    @cached_property
    def delivered_bytes(self) -> int:
        """What it takes on its way to a device."""
        return delivered_bytes(self.raw)

    @property
    def initial_snapshot(self) -> bytes:
        """The bytes of Snapshot 0."""
        return self.blobs["initial"].tobytes()

    def playable(self) -> Playable:
        """What the engine plays."""
        tapes = {
            kind: self.blobs[name].tobytes() for kind in Kind if (name := f"tape/{kind.name.lower()}") in self.blobs
        }
        d = self.manifest.program.d
        initial = decode_snapshot(self.initial_snapshot[: 4 * d], d)
        return Playable(self.manifest.program, tapes, self.blobs["frozen"], initial)


def read_plan(path: Path) -> Plan:
    """The Plan in a file, mapped rather than read, so that frozen weights cost memory only when touched.

    Map only files that nobody else writes to: a device copies a Plan into its own folder first.
    """
    try:
        data = np.memmap(path, np.uint8, mode="r")
    except FileNotFoundError as error:
        raise PlanRefused(f"there is no file {path}; `tacit compile TASK.py -o PLAN.tacit` makes one") from error
    except (OSError, ValueError) as error:
        raise PlanRefused(f"{path} cannot be read as a Plan: {error}") from error
    try:
        return parse_plan(data.data)
    except PlanRefused as error:
        raise PlanRefused(f"{path}: {error}") from error


def parse_plan(data: bytes | memoryview) -> Plan:
    """The Plan in these bytes, every check made."""
    raw = memoryview(data).cast("B")
    if len(raw) < _HEADER.size or bytes(raw[:8]) != MAGIC:
        raise PlanRefused("this is not a Plan: it does not begin with TACITPLN")
    _, version, manifest_size, charter_size, zero, author, plan_signature, charter_signature, zeros = (
        _HEADER.unpack_from(raw)
    )
    if version != FORMAT:
        newer = (
            "made by a newer tacit; update this one" if version > FORMAT else "no longer read; compile the Task again"
        )
        raise PlanRefused(f"this Plan has format {version}, this tacit reads format {FORMAT}: it was {newer}")
    end = _HEADER.size + manifest_size + charter_size
    if manifest_size > MOST_MANIFEST or charter_size > MOST_MANIFEST or end > len(raw):
        raise PlanRefused("this Plan is cut short: its header promises more than the file holds; fetch it again")
    if zero or any(zeros):
        raise PlanRefused("this Plan's header was altered (reserved bytes are set); fetch it again")
    manifest_bytes = bytes(raw[_HEADER.size : _HEADER.size + manifest_size])
    charter_bytes = bytes(raw[_HEADER.size + manifest_size : end])
    plan_id = hashlib.sha256(manifest_bytes).digest()
    charter_id = hashlib.sha256(charter_bytes).digest()
    if not any(plan_signature):
        raise PlanRefused("this Plan is not signed; `tacit compile` signs with the developer's key")
    if not verify(author, plan_signature, preimage.plan(PlanId(plan_id))):
        raise PlanRefused("this Plan's signature does not fit its contents: it was altered or its author is another")
    if not verify(author, charter_signature, preimage.charter(Digest(charter_id))):
        raise PlanRefused("this Plan's charter was altered: its signature does not fit")
    manifest = _strict(manifest_bytes, Manifest, "manifest")
    charter = _strict(charter_bytes, Charter, "charter")
    if manifest.format != version:
        raise PlanRefused(
            f"this Plan's header says format {version} and its manifest {manifest.format}: it was altered"
        )
    if manifest.charter_id != charter_id:
        raise PlanRefused("this Plan was made for another charter")
    if any(raw[end : up(end, ALIGNMENT)]):
        raise PlanRefused("this Plan was altered: bytes follow its charter that nobody signed")
    blobs = _blobs(raw, up(end, ALIGNMENT), manifest.blobs)
    reason = broken_numbers(manifest, charter, author, {name: blob.size for name, blob in blobs.items()})
    if reason is not None:
        raise PlanRefused(f"this Plan's numbers do not hold: {reason}")
    return Plan(plan_id, manifest, charter, author, blobs, raw)


def build_plan(manifest: Manifest, charter: Charter, blobs: Mapping[str, bytes], author: SigningKey) -> bytes:
    """The file's bytes. `manifest.blobs` and `charter_id` are filled in here; the result has been read back."""
    charter_bytes = canonical.encode(charter)
    listed = tuple(Blob(name, len(blob), hashlib.sha256(blob).digest()) for name, blob in blobs.items())
    manifest = msgspec.structs.replace(manifest, charter_id=hashlib.sha256(charter_bytes).digest(), blobs=listed)
    manifest_bytes = canonical.encode(manifest)
    plan_id = hashlib.sha256(manifest_bytes).digest()
    header = _HEADER.pack(
        MAGIC,
        FORMAT,
        len(manifest_bytes),
        len(charter_bytes),
        0,
        author.public,
        author.sign(preimage.plan(PlanId(plan_id))),
        author.sign(preimage.charter(Digest(manifest.charter_id))),
        bytes(8),
    )
    parts = [_pad(header + manifest_bytes + charter_bytes), *(_pad(blob) for blob in blobs.values())]
    data = b"".join(parts)
    parse_plan(data)
    return data


def playable_blobs(playable: Playable) -> dict[str, bytes]:
    """A playable as the blobs of a Plan."""
    tapes = {f"tape/{kind.name.lower()}": playable.tapes[kind] for kind in Kind if kind in playable.tapes}
    return {**tapes, "frozen": playable.frozen.tobytes(), "initial": encode_snapshot(playable.initial)}


def encode_snapshot(values: NDArray[np.float32]) -> bytes:
    """A Snapshot's bytes: d float32, little-endian, nothing else.

    >>> encode_snapshot(np.ones(1, np.float32)).hex()
    '0000803f'
    """
    return np.ascontiguousarray(values, dtype="<f4").tobytes()


def decode_snapshot(data: bytes, d: int) -> NDArray[np.float32]:
    """The values of a Snapshot of d values.

    >>> decode_snapshot(bytes.fromhex("0000803f"), 1)
    array([1.], dtype=float32)
    """
    if len(data) != 4 * d:
        raise InputError(f"a Snapshot of this Plan has {4 * d} bytes and this one has {len(data)}")
    return np.frombuffer(data, "<f4").astype(np.float32)


def _strict(data: bytes, form: type[_Form], what: str) -> _Form:
    try:
        value = msgspec.json.decode(data, type=form)
    except msgspec.MsgspecError as error:
        raise PlanRefused(f"this Plan's {what} cannot be read: {error}") from error
    # Only the canonical bytes are accepted, so a key given twice, or a number written in two ways, cannot
    # mean one thing here and another in a second reader.
    if canonical.encode(value) != data:
        raise PlanRefused(f"this Plan's {what} is not in its canonical form")
    return value


def _blobs(raw: memoryview, at: int, listed: tuple[Blob, ...]) -> dict[str, NDArray[np.uint8]]:
    blobs: dict[str, NDArray[np.uint8]] = {}
    for blob in listed:
        stop = at + blob.size
        if blob.size < 0 or stop > len(raw):
            raise PlanRefused(f"this Plan is cut short: {blob.name} is missing or incomplete; fetch it again")
        content = raw[at:stop]
        if blob.name in blobs or hashlib.sha256(content).digest() != blob.sha256:
            raise PlanRefused(f"this Plan was altered: {blob.name} is not what its author signed")
        blobs[blob.name] = np.frombuffer(content, np.uint8)
        if any(raw[stop : up(stop, ALIGNMENT)]):
            raise PlanRefused(f"this Plan was altered: bytes follow {blob.name} that nobody signed")
        at = up(stop, ALIGNMENT)
    if at != len(raw):
        raise PlanRefused("this Plan has the wrong length: bytes were cut off or added at its end; fetch it again")
    return blobs


def _pad(data: bytes) -> bytes:
    return data.ljust(up(len(data), ALIGNMENT), b"\0")
