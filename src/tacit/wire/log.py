"""The log: an append-only chain of signed entries, as pure functions.

Each entry names the digest of the one before, so whoever keeps the last digest has fixed the whole past.
The log holds ids, hashes and counts only.
"""

from collections.abc import Iterable

from tacit.errors import TacitError
from tacit.wire import preimage
from tacit.wire.ids import Digest, sha256
from tacit.wire.keys import SigningKey, verify
from tacit.wire.messages import LogEntry, LogKind

GENESIS = Digest(bytes(32))  # what the first entry names as its predecessor


class LogBroken(TacitError):
    """The log does not hold together: somebody changed, dropped or reordered its past, or did not sign it."""

    def __init__(self, index: int, reason: str):
        self.index, self.reason = index, reason
        super().__init__(f"The log is broken at entry {index}: {reason}. What it says must not be relied on.")


def append(key: SigningKey, previous: Digest, kind: LogKind, body: bytes) -> LogEntry:
    """The next entry after the one whose digest is `previous`.

    >>> key = SigningKey.from_seed(bytes(32))
    >>> first = append(key, GENESIS, LogKind.AUDIT, b"12 canaries")
    >>> verify_chain([first], key.public) == digest(first)
    True
    """
    signature = key.sign(preimage.log_entry(previous, kind, sha256(body)))
    return LogEntry(previous=previous, kind=kind, body=body, signature=signature)


def digest(entry: LogEntry) -> Digest:
    """The name of an entry: what the next one gives as `previous`."""
    return sha256(preimage.log_entry(entry.previous, entry.kind, sha256(entry.body)))


def verify_chain(
    entries: Iterable[LogEntry], public: bytes, previous: Digest = GENESIS, first_index: int = 0
) -> Digest:
    """The digest of the last entry, if all are signed by `public` and linked from `previous`; else LogBroken.

    A reader that has seen part of the log keeps the digest returned and goes on from there.

    >>> key = SigningKey.from_seed(bytes(32))
    >>> first = append(key, GENESIS, LogKind.AUDIT, b"1")
    >>> seen = verify_chain([first], key.public)
    >>> second = append(key, seen, LogKind.AUDIT, b"2")
    >>> verify_chain([second], key.public, seen, 1) == verify_chain([first, second], key.public)
    True
    """
    for index, entry in enumerate(entries, first_index):
        signed = preimage.log_entry(entry.previous, entry.kind, sha256(entry.body))
        if entry.previous != previous:
            raise LogBroken(index, "it does not follow the entry before it")
        if not verify(public, entry.signature, signed):
            raise LogBroken(index, "its signature does not fit")
        previous = sha256(signed)
    return previous
