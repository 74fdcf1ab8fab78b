"""The keys of everybody in a run, from its seed: the same seed, the same Plan.

Anybody who knows the seed has them all, so they protect nobody, and no Plan that names them is for real devices.
"""

from dataclasses import dataclass

from tacit.fleet.draws import secret
from tacit.plan.manifest import KeyholderCard
from tacit.privacy.trust import Trust
from tacit.wire.ids import key_id
from tacit.wire.keys import SealingKey, SigningKey

TITLE = "simulated "
PURPOSE = "a simulation: its keys come from a seed that anybody may know, and no device should train it"
_KEYHOLDERS = {Trust.SINGLE_OPERATOR: 1, Trust.TWO_PARTY: 1, Trust.THREE_PARTY: 2}


@dataclass(frozen=True, eq=False)
class Keys:
    """Secret halves."""

    author: SigningKey
    coordinator: SigningKey
    enrolment: SigningKey
    keyholders: tuple[tuple[SigningKey, SealingKey], ...]

    @property
    def cards(self) -> tuple[KeyholderCard, ...]:
        """Their public halves, as a Plan names them; each has an operator of its own."""
        return tuple(
            KeyholderCard(
                sig_pk=signing.public,
                hpke_pk=sealing.public,
                key_id=key_id(sealing.public, signing.public),
                url="embedded:",
                operator=f"simulated keyholder {number}",
            )
            for number, (signing, sealing) in enumerate(self.keyholders, start=1)
        )


def keys_of(seed: int, trust: Trust) -> Keys:
    """Everybody's, with as many keyholders as this trust needs.

    >>> [card.operator for card in keys_of(7, Trust.THREE_PARTY).cards]
    ['simulated keyholder 1', 'simulated keyholder 2']
    >>> keys_of(7, Trust.TWO_PARTY).cards == keys_of(7, Trust.TWO_PARTY).cards != keys_of(8, Trust.TWO_PARTY).cards
    True
    """

    def signing(purpose: bytes, number: int = 0) -> SigningKey:
        return SigningKey.from_seed(secret(seed, b"signing " + purpose, number))

    return Keys(
        signing(b"author"),
        signing(b"coordinator"),
        signing(b"enrolment"),
        tuple((signing(b"keyholder", j), sealing_key(seed, j)) for j in range(1, 1 + _KEYHOLDERS[trust])),
    )


def sealing_key(seed: int, j: int) -> SealingKey:
    """What keyholder j, from 1 on, opens seals with."""
    return SealingKey.from_seed(secret(seed, b"sealing", j))
