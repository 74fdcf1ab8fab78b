"""The coordinator's two keys on disk: one signs for the coordinator, one for the embedded enrolment authority.

HOME/coordinator.key    Ed25519 seed
HOME/enrolment.key      Ed25519 seed
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tacit.durable import load_or_make_seed
from tacit.wire.keys import SigningKey


@dataclass(frozen=True)
class CoordinatorKeys:
    """`sig` signs receipts, proofs, the log and requests to keyholders; `enrolment` signs credentials."""

    sig: SigningKey
    enrolment: SigningKey


def load_or_make(home: Path, random: Callable[[int], bytes]) -> CoordinatorKeys:
    """The keys in `home`, made at the first call.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     keys = load_or_make(Path(home), os.urandom)
    ...     keys.sig.public == load_or_make(Path(home), os.urandom).sig.public
    True
    """
    return CoordinatorKeys(
        SigningKey.from_seed(load_or_make_seed(home / "coordinator.key", random)),
        SigningKey.from_seed(load_or_make_seed(home / "enrolment.key", random)),
    )
