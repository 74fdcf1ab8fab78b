"""The keyholder's keys on disk: one identity, which signs, and one card for each Plan, which opens seals.

    HOME/identity.key                    Ed25519 seed
    HOME/cards/<key_id, 32 hex>.key      X25519 seed; gone once its Plan has ended

Each file holds 32 bytes and has mode 0600. No card serves two Plans, so erasing a card ends one Plan's
secrets and no other's.
"""

from collections.abc import Callable
from pathlib import Path

from tacit.durable import erase_seed, load_or_make_seed, load_seed, make_folder, write_file
from tacit.plan.manifest import KeyholderCard
from tacit.wire.ids import KeyId, key_id
from tacit.wire.keys import SealingKey, SigningKey


def load_identity(home: Path, random: Callable[[int], bytes]) -> SigningKey:
    """The signing key in `home`, made at the first call.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     key = load_identity(Path(home), os.urandom)
    ...     key.public == load_identity(Path(home), os.urandom).public
    True
    """
    return SigningKey.from_seed(load_or_make_seed(home / "identity.key", random))


def new_card(home: Path, url: str, random: Callable[[int], bytes], operator: str = "") -> KeyholderCard:
    """A fresh card for one Plan, its secret half in `home`. `url` is where coordinators reach this keyholder.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     card = new_card(Path(home), "http://127.0.0.1:9000", os.urandom)
    ...     key = load_card(Path(home), KeyId(card.key_id))
    ...     key is not None and key.public == card.hpke_pk
    True
    """
    identity = load_identity(home, random)
    seed = random(32)
    sealing = SealingKey.from_seed(seed)
    name = key_id(sealing.public, identity.public)
    make_folder(home / "cards")
    write_file(_card(home, name), seed)
    return KeyholderCard(sig_pk=identity.public, hpke_pk=sealing.public, key_id=name, url=url, operator=operator)


def load_card(home: Path, name: KeyId) -> SealingKey | None:
    """The secret half of a card; None if it was never here or has been erased."""
    path = _card(home, name)
    return SealingKey.from_seed(load_seed(path)) if path.exists() else None


def erase_card(home: Path, name: KeyId) -> None:
    """What was sealed to this card can never be opened again."""
    erase_seed(_card(home, name))


def _card(home: Path, name: KeyId) -> Path:
    return home / "cards" / f"{name.hex()}.key"
