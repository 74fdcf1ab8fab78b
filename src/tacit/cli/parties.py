"""Who takes part in a Plan: the keys of this home, and the keyholders that the developer names.

A keyholder is named by a pin, NAME=KEY@URL, and then its server is asked for a fresh card; or by the file that its
operator made with `tacit keyholder card`. Where none is named the Plan gets one that stands beside the coordinator.
"""

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tacit.errors import InputError

if TYPE_CHECKING:
    from tacit.compiler.assemble import Assembled, Parties
    from tacit.plan.manifest import KeyholderCard
    from tacit.privacy.trust import Trust
    from tacit.wire.keys import SigningKey

_PIN = re.compile(r"([^=@]+)=([0-9a-fA-F]{64})@(https?://.+)")
_KEY = re.compile(r"[0-9a-fA-F]{64}")


def describe_keyholders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keyholder",
        dest="keyholders",
        action="append",
        default=[],
        metavar="NAME=KEY@URL",
        help="a keyholder of somebody else, as its operator told you, or the file of its card; may be repeated "
        "(default: one beside the coordinator, which hides nothing from whoever serves the Plan)",
    )


def describe_parties(parser: argparse.ArgumentParser) -> None:
    describe_keyholders(parser)
    parser.add_argument(
        "--keyholder-later",
        dest="later",
        action="append",
        default=[],
        metavar="KEY",
        help="the key of a keyholder that a later Plan of this charter may use; may be repeated",
    )
    parser.add_argument(
        "--trust",
        choices=["single-operator", "two-party", "three-party"],
        help="what the Plan claims (default: what keyholders named here give; else what the Task says)",
    )


def parties_of(given: argparse.Namespace, place: Path) -> "Parties":
    """The public keys of everybody, with a fresh card of each keyholder for this one Plan."""
    from tacit.cli.home import author_key
    from tacit.compiler.assemble import Parties
    from tacit.coordinator.keys import load_or_make

    author = author_key(place)
    coordinator = load_or_make(place / "coordinator", os.urandom)
    cards = cards_of(given.keyholders, place, author)
    return Parties(author.public, coordinator.sig.public, coordinator.enrolment.public, cards)


def cards_of(words: Sequence[str], place: Path, author: "SigningKey") -> "tuple[KeyholderCard, ...]":
    """A fresh card of each keyholder that is named, or of the one in this home."""
    from tacit.keyholder.keys import new_card

    # "embedded" instead of an address: whoever serves the Plan starts this keyholder beside the coordinator.
    return tuple(named(word, author) for word in words) or (new_card(place / "keyholder", "embedded:", os.urandom),)


def named(word: str, author: "SigningKey") -> "KeyholderCard":
    """A card of the keyholder that a developer named. InputError where it is not the one that was pinned."""
    from tacit.coordinator.keyholders import HttpKeyholder
    from tacit.keyholder.cards import read_card

    pin = _PIN.fullmatch(word)
    if pin is None:
        return read_card(_file(word))
    name, key, url = pin.group(1).strip(), bytes.fromhex(pin.group(2)), pin.group(3)
    card = read_card(HttpKeyholder(url, key, author).card())
    if card.sig_pk != key:
        raise InputError(f"{url} gave the card of another keyholder, {card.sig_pk.hex()}; it was not used")
    if card.operator != name:
        raise InputError(f"the keyholder at {url} is run by {card.operator!r} and you named {name!r}: say its own name")
    return card


def chartered(made: "Assembled", given: argparse.Namespace, *, old_charter: bool = False) -> "Assembled":
    """With what is claimed of the keyholders, and those whom later Plans may use. InputError for a claim too high."""
    import msgspec

    from tacit.plan.checks import most_trust
    from tacit.privacy.trust import Trust

    manifest, charter = made.manifest, made.charter
    most = most_trust(manifest)
    wanted = Trust(given.trust or (max_trust(manifest.trust, most) if given.keyholders else manifest.trust))
    if not wanted.at_most(most):
        raise InputError(
            f"it is to claim {wanted}, and keyholders of {_operators(manifest.keyholders)} give {most} at most. "
            f"{_remedy(wanted)}"
        )
    later = tuple(map(_key, given.later))
    if later and not old_charter:
        charter = msgspec.structs.replace(charter, keyholders=tuple(dict.fromkeys((*charter.keyholders, *later))))
    elif later:
        raise InputError("--keyholder-later is said once, with the first Plan of a charter; leave it out here")
    return replace(made, manifest=msgspec.structs.replace(manifest, trust=wanted), charter=charter)


def max_trust(one: "Trust", other: "Trust") -> "Trust":
    """The stronger claim.

    >>> from tacit.privacy.trust import Trust
    >>> max_trust(Trust.TWO_PARTY, Trust.SINGLE_OPERATOR)
    <Trust.TWO_PARTY: 'two-party'>
    """
    return other if one.at_most(other) else one


def _operators(cards: "Sequence[KeyholderCard]") -> str:
    return ", ".join(sorted({card.operator for card in cards if card.operator})) or "nobody but the coordinator"


def _remedy(wanted: "Trust") -> str:
    count = "two keyholders of two operators" if wanted == "three-party" else "a keyholder of another operator"
    return f"Name {count}: --keyholder NAME=KEY@URL, as `tacit keyholder init` printed it for them; or claim less"


def _file(word: str) -> bytes:
    try:
        return Path(word).read_bytes()
    except OSError as error:
        raise InputError(
            f"--keyholder {word}: say NAME=KEY@URL, as the keyholder's operator told you, or a file that "
            f"`tacit keyholder card` made ({error.strerror})"
        ) from error


def _key(text: str) -> bytes:
    if not _KEY.fullmatch(text):
        raise InputError(f"--keyholder-later {text}: a keyholder's signing key has 64 hex digits")
    return bytes.fromhex(text)
