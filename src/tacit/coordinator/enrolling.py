"""What an operator says about who may take part, as values: the same on the coordinator's machine and elsewhere."""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from tacit.coordinator.roll import Listed, Roll, token_name
from tacit.errors import InputError
from tacit.plan.bundle import Plan
from tacit.wire.codes import Refusal
from tacit.wire.ids import DeviceKey
from tacit.wire.keys import SigningKey
from tacit.wire.messages import DeviceList, decode
from tacit.wire.signed import sign_device_list

MOST_AT_ONCE = 10_000
LONGEST_DAYS = 366
DAY_S = 24 * 3600


class Invited(msgspec.Struct, frozen=True):
    """New invitations. The tokens are nowhere else."""

    tokens: list[str]
    expires_at: int  # seconds of Unix time


class InvitationSaid(msgspec.Struct, frozen=True):
    """An invitation, without what it is. `device` is the key that it let in."""

    name: str
    state: Literal["unused", "used", "expired", "withdrawn"]
    made_at: int
    expires_at: int
    device: str | None


class Revoked(msgspec.Struct, frozen=True):
    """How many of these keys had not been revoked before."""

    devices: int


class ListLoaded(msgspec.Struct, frozen=True):
    """The list that holds from now on."""

    lineage: str
    number: int
    devices: int


def invite(roll: Roll, count: int, days: int, now: int, random: Callable[[int], bytes]) -> Invited:
    """So many new invitations, for so many days."""
    if not 1 <= count <= MOST_AT_ONCE:
        raise InputError(f"{count} invitations; 1 to {MOST_AT_ONCE} are made at once")
    if not 1 <= days <= LONGEST_DAYS:
        raise InputError(f"an invitation lasts 1 to {LONGEST_DAYS} days, not {days}")
    tokens = [base64.urlsafe_b64encode(random(16)).rstrip(b"=").decode() for _ in range(count)]
    expires_at = now + days * DAY_S
    roll.invite([token_name(token) for token in tokens], expires_at, now)
    return Invited(tokens, expires_at)


def invitations(roll: Roll, now: int) -> list[InvitationSaid]:
    """All of them, the newest last."""
    return [_said(one, now) for one in roll.invitations()]


def withdraw(roll: Roll, beginning: str, now: int) -> InvitationSaid:
    """Takes an invitation back, by how its name begins; whom it let in is revoked."""
    return _said(roll.withdraw(beginning.lower(), now), now)


def revoke(roll: Roll, keys: Sequence[str], now: int) -> Revoked:
    """Nothing more is taken in of these device keys, in 64 hex digits each."""
    return Revoked(roll.revoke([device_key(key) for key in keys], now))


def load_list(roll: Roll, data: bytes, plans: Mapping[bytes, Plan]) -> ListLoaded:
    """The signed list of a lineage, as a file: from now on its devices may take part and no others."""
    try:
        listed = decode(DeviceList, data)
        known = [plan for plan in plans.values() if plan.lineage == listed.lineage]
        if not known:
            raise InputError(
                f"this list is for the Plans that continue {listed.lineage.hex()[:8]}; none is served here"
            )
        roll.take_list(listed, {key for plan in known for key in (plan.author, plan.manifest.enrolment)})
    except Refusal as refusal:
        raise InputError(f"this list was not loaded: {refusal.reason}") from refusal
    return ListLoaded(listed.lineage.hex(), listed.number, len(listed.devices))


def signed_list(key: SigningKey, plan: Plan, text: str, number: int) -> DeviceList:
    """A list of device keys, one a line, for a Plan and those that continue it. What follows # is for people."""
    if key.public not in (plan.author, plan.manifest.enrolment):
        raise InputError(
            f"a list for {plan.name} is signed by its author or by its enrolment authority, and this home has neither "
            "key; say the --home that it was compiled with"
        )
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return sign_device_list(key, plan.lineage, number, [device_key(line) for line in lines if line])


def device_key(text: str) -> DeviceKey:
    """A device key in hex.

    >>> device_key("0B" * 32) == bytes([11] * 32)
    True
    >>> device_key("me")
    Traceback (most recent call last):
    tacit.errors.InputError: 'me' is not a device key: 64 hex digits, as `tacit device key LINK` prints
    """
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise InputError(f"{text[:80]!r} is not a device key: 64 hex digits, as `tacit device key LINK` prints")
    return DeviceKey(key)


def _said(one: Listed, now: int) -> InvitationSaid:
    state: Literal["unused", "used", "expired", "withdrawn"] = "unused"
    if one.withdrawn:
        state = "withdrawn"
    elif one.dpk is not None:
        state = "used"
    elif one.expires_at <= now:
        state = "expired"
    return InvitationSaid(
        one.name.hex()[:16], state, one.made_at, one.expires_at, None if one.dpk is None else one.dpk.hex()
    )
