"""What is random in a run, from its seed alone: the same seed, the same bytes.

Nothing here protects anybody: the noise and the masks of a simulated run are as good as its seed is secret. What
protects people is drawn from the operating system, by other functions in other rooms.
"""

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tacit.wire.ids import DeviceKey, UpdateId


def secret(seed: int, purpose: bytes, number: int = 0) -> bytes:
    """32 bytes in place of a key or a secret.

    >>> secret(1, b"order", 7) == secret(1, b"order", 7) != secret(2, b"order", 7)
    True
    """
    return hashlib.sha256(b"%d|%s|%d" % (seed, purpose, number)).digest()


def bytes_of(seed: int, *words: int) -> Callable[[int], bytes]:
    """A stream of bytes, for functions that take theirs as an argument.

    >>> bytes_of(1, 2, 3)(4) == bytes_of(1, 2, 3)(4) != bytes_of(1, 2, 4)(4)
    True
    """
    return np.random.Generator(np.random.SFC64([seed, *words])).bytes


def shuffled(seed: int, purpose: int, count: int) -> NDArray[np.int64]:
    """The numbers below `count` in a random order.

    >>> shuffled(0, 31, 5).tolist()
    [0, 2, 4, 1, 3]
    """
    return np.random.default_rng([seed, purpose]).permutation(count)


def update_id(seed: int, number: int) -> UpdateId:
    """The id of the Update of visit `number`."""
    return UpdateId(secret(seed, b"update", number)[:16])


def device_key(device: int) -> DeviceKey:
    """The name of a device, in place of its public key.

    >>> device_of(device_key(70_000))
    70000
    """
    return DeviceKey(device.to_bytes(32, "little"))


def device_of(key: DeviceKey) -> int:
    """The device with this name."""
    return int.from_bytes(key, "little")
