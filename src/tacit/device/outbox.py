"""What happens to an Update once it is made: sent until it is answered, then asked after until it landed.

    Debited, Sent  --deliver-->  Receipted | Settled | Expired
    Receipted      --settle--->  Settled | Expired

Every attempt sends the bytes that are in the ledger. A refusal is not signed, and whatever is on the way can
say it; so it ends an Update only where the coordinator then signs that it does not hold it. An accepted
Update is never given up, and neither is one whose fate nobody has signed for.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tacit.device.client import AnswerBroken, Client, Refused
from tacit.device.joining import Membership
from tacit.device.ledger import Ledger
from tacit.device.participation import (
    Expired,
    Receipted,
    Sent,
    Settled,
    Unanswered,
    expired,
    receipted,
    sent,
    settled,
)
from tacit.faults import crash_point
from tacit.wire import preimage
from tacit.wire.codes import Code, Refusal
from tacit.wire.messages import Proof, encode
from tacit.wire.signed import check_proof, check_receipt

# These are about the run. They say nothing against the Update, which stays in the outbox.
OF_THE_RUN = frozenset({Code.E_BUDGET, Code.E_EXPIRED, Code.E_HALTED, Code.E_STATE_LOST})


@dataclass(frozen=True)
class Delivered:
    """An Update that was answered, and the refusal if that was the answer; `Sent` where it is kept in spite of it."""

    state: Sent | Receipted | Settled | Expired
    refusal: Refused | None


@dataclass(frozen=True, eq=False)
class Outbox:
    """The ledger's outbox and the coordinator at the other end."""

    member: Membership
    ledger: Ledger
    client: Client
    now: Callable[[], int]  # seconds since 1970

    def deliver(self, state: Unanswered) -> Delivered:
        """Sends one Update. Raises what `Client` raises where a later attempt may do better."""
        out = sent(state)
        self.ledger.move(out, self.now())
        crash_point("device.sending")
        try:
            receipt = self.client.upload(self.ledger.upload(state))
        except Refused as refusal:
            if refusal.retryable:
                raise
            return self._refused(out, refusal)
        try:
            check_receipt(receipt, out.debt.update_hash, self.member.manifest.coordinator)
        except Refusal as refusal:
            raise AnswerBroken(f"the coordinator's receipt is worth nothing: {refusal.reason}") from refusal
        crash_point("device.sent")
        done = receipted(out, encode(receipt))
        self.ledger.move(done, self.now())
        crash_point("device.received")
        return Delivered(done, None)

    def settle(self, state: Receipted, newest: int) -> Settled | Expired | None:
        """Asks what became of a receipted Update, `newest` being the version of the newest verified HEAD.

        None while it waits. Whatever the coordinator says, an Update is over once no keyholder would open it.
        """
        proof = self._proof(state)
        if proof.outcome != "queued":
            return self._over(state, proof)
        if newest > state.offer.version + self.member.manifest.batch.max_age:
            return self._end(state, "no batch took it before it was too old")
        return None

    def _refused(self, state: Sent, refusal: Refused) -> Delivered:
        """What the coordinator signs after a refusal, of the first attempt too, is what counts."""
        proof = self._proof(state)
        match proof.outcome:
            case "opened" | "expired" | "spoilt" | "refused":
                return Delivered(self._over(state, proof), None)
            case "queued":
                raise AnswerBroken("the coordinator refuses an Update that it says it holds; it stays in the outbox")
            case "unknown" if refusal.code in OF_THE_RUN:
                return Delivered(state, refusal)
            case "unknown":
                return Delivered(self._end(state, f"the coordinator refused it: {refusal.reason}"), refusal)

    def _over(self, state: Sent | Receipted, proof: Proof) -> Settled | Expired:
        match proof.outcome:
            case "opened":
                done = settled(state, proof.t)
                self.ledger.move(done, self.now())
                crash_point("device.settled")
                return done
            case "spoilt":
                return self._end(state, f"batch {proof.t} was void, and it with it")
            case "refused":
                return self._end(state, "a keyholder would not open it")
            case "expired":
                return self._end(state, "no batch took it before it was too old")
            case "unknown" | "queued":
                return self._end(state, "the coordinator does not know it, against its own receipt")

    def _end(self, state: Sent | Receipted, reason: str) -> Expired:
        done = expired(state, reason)
        self.ledger.move(done, self.now())
        return done

    def _proof(self, state: Sent | Receipted) -> Proof:
        proof = self.client.proof(state.debt.update_id)
        try:
            if (proof.plan_id, proof.update_id) != (self.member.plan_id, state.debt.update_id):
                raise Refusal(Code.E_CHANGED, "it is about another Update")
            # The list is compared with the log by an auditor; here it must hold this Update and be signed.
            check_proof(
                proof,
                self.member.manifest.coordinator,
                update=state.debt.update_hash,
                root=preimage.root(proof.members),
            )
        except Refusal as refusal:
            raise AnswerBroken(f"the coordinator's proof is worth nothing: {refusal.reason}") from refusal
        return proof
