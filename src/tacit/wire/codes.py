"""Why a party says no: stable codes, and the one exception that carries them.

A code never depends on what a seal contains beyond whether it opens.
"""

from enum import StrEnum

from tacit.errors import TacitError


class Code(StrEnum):
    """The error codes of the protocol. Their names are part of the wire format and never change."""

    E_MALFORMED = "E_MALFORMED"  # not the canonical bytes of the message that was expected
    E_TOO_LARGE = "E_TOO_LARGE"
    E_RATE = "E_RATE"
    E_PLAN = "E_PLAN"
    E_EXPIRED = "E_EXPIRED"
    E_VERSION_FUTURE = "E_VERSION_FUTURE"
    E_STALE = "E_STALE"
    E_DUP_ID = "E_DUP_ID"
    E_DUP_DEVICE = "E_DUP_DEVICE"
    E_PARTICIPATION = "E_PARTICIPATION"
    E_CRED = "E_CRED"
    E_SIG = "E_SIG"
    E_SEAL_HASH = "E_SEAL_HASH"
    E_UNSEAL = "E_UNSEAL"
    E_HEAD = "E_HEAD"
    E_BELOW_T = "E_BELOW_T"
    E_T_ORDER = "E_T_ORDER"
    E_CHANGED = "E_CHANGED"
    E_BUDGET = "E_BUDGET"
    E_STATE_LOST = "E_STATE_LOST"
    E_HALTED = "E_HALTED"
    E_SUCCEEDED = "E_SUCCEEDED"  # another Plan continues this one; HEAD's answer names it
    E_REVOKED = "E_REVOKED"  # the operator takes nothing more from this device key; training goes on without it
    E_ROUTE = "E_ROUTE"  # there is no such address here, or it takes no such method
    E_INTERNAL = "E_INTERNAL"  # this party failed, not the one that asked; nothing was done
    E_GATE = "E_GATE"  # what became of an Update that sketches showed to be far too long; no answer to a request

    @property
    def retryable(self) -> bool:
        """Whether the same bytes, sent later, have a chance.

        >>> Code.E_RATE.retryable, Code.E_SIG.retryable
        (True, False)
        """
        return self in _RETRYABLE

    @property
    def per_entry(self) -> bool:
        """Whether this can reject one entry of a batch and leave the others standing.

        >>> Code.E_UNSEAL.per_entry, Code.E_BELOW_T.per_entry
        (True, False)
        """
        return self in _PER_ENTRY


# A version from the future is one that this party has not heard of yet.
_RETRYABLE = frozenset({Code.E_RATE, Code.E_VERSION_FUTURE, Code.E_INTERNAL})
_PER_ENTRY = frozenset(
    {
        Code.E_PLAN,
        Code.E_VERSION_FUTURE,
        Code.E_STALE,
        Code.E_DUP_ID,
        Code.E_DUP_DEVICE,
        Code.E_PARTICIPATION,
        Code.E_CRED,
        Code.E_SIG,
        Code.E_SEAL_HASH,
        Code.E_UNSEAL,
        Code.E_HEAD,
    }
)


class Refusal(TacitError):
    """A message was refused, for a reason with a stable code.

    >>> refusal = Refusal(Code.E_STALE, "base version 3 is older than the 16 versions this Plan allows")
    >>> print(refusal)
    E_STALE: base version 3 is older than the 16 versions this Plan allows
    >>> refusal.code, refusal.retryable
    (<Code.E_STALE: 'E_STALE'>, False)
    """

    def __init__(self, code: Code, reason: str, retry_after: int | None = None):
        self.code, self.reason = code, reason
        self.retryable = code.retryable
        self.retry_after = retry_after  # seconds; None where one may ask again at once, or need not at all
        super().__init__(f"{code}: {reason}")
