"""The log: an append-only chain of signed entries, as pure functions.

Each entry names the digest of the one before, so whoever keeps the last digest has fixed the whole past.
The log holds ids, hashes and counts only.

As bytes it is lines of JSON, an entry each, cut into pages: a page that is full never changes, so any server of files
can keep it. The last page is the one that is not full.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from tacit.errors import TacitError
from tacit.wire import preimage
from tacit.wire.ids import Digest, sha256
from tacit.wire.keys import SigningKey, verify
from tacit.wire.messages import LogEntry, LogKind

GENESIS = Digest(bytes(32))  # what the first entry names as its predecessor
PAGE = 256  # entries


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


class Damage(StrEnum):
    """What was done to an entry of a chain."""

    CHANGED = "changed"
    DROPPED = "dropped"  # what stood before it
    MOVED = "moved"
    DOUBLED = "doubled"


@dataclass(frozen=True)
class Break:
    """Entry `index` (from 0) is not what follows the entry before it."""

    index: int
    damage: Damage
    reason: str


def breaks(entries: Sequence[LogEntry], public: bytes) -> list[Break]:
    """Every place where a chain does not hold, and what was done there; none for one that `verify_chain` takes.

    >>> key = SigningKey.from_seed(bytes(32))
    >>> first = append(key, GENESIS, LogKind.AUDIT, b"1")
    >>> second = append(key, digest(first), LogKind.AUDIT, b"2")
    >>> [(one.index, one.damage.value) for one in breaks([first, first, second], key.public)]
    [(1, 'doubled')]
    """
    names = [digest(entry) for entry in entries]
    places = {name: index for index, name in reversed(list(enumerate(names)))}
    found: list[Break] = []
    previous: Digest | None = GENESIS
    for index, (entry, name) in enumerate(zip(entries, names, strict=True)):
        if not verify(public, entry.signature, preimage.log_entry(entry.previous, entry.kind, sha256(entry.body))):
            found.append(Break(index, Damage.CHANGED, "its signature does not fit what it says"))
            previous = None  # what followed the entry that stood here cannot be told from it any more
            continue
        if places[name] < index:
            found.append(Break(index, Damage.DOUBLED, f"it is entry {places[name]} once more"))
        elif previous is not None and entry.previous != previous:
            found.append(_displaced(index, entry, places))
        previous = name
    return found


def _displaced(index: int, entry: LogEntry, places: dict[Digest, int]) -> Break:
    """A well-signed entry that does not follow the one before it."""
    if entry.previous == GENESIS:
        return Break(index, Damage.MOVED, "it was written as the first entry of all")
    written_after = places.get(entry.previous)
    if written_after is not None:
        return Break(index, Damage.MOVED, f"it was written behind what is now entry {written_after}")
    return Break(index, Damage.DROPPED, "the entry that it was written behind is missing")


def encode_lines(entries: Iterable[LogEntry]) -> bytes:
    """Entries as lines of JSON, as a server sends them."""
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)


def decode_lines(data: bytes, first_index: int = 0) -> list[LogEntry]:
    """The entries in such lines. LogBroken for a line that is none.

    >>> entry = append(SigningKey.from_seed(bytes(32)), GENESIS, LogKind.AUDIT, b"1")
    >>> decode_lines(encode_lines([entry, entry])) == [entry, entry]
    True
    """
    found: list[LogEntry] = []
    for index, line in enumerate(data.splitlines(), first_index):
        try:
            found.append(msgspec.json.decode(line, type=LogEntry))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise LogBroken(index, f"it cannot be read ({error})") from error
    return found


def read_pages(page: Callable[[int], bytes]) -> list[LogEntry]:
    """The whole log, out of its pages as `page(number)` gives them: the first that is not full is the last.

    >>> entry = append(SigningKey.from_seed(bytes(32)), GENESIS, LogKind.AUDIT, b"1")
    >>> len(read_pages(lambda number: encode_lines([entry] * (PAGE if number == 0 else 3))))
    259
    """
    found: list[LogEntry] = []
    while True:
        here = decode_lines(page(len(found) // PAGE), len(found))
        if len(here) > PAGE:
            raise LogBroken(len(found) + PAGE, f"a page has {len(here)} entries, and {PAGE} are its most")
        found += here
        if len(here) < PAGE:
            return found
