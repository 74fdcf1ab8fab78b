"""A tape that the engine has verified, copied, and will play.

Bytes from anywhere may be given to `VerifiedTape.load`: what it returns cannot loop, allocate, or reach
outside the memory it is played on, and costs what its totals say.
"""

import ctypes
import weakref
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tacit.engine.library import Limits, Pointers, Refusal, Sizes, library
from tacit.engine.memory import is_aligned
from tacit.errors import InputError
from tacit.plan.tape import Kind, Region

MOST = (1 << 63) - 1


class TapeRefused(InputError):
    """The verifier does not accept a tape; nothing of it was played.

    `rule` is its number in docs/reference/verifier.md; `record` is None where the tape as a whole is meant.
    """

    def __init__(self, rule: int, name: str, record: int | None, sentence: str):
        self.rule, self.name, self.record, self.sentence = rule, name, record, sentence
        where = "" if record is None else f" in record {record}"
        super().__init__(f"this tape is refused{where} by rule {rule} ({name}): {sentence}")


class Playing:
    """A verified tape on its memory: one call plays it, and nothing is prepared anew."""

    def __init__(self, tape: "VerifiedTape", memory: Mapping[Region, NDArray[np.uint8]]):
        self._tape, self._memory = tape, dict(memory)  # kept alive as long as the pointers
        self._play = tape.engine.tacit_play
        self._pointers, self._sizes = Pointers(), Sizes()
        for region, size in tape.regions.items():
            block = memory.get(region)
            if block is None or block.nbytes < size:
                raise ValueError(f"{region.name} needs {size} bytes")
            if not is_aligned(block):
                raise ValueError(f"{region.name} does not begin at a multiple of 64 bytes")
            self._pointers[region], self._sizes[region] = block.ctypes.data, block.nbytes

    def __call__(self, *, first: bool = True) -> None:
        result = self._play(self._tape.handle, ctypes.byref(self._pointers), ctypes.byref(self._sizes), int(first))
        if result != 0:
            raise ValueError("two of the tape's regions share memory")


class VerifiedTape:
    """An opened tape. It may be played by several threads at once, each on memory of its own."""

    def __init__(self, handle: int):
        engine = library()
        self.handle, self.engine = handle, engine  # who opened it plays it
        self.kind = Kind(engine.tacit_kind(handle))
        sizes = {region: engine.tacit_region_size(handle, region) for region in Region}
        self.regions: Mapping[Region, int] = {region: size for region, size in sizes.items() if size}
        self.records = int(engine.tacit_record_count(handle))
        self.operations = int(engine.tacit_operations(handle))
        self.moved = int(engine.tacit_moved(handle))
        weakref.finalize(self, engine.tacit_close, handle)

    @classmethod
    def load(cls, data: bytes, *, most_operations: int = MOST, most_bytes: int = MOST) -> "VerifiedTape":
        """Verifies the tape in these bytes. Raises TapeRefused with the rule that it breaks.

        >>> VerifiedTape.load(b"no tape")
        Traceback (most recent call last):
        ...
        tacit.engine.tape.TapeRefused: this tape is refused by rule 1 (length): a tape has a header of 256 bytes and 512 bytes for each record
        """  # noqa: E501 (the error is one line)
        engine = library()
        handle, refusal = ctypes.c_void_p(), Refusal()
        limits = Limits(most_operations, most_bytes)
        rule = engine.tacit_open(data, len(data), ctypes.byref(limits), ctypes.byref(handle), ctypes.byref(refusal))
        if rule != 0 or handle.value is None:
            record = None if refusal.record < 0 else refusal.record
            name = engine.tacit_rule_name(rule).decode()
            raise TapeRefused(rule, name, record, refusal.sentence.decode())
        return cls(handle.value)

    def on(self, memory: Mapping[Region, NDArray[np.uint8]]) -> Playing:
        """The tape ready to be played on this memory, which has at least the regions it names."""
        return Playing(self, memory)
