"""Whom one has to trust: computed from keys, never claimed.

A keyholder counts as independent only if its signing key is in the operator directory of *this* device,
which neither the coordinator nor the author of the Plan delivers. Every other keyholder counts as the
coordinator's.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import StrEnum


class Trust(StrEnum):
    """The names shown wherever ε is.

    >>> print(Trust.TWO_PARTY)
    two-party
    """

    SINGLE_OPERATOR = "single-operator"
    TWO_PARTY = "two-party"
    THREE_PARTY = "three-party"

    def at_most(self, other: "Trust") -> bool:
        """Whether this claims no more than `other`.

        >>> Trust.TWO_PARTY.at_most(Trust.THREE_PARTY), Trust.TWO_PARTY.at_most(Trust.SINGLE_OPERATOR)
        (True, False)
        """
        order = list(Trust)
        return order.index(self) <= order.index(other)


def trust_of(keyholders: Sequence[bytes], directory: Mapping[bytes, str]) -> Trust:
    """The trust that these keyholders' signing keys give to the owner of `directory`.

    `directory` names the operator of each signing key that the owner holds for independent. Two keys of one
    operator count once.

    >>> trust_of([b"k1", b"k2"], {})
    <Trust.SINGLE_OPERATOR: 'single-operator'>
    >>> trust_of([b"k1", b"k2"], {b"k1": "a university", b"k2": "a patients' union"})
    <Trust.THREE_PARTY: 'three-party'>
    """
    operators = {directory[key] for key in keyholders if key in directory}
    match len(operators):
        case 0:
            return Trust.SINGLE_OPERATOR
        case 1:
            return Trust.TWO_PARTY
        case _:
            return Trust.THREE_PARTY


class Fact(StrEnum):
    """What else was seen of a Plan's parties. It is said beside a trust and never replaces independence."""

    ATTESTED = "TEE"  # the attestation of a keyholder's machine was verified
    WEB = "web-trust"  # the device's code came from the coordinator, as a page that trains does


def label(trust: Trust, facts: AbstractSet[Fact] = frozenset()) -> str:
    """The name with what else is known.

    >>> label(Trust.THREE_PARTY, {Fact.WEB})
    'three-party+web-trust'
    """
    return "+".join([trust, *(fact for fact in Fact if fact in facts)])


def sentence(trust: Trust) -> str:
    """What a person is told.

    >>> sentence(Trust.TWO_PARTY).split(":")[0]
    'Two-party mode'
    """
    return _SENTENCES[trust]


def holds_against(trust: Trust) -> str:
    """Towards whom a stated ε holds; completes "this holds ...".

    >>> holds_against(Trust.SINGLE_OPERATOR)
    'only towards outsiders who see Snapshots, not towards the operator'
    """
    return _HOLDS[trust]


_SENTENCES = {
    Trust.SINGLE_OPERATOR: (
        "Single-operator mode: whoever runs this server can unmask individual updates. Encryption here "
        "exercises the protocol; it does not protect you from the operator."
    ),
    Trust.TWO_PARTY: (
        "Two-party mode: individual Updates are hidden unless the coordinator and the independent keyholder "
        "collude. That keyholder sees sums without noise."
    ),
    Trust.THREE_PARTY: (
        "Three-party mode: individual Updates are hidden unless the coordinator and all independent keyholders collude."
    ),
}
WEB_TRUST = (
    "A page that trains is code from whoever serves it: it could read what the device holds and send it elsewhere, "
    "whatever the keyholders do."
)
_HOLDS = {
    Trust.SINGLE_OPERATOR: "only towards outsiders who see Snapshots, not towards the operator",
    Trust.TWO_PARTY: "towards the coordinator and outsiders, not towards the independent keyholder",
    Trust.THREE_PARTY: "towards any set of parties that lacks one independent keyholder",
}
