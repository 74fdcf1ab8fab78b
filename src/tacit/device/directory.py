"""Whom this device holds for independent of a coordinator: operators, by the signing keys of their keyholders.

HOME/operators.json    {"<signing key, 64 hex>": "a university", ...}, mode 0600

Only the device's owner writes it, with keys that the operators themselves gave. Neither a Plan nor a coordinator can:
a keyholder that is not in it counts as the coordinator's own, whatever the Plan calls it.
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import msgspec

from tacit.durable import make_folder, write_file
from tacit.errors import InputError
from tacit.plan.bundle import Plan
from tacit.plan.checks import unequal_weights
from tacit.plan.manifest import KeyholderCard
from tacit.privacy.trust import Trust, sentence, trust_of

_KEY = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,80}")


class TrustOverclaimed(InputError):
    """The Plan says more of its keyholders than this device knows of them; nothing was run."""

    def __init__(self, plan: Plan, found: Trust, unknown: tuple[KeyholderCard, ...]):
        self.claimed, self.found = plan.manifest.trust, found
        pins = "; ".join(f"tacit device trust add {_quoted(card.operator)} {card.sig_pk.hex()}" for card in unknown)
        super().__init__(
            f"Plan {plan.name} says that it is {self.claimed}, and by this device's directory of operators it is "
            f"{found}: {sentence(found)} Nothing was run. If the operators themselves, not this Plan's coordinator, "
            f"gave you these keys, pin them: {pins}. Or take part as it is, and say --accept-trust {found}"
        )


class WeightsTellApart(InputError):
    """The Plan's age weights could single an Update out, by what this device knows of its keyholders."""

    def __init__(self, plan: Plan, found: Trust, reason: str):
        super().__init__(f"Plan {plan.name} is {found} for this device, and {reason}; nothing was run. Ask its author")


def operators(home: Path) -> dict[bytes, str]:
    """The directory; empty where nobody was pinned. InputError where it is damaged or others may write to it."""
    path = _path(home)
    try:
        data, mode = path.read_bytes(), path.stat().st_mode
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"the directory of operators {path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise InputError(f"others can reach the directory of operators; take that away with: chmod 600 {path}")
    try:
        found = msgspec.json.decode(data, type=dict[str, str])
    except (msgspec.MsgspecError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error}; remove it and pin your operators again") from error
    if _encoded(found) != data or not all(map(_KEY.fullmatch, found)):
        raise InputError(f"{path} was not written by `tacit device trust`; remove it and pin your operators again")
    return {bytes.fromhex(key): name for key, name in found.items()}


def pin(home: Path, name: str, key: str) -> None:
    """From here on whoever signs with `key` counts as the independent operator `name`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     pin(Path(home), "a university", "0b" * 32)
    ...     before = operators(Path(home))
    ...     unpin(Path(home), "a university")
    ...     list(before.values()), operators(Path(home))
    (['a university'], {})
    """
    key = key.strip().lower()
    if not _KEY.fullmatch(key):
        raise InputError(f"{key!r} is not a keyholder's signing key: 64 hex digits, as `tacit keyholder init` prints")
    if not _NAME.fullmatch(name) or name != name.strip():
        raise InputError(f"{name!r} is not an operator's name: 1 to 80 characters")
    known = operators(home)
    if (other := known.get(bytes.fromhex(key))) not in (None, name):
        raise InputError(f"that key is pinned as {other!r}; first: tacit device trust remove {_quoted(other or '')}")
    _write(home, known | {bytes.fromhex(key): name})


def unpin(home: Path, named: str) -> None:
    """Forget an operator, with all its keys, or one key."""
    known = operators(home)
    left = {key: name for key, name in known.items() if named not in (name, key.hex())}
    if len(left) == len(known):
        raise InputError(f"{named!r} is not in the directory; `tacit device trust` lists it")
    _write(home, left)


def trusted(plan: Plan, directory: Mapping[bytes, str], accepted: Trust | None) -> Trust:
    """What a Plan's keyholders are worth to this device, where its owner lets it take part.

    TrustOverclaimed where the Plan claims more, unless `accepted` allows for what was found; WeightsTellApart where
    Updates of different ages could be told apart by somebody who knows the noise.
    """
    manifest = plan.manifest
    found = trust_of([card.sig_pk for card in manifest.keyholders], directory)
    if not manifest.trust.at_most(found) and not (accepted is not None and accepted.at_most(found)):
        raise TrustOverclaimed(plan, found, tuple(one for one in manifest.keyholders if one.sig_pk not in directory))
    if (reason := unequal_weights(manifest, found)) is not None:
        raise WeightsTellApart(plan, found, reason)
    return found


def _path(home: Path) -> Path:
    return home / "operators.json"


def _encoded(directory: Mapping[str, str]) -> bytes:
    return msgspec.json.encode(dict(sorted(directory.items()))) + b"\n"


def _write(home: Path, directory: Mapping[bytes, str]) -> None:
    make_folder(home)
    write_file(_path(home), _encoded({key.hex(): name for key, name in directory.items()}))


def _quoted(name: str) -> str:
    """A name that a stranger chose, as a word that can be typed."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in name)[:80]
    return shlex.quote(plain or "NAME")
