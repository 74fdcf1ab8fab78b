"""Cards that were given out: one for each Plan that an author wants to compile with this keyholder.

HOME/cards.sqlite    which card was given to whom, and when

A card costs its author nothing, so how many may lie about unused is limited, and one that no Plan came with in a month
is erased. What an author gets is the card with the signature of the keyholder's own key under it.
"""

import base64
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from tacit.durable import open_database, transaction
from tacit.errors import InputError
from tacit.keyholder.keys import erase_card, load_identity, new_card
from tacit.keyholder.operator import Operator
from tacit.plan.manifest import KeyholderCard
from tacit.wire import preimage
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import KeyId, key_id, sha256
from tacit.wire.keys import verify

UNUSED_S = 30 * 24 * 3600
MOST_UNUSED_EACH = 8  # of one author
MOST_UNUSED_STRANGERS = 64  # of all authors without an approved charter together
MOST_CARD_BYTES = 4096

_MIGRATIONS = (
    """
    CREATE TABLE given (
        key_id BLOB PRIMARY KEY,
        author BLOB NOT NULL,        -- empty: by the operator's own hand
        known  INTEGER NOT NULL,     -- whether a charter of the author was approved then
        at     INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
)


class SignedCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A card as it travels."""

    card: KeyholderCard
    signature: bytes


class GivenCards:
    """The list of what was given out. `loaded` says whether a Plan came with a card."""

    def __init__(
        self,
        home: Path,
        operator: Operator | None,
        loaded: Callable[[KeyId], bool],
        random: Callable[[int], bytes],
        clock: Callable[[], float],
    ):
        self._home, self._operator, self._loaded = home, operator, loaded
        self._random, self._clock = random, clock
        self._db = open_database(home / "cards.sqlite", _MIGRATIONS, any_thread=True)
        self._turn = threading.Lock()

    def close(self) -> None:
        with self._turn:
            self._db.close()

    def give(self, author: bytes, known: bool) -> bytes:
        """A fresh card for an author, signed. E_RATE where too many lie about unused."""
        if self._operator is None:
            raise Refusal(Code.E_PLAN, "this keyholder stands beside its coordinator and gives no cards to others")
        with self._turn:
            self._expire()
            own = self._count("author = ?", author)
            if own >= MOST_UNUSED_EACH:
                raise Refusal(
                    Code.E_RATE,
                    f"{own} cards of yours came with no Plan yet; serve one of those Plans, or wait until they expire",
                    UNUSED_S // 30,
                )
            if not known and self._count("known = ? AND author != x''", 0) >= MOST_UNUSED_STRANGERS:
                raise Refusal(
                    Code.E_RATE,
                    "too many cards were asked for by authors without an approved charter; ask the operator for one "
                    "(tacit keyholder card)",
                    UNUSED_S // 30,
                )
            return self._make(author, known)

    def give_by_hand(self) -> bytes:
        """The same, for the operator who passes it on."""
        if self._operator is None:
            raise InputError(f"{self._home} has no operator yet; begin with: tacit keyholder init")
        with self._turn:
            return self._make(b"", True)

    def _make(self, author: bytes, known: bool) -> bytes:
        assert self._operator is not None, "asked for by a caller that looked"
        card = new_card(self._home, self._operator.url, self._random, self._operator.operator)
        with transaction(self._db):
            self._db.execute("INSERT INTO given VALUES (?, ?, ?, ?)", (card.key_id, author, known, int(self._clock())))
        signature = load_identity(self._home, self._random).sign(_preimage(card))
        return msgspec.json.encode(SignedCard(card, signature))

    def _count(self, which: str, value: object) -> int:
        rows = self._db.execute(f"SELECT key_id FROM given WHERE {which}", (value,)).fetchall()  # noqa: S608 - ours
        return sum(not self._loaded(KeyId(name)) for (name,) in rows)

    def _expire(self) -> None:
        oldest = int(self._clock()) - UNUSED_S
        for (name,) in self._db.execute("SELECT key_id FROM given WHERE at < ?", (oldest,)).fetchall():
            if not self._loaded(KeyId(name)):
                erase_card(self._home, KeyId(name))
            with transaction(self._db):
                self._db.execute("DELETE FROM given WHERE key_id = ?", (name,))


def read_card(data: bytes) -> KeyholderCard:
    """The card in these bytes, if the keyholder it names signed it. InputError for everything else.

    >>> read_card(b"{}")
    Traceback (most recent call last):
    tacit.errors.InputError: this is no keyholder's card: Object missing required field `card`
    """
    try:
        signed = msgspec.json.decode(data[: MOST_CARD_BYTES + 1], type=SignedCard)
        card = signed.card
        fits = card.key_id == key_id(card.hpke_pk, card.sig_pk)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InputError(f"this is no keyholder's card: {error}") from error
    if not fits or not verify(card.sig_pk, signed.signature, _preimage(card)):
        raise InputError(
            f"the card of {card.operator!r} is not signed by the key {base64.b16encode(card.sig_pk).decode().lower()} "
            "that it names; ask its operator for another one"
        )
    return card


def _preimage(card: KeyholderCard) -> bytes:
    return preimage.card(card.sig_pk, card.hpke_pk, sha256(card.operator.encode()), sha256(card.url.encode()))
