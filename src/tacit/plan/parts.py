"""A Plan as flat parts, for programs that embed the engine: what a C program reads with `fread` into its structs.

docs/reference/embedding.md describes the files. Nothing in them is signed: whoever makes them has verified the
Plan, and whoever reads them trusts the folder they lie in. A tape is verified again when it is opened, and a
visit checks every place, so parts that were damaged are refused or train to nonsense; they do not reach outside.
"""

import struct
from collections.abc import Mapping

from tacit.plan.bundle import Plan
from tacit.plan.layout import panels_of
from tacit.plan.program import Field, example_bytes, rate_at

MAGIC = b"TACITPRT"
FORMAT = 1
_HEADER = struct.Struct("<8sIIQIIIIIIIf8s")  # 64 bytes
_PLACE = struct.Struct("<QIIII")  # struct tacit_place
_FIELD = struct.Struct("<QQII")  # struct tacit_field


def parts(plan: Plan) -> Mapping[str, bytes | memoryview]:
    """The files of a Plan's parts by name."""
    tapes = {f"{name.removeprefix('tape/')}.tape": blob.data for name, blob in plan.blobs.items() if "/" in name}
    return {
        "program": _program(plan),
        **tapes,
        "frozen": plan.blobs["frozen"].data,
        "snapshot": plan.blobs["initial"].data,
    }


def _program(plan: Plan) -> bytes:
    program, local = plan.manifest.program, plan.manifest.local
    trained = [place for place in program.places if place.place == "state"]
    header = _HEADER.pack(
        MAGIC,
        FORMAT,
        program.microbatch,
        program.d,
        len(trained),
        len(program.inputs),
        len(program.kept),
        int(program.whole),
        int(local.balance),
        local.epochs,
        local.minibatch,
        rate_at(program.optimizer, 0),
        bytes(8),
    )
    places = [_PLACE.pack(place.offset, *panels_of(place)) for place in trained]
    fields = [_field(field) for field in (*program.inputs, program.label)]
    kept = [_FIELD.pack(tensor.offset, tensor.example_bytes, 1, 0) for tensor in program.kept]
    return b"".join([header, *places, *fields, *kept])


def _field(field: Field) -> bytes:
    return _FIELD.pack(field.offset, example_bytes(field), field.shape[0] if field.channels_last else 1, 0)
