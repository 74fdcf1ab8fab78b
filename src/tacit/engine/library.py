"""The engine's shared library, found beside this file and loaded once, with its types declared.

Calls into it release Python's lock, and the library keeps no state of its own, so threads may play at
the same time, each on memory of its own.
"""

import ctypes
from functools import cache
from pathlib import Path

from tacit.errors import TacitError
from tacit.plan.tape import REGIONS, VERSION

LIBRARY = Path(__file__).with_name("libtacit.so")

Pointers = ctypes.c_void_p * REGIONS
Sizes = ctypes.c_size_t * REGIONS


class EngineMissing(TacitError):
    """The C library is not there, or is not the one this package was written for."""


class Limits(ctypes.Structure):
    """`struct tacit_limits`."""

    _fields_ = (("most_operations", ctypes.c_uint64), ("most_bytes", ctypes.c_uint64))


class Refusal(ctypes.Structure):
    """`struct tacit_refusal`."""

    rule: int
    record: int
    sentence: bytes
    _fields_ = (("rule", ctypes.c_int32), ("record", ctypes.c_int32), ("sentence", ctypes.c_char_p))


@cache
def library() -> ctypes.CDLL:
    """The library, ready to be called.

    >>> library().tacit_version()
    1
    """
    return load(LIBRARY)


def load(path: Path) -> ctypes.CDLL:
    """Loads the library at `path`, or says what to do."""
    if not path.exists():
        raise EngineMissing(
            f"tacit's engine is not built: there is no {path}. In a checkout run `make engine`; "
            "otherwise install tacit again on a machine with a C compiler."
        )
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise EngineMissing(
            f"tacit's engine cannot be loaded on this machine: {error}. Install tacit again, so that it is "
            "compiled here."
        ) from error
    _declare(loaded)
    version = loaded.tacit_version()
    if version != VERSION:
        raise EngineMissing(
            f"tacit's engine plays tapes of format {version} and this package writes format {VERSION}. "
            "In a checkout run `make engine`; otherwise install tacit again."
        )
    return loaded


def _declare(loaded: ctypes.CDLL) -> None:
    pointer, unsigned, wide, number = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int
    signatures = {
        "tacit_open": (
            number,
            (
                ctypes.c_char_p,
                ctypes.c_size_t,
                ctypes.POINTER(Limits),
                ctypes.POINTER(pointer),
                ctypes.POINTER(Refusal),
            ),
        ),
        "tacit_close": (None, (pointer,)),
        "tacit_kind": (unsigned, (pointer,)),
        "tacit_record_count": (unsigned, (pointer,)),
        "tacit_operations": (wide, (pointer,)),
        "tacit_moved": (wide, (pointer,)),
        "tacit_region_size": (wide, (pointer, unsigned)),
        "tacit_play": (number, (pointer, ctypes.POINTER(Pointers), ctypes.POINTER(Sizes), number)),
        "tacit_visit": (number, (pointer, pointer)),
        "tacit_result_sentence": (ctypes.c_char_p, (number,)),
        "tacit_visit_region_size": (wide, (pointer, unsigned)),
        "tacit_version": (unsigned, ()),
        "tacit_instructions": (ctypes.c_char_p, ()),
        "tacit_rule_count": (number, ()),
        "tacit_rule_name": (ctypes.c_char_p, (number,)),
        "tacit_rule_sentence": (ctypes.c_char_p, (number,)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, name)
        function.restype = result
        function.argtypes = arguments


def instructions() -> str:
    """Which build of the kernels this processor gets.

    >>> instructions() in {"avx512", "avx2", "baseline"}
    True
    """
    return library().tacit_instructions().decode()


def rules() -> dict[int, tuple[str, str]]:
    """The verifier's rules by number: a name and a sentence.

    >>> rules()[2]
    ('magic', 'a tape begins with the eight letters TACITAPE')
    """
    engine = library()
    return {
        number: (engine.tacit_rule_name(number).decode(), engine.tacit_rule_sentence(number).decode())
        for number in range(1, engine.tacit_rule_count() + 1)
    }
