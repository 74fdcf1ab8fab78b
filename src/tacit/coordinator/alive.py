"""Whether another process has certainly ended, so that nobody need wait for it.

It can be told only where both see the same processes. A name of a machine does not say that: two containers may have
one host name and process numbers of their own, and two machines may be called `localhost`. The kernel's boot and the
namespace of process numbers do; where they cannot be read, nobody is known to have ended.
"""

import os
from functools import cache
from hashlib import sha256
from pathlib import Path


def process_name(nonce: bytes) -> str:
    """This process, and no later one with the same number.

    >>> has_ended(process_name(b"1"))
    True
    """
    return f"{_numbered_by()}.{os.getpid()}.{nonce.hex()}"


def has_ended(name: str) -> bool:
    """Whether the process with this name, which is not our own, has certainly ended.

    >>> has_ended("elsewhere.1.aa")
    False
    """
    here, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    if not here or here != _numbered_by() or not (number.isascii() and number.isdecimal()):
        return False
    if int(number) == os.getpid():
        return True  # it had our number and is not us: its nonce is another
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


@cache
def _numbered_by() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return sha256(f"{boot} {os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:12]
    except OSError:
        return ""
