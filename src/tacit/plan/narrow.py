"""Values in fewer bits, as the engine's CONVERT writes them: for what a Plan keeps frozen."""

import numpy as np
from numpy.typing import NDArray

from tacit.plan.tape import Number, number_bytes, up

SCALED = 64  # values that share a scale
MOST_STEPS = 127  # of int8 to either side of zero
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6)  # of the largest value, that a scale of few steps reaches to


def narrow(values: NDArray[np.float32], number: Number, steps: int = MOST_STEPS) -> NDArray[np.uint8]:
    """One row's bytes, a multiple of four. int8 may use fewer of its steps: then its bytes pack better.

    >>> narrow(np.array([1.0, -2.0], np.float32), Number.BFLOAT16).view(np.uint16).tolist()
    [16256, 49152]
    """
    row = np.zeros(number_bytes(number, values.size), np.uint8)
    match number:
        case Number.FLOAT32:
            row[:] = values.view(np.uint8)
        case Number.BFLOAT16:
            row[: 2 * values.size] = _bfloat16(values).view(np.uint8)
        case Number.FLOAT16:
            with np.errstate(over="ignore"):
                row[: 2 * values.size] = values.astype(np.float16).view(np.uint8)
        case Number.INT8:
            scales, bytes_ = _int8(values, steps)
            row[: 4 * scales.size] = scales.view(np.uint8)
            row[4 * scales.size : 4 * scales.size + values.size] = bytes_.view(np.uint8)
    return row


def widen(row: NDArray[np.uint8], number: Number, count: int) -> NDArray[np.float32]:
    """The values of a row that `narrow` wrote.

    >>> widen(narrow(np.array([2.0, -127.0], np.float32), Number.INT8), Number.INT8, 2).tolist()
    [2.0, -127.0]
    """
    match number:
        case Number.FLOAT32:
            return row.view(np.float32)[:count].copy()
        case Number.BFLOAT16:
            return (row.view(np.uint16)[:count].astype(np.uint32) << 16).view(np.float32)
        case Number.FLOAT16:
            return row.view(np.float16)[:count].astype(np.float32)
        case Number.INT8:
            blocks = up(count, SCALED) // SCALED
            scales = np.repeat(row[: 4 * blocks].view(np.float32), SCALED)[:count]
            return row[4 * blocks : 4 * blocks + count].view(np.int8).astype(np.float32) * scales


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """To nearest, ties to even; NaN stays one."""
    bits = values.view(np.uint32).astype(np.uint64)
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), bits >> 16 | 0x40, nearest).astype(np.uint16)


def _int8(values: NDArray[np.float32], most: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Each block's scale, and the values; a block that is not finite has a scale that is not, and zeros."""
    blocks = np.zeros(up(values.size, SCALED), np.float32)
    blocks[: values.size] = values
    blocks = blocks.reshape(-1, SCALED)
    scales = np.abs(blocks).max(axis=1) / np.float32(most)
    scales[scales < np.finfo(np.float32).tiny] = 0  # as the engine, which flushes denormals
    usable = np.isfinite(scales) & (scales > 0)
    units = np.where(usable, scales, 1)[:, None]
    blocks = np.where(usable[:, None], blocks, 0)
    if most < MOST_STEPS:
        scales = _closest(np.divide(blocks, units, dtype=np.float32), scales, most)
        units = np.where(usable, scales, 1)[:, None]
    return scales, np.rint(np.clip(blocks / units, -most, most)).astype(np.int8).ravel()[: values.size]


def _closest(steps: NDArray[np.float32], scales: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Scales at which few steps are nearest to the values, the largest of which may be cut; in few bits themselves.

    `steps` are the values in units of `scales`, of which one that is 0 or no number stays what it is.
    """
    best, least = scales.copy(), np.full(len(scales), np.inf)
    for share in SHARES:
        tried = _short(scales * np.float32(share))
        usable = np.isfinite(tried) & (tried >= np.finfo(np.float32).tiny)
        unit = np.where(usable, tried, 1)[:, None] / np.where(usable, scales, 1)[:, None]
        error = ((np.clip(np.rint(steps / unit), -most, most) * unit - steps) ** 2).sum(axis=1)
        nearer = usable & (error < least)
        best[nearer], least[nearer] = tried[nearer], error[nearer]
    return best


def _short(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Positive values with eight significant bits, none of them smaller."""
    return ((values.view(np.uint32) + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)
