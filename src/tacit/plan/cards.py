"""Which cards the keyholders of a Plan have at a version: those of the Plan, or newer ones after a loss.

A HEAD names the cards of its version, and seals to that Snapshot are made for them. See docs/explanation/rekeying.md.
"""

from collections.abc import Sequence

import msgspec

from tacit.plan.manifest import KeyholderCard, Manifest
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import Digest, KeyId, PlanId
from tacit.wire.messages import Head, Rekeyed
from tacit.wire.signed import check_head, check_rekeyed


def cards_at(
    manifest: Manifest, plan_id: PlanId, rekeyed: Sequence[Rekeyed], version: int
) -> tuple[KeyholderCard, ...]:
    """The cards of version `version`. E_HEAD for a new key that is none of this Plan's, E_SIG for one nobody signed."""
    places = {card.sig_pk: place for place, card in enumerate(manifest.keyholders)}
    cards = list(manifest.keyholders)
    for new in sorted(rekeyed, key=lambda new: new.from_version):
        if new.sig_pk not in places:
            raise Refusal(Code.E_HEAD, "a new key is that of a keyholder which the Plan does not name")
        check_rekeyed(new, plan_id)
        if new.from_version <= version:
            place = places[new.sig_pk]
            cards[place] = msgspec.structs.replace(cards[place], hpke_pk=new.hpke_pk, key_id=new.key_id)
    return tuple(cards)


def check_signed(head: Head, plan_id: PlanId, manifest: Manifest) -> Digest:
    """SHA-256(HEAD), if every keyholder of this Plan signed it. Refusal if not."""
    if head.plan_id != plan_id:
        raise Refusal(Code.E_HEAD, "this HEAD is another Plan's")
    cards = cards_at(manifest, plan_id, head.rekeyed, head.version)
    return check_head(head, [(KeyId(card.key_id), card.sig_pk) for card in cards])


def key_ids_at(manifest: Manifest, plan_id: PlanId, rekeyed: Sequence[Rekeyed], version: int) -> list[KeyId]:
    """The names of those cards, as HEAD has them."""
    return [KeyId(card.key_id) for card in cards_at(manifest, plan_id, rekeyed, version)]
