"""Which Updates make the next group of a round. Pure.

    a round begins     with groups · target Updates; after the deadline with groups · threshold
    its groups         are drawn from the first that had arrived by then, in an order that its secret gives
    if those expire    so that a group would be below the threshold, what came later may join

So an attacker cannot choose the group that he is in, nor be in two of them: a device lands in a round once.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence

import msgspec

from tacit.coordinator.batch import Landing, Member, choose
from tacit.coordinator.rounds import Round
from tacit.plan.manifest import Manifest
from tacit.wire.ids import DeviceKey, UpdateId


def choose_group(
    queued: Sequence[Member],
    before: Collection[UpdateId],
    landings: Mapping[DeviceKey, Landing],
    t: int,
    round: Round,
    opened: int,
    manifest: Manifest,
) -> tuple[Member, ...]:
    """The next group, or none where there are too few for all that are left. `opened` groups have been.

    `before` are those that had arrived when the round began; where there are enough of them they alone are drawn.
    """
    left = manifest.batch.groups - opened
    fresh = [
        member for member in queued if (landed := landings.get(member.dpk)) is None or landed.last_t < round.first_t
    ]
    for pool in ([member for member in fresh if member.update_id in before], fresh):
        able = choose(pool, landings, t, _in_one(manifest, left))
        size = min(manifest.batch.target, len(able) // left)
        if size >= manifest.batch.threshold:
            return tuple(sorted(able, key=lambda member: drawn(round.secret, member.update_id))[:size])
    return ()


def drawn(secret: bytes, update_id: UpdateId) -> bytes:
    """Where an Update stands in the order of a round: nobody can tell before the secret is drawn.

    >>> drawn(bytes(32), UpdateId(bytes(16))).hex()[:8]
    '4261d192'
    """
    return hashlib.sha256(secret + b"|" + update_id).digest()


def _in_one(manifest: Manifest, groups: int) -> Manifest:
    """The same rules, for so many groups in one batch."""
    whole = msgspec.structs.replace(manifest.batch, target=groups * manifest.batch.target)
    return msgspec.structs.replace(manifest, batch=whole)
