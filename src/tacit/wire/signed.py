"""Who said it: making signed messages, and refusing those that are not what they claim.

`sign_...` builds a message; `check_...` returns None, or a digest that the caller needs next, or raises
`Refusal`. A signature covers every field of its message but those that carry a signature of their own
(credentials, marks, new keys) or are bound through a root (the entries of a request, the members of a proof).
"""

from collections.abc import Collection, Sequence

from tacit.wire import ids, preimage
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, Digest, KeyId, Lineage, PlanId, UpdateId, sha256
from tacit.wire.keys import SigningKey, verify
from tacit.wire.messages import (
    OUTCOMES,
    SUITE_1,
    Ask,
    Averaged,
    CommitRequest,
    Committed,
    Credential,
    DeviceList,
    Enrol,
    Entry,
    FreezeRequest,
    Head,
    HeadSignature,
    Opened,
    OpenedMark,
    OpenRequest,
    Outcome,
    PrepareRequest,
    Proof,
    Receipt,
    Rekeyed,
    Revealed,
    SignHeadRequest,
    Sketched,
    SketchRequest,
    Upload,
    update_hash,
    update_preimage,
)


def sign_upload(
    key: SigningKey,
    *,
    plan_id: PlanId,
    base_version: int,
    head_hash: Digest,
    update_id: UpdateId,
    payload: bytes,
    sealed: Sequence[bytes],
    credential: Credential,
) -> Upload:
    """An Upload signed by the device's key, which is also its `dpk`."""
    dpk = DeviceKey(key.public)
    seal_hashes = [sha256(one) for one in sealed]
    signature = key.sign(
        preimage.update(plan_id, base_version, head_hash, update_id, dpk, sha256(payload), SUITE_1, seal_hashes)
    )
    return Upload(
        plan_id=plan_id,
        base_version=base_version,
        head_hash=head_hash,
        update_id=update_id,
        dpk=dpk,
        payload=payload,
        suite=SUITE_1,
        sealed=tuple(sealed),
        credential=credential,
        signature=signature,
    )


def check_update(update: Upload | Entry) -> None:
    """The device signed these very bytes, seals and payload included. E_SIG."""
    if not verify(update.dpk, update.signature, update_preimage(update)):
        raise Refusal(Code.E_SIG, f"Update {update.update_id.hex()} is not signed by its device key")


def check_seal(entry: Entry, j: int) -> None:
    """The seal shown to keyholder `j` (from 1) is the one the device signed. E_SEAL_HASH."""
    signed = entry.seal_hashes[j - 1] if 1 <= j <= len(entry.seal_hashes) else None
    if sha256(entry.sealed) != signed:
        raise Refusal(
            Code.E_SEAL_HASH, f"Update {entry.update_id.hex()} was signed with another seal for keyholder {j}"
        )


def sign_credential(key: SigningKey, dpk: DeviceKey, lineage: Lineage, expires_hour: int) -> Credential:
    """The enrolment authority vouches for a device key in a lineage until an hour of Unix time."""
    signature = key.sign(preimage.credential(dpk, lineage, expires_hour))
    return Credential(lineage=lineage, expires_hour=expires_hour, signature=signature)


def check_credential(credential: Credential, dpk: DeviceKey, authority: bytes, *, lineage: Lineage, hour: int) -> None:
    """`authority` vouched for `dpk` in `lineage`, and the credential holds in this `hour` (Unix). E_CRED."""
    if credential.lineage != lineage:
        raise Refusal(Code.E_CRED, "the credential belongs to another lineage of Plans")
    if credential.expires_hour <= hour:
        raise Refusal(Code.E_CRED, f"the credential ended at hour {credential.expires_hour}")
    if not verify(authority, credential.signature, preimage.credential(dpk, lineage, credential.expires_hour)):
        raise Refusal(Code.E_CRED, "the credential is not signed by this Plan's enrolment authority")


def sign_enrol(key: SigningKey, lineage: Lineage, invitation: str = "") -> Enrol:
    """A device asks the enrolment authority for a Credential."""
    dpk = DeviceKey(key.public)
    signature = key.sign(preimage.enrol(dpk, lineage, invitation))
    return Enrol(dpk=dpk, lineage=lineage, invitation=invitation, signature=signature)


def check_enrol(enrol: Enrol) -> None:
    """Whoever asks holds the device key. E_SIG."""
    if not verify(enrol.dpk, enrol.signature, preimage.enrol(enrol.dpk, enrol.lineage, enrol.invitation)):
        raise Refusal(Code.E_SIG, "the enrolment is not signed by the device key it names")


def sign_device_list(key: SigningKey, lineage: Lineage, number: int, devices: Collection[DeviceKey]) -> DeviceList:
    """These device keys may take part in a lineage."""
    ordered = tuple(sorted(set(devices)))
    signature = key.sign(preimage.device_list(lineage, number, ordered))
    return DeviceList(lineage=lineage, number=number, devices=ordered, signature=signature)


def check_device_list(listed: DeviceList, authorities: Collection[bytes]) -> bytes:
    """One of these keys signed the list: which. E_MALFORMED where it is not in order, E_SIG."""
    if list(listed.devices) != sorted(set(listed.devices)):
        raise Refusal(Code.E_MALFORMED, "the devices of a list are in order, and each is there once")
    signed = preimage.device_list(listed.lineage, listed.number, listed.devices)
    for public in authorities:
        if verify(public, listed.signature, signed):
            return public
    raise Refusal(Code.E_SIG, "the list is signed neither by the Plan's author nor by its enrolment authority")


def sign_ask(key: SigningKey, plan_id: PlanId, version: int, credential: Credential) -> Ask:
    """A device asks for a place."""
    dpk = DeviceKey(key.public)
    signature = key.sign(preimage.ask(plan_id, version, dpk))
    return Ask(plan_id=plan_id, version=version, dpk=dpk, credential=credential, signature=signature)


def check_ask(ask: Ask) -> None:
    """Whoever asks holds the device key. E_SIG."""
    if not verify(ask.dpk, ask.signature, preimage.ask(ask.plan_id, ask.version, ask.dpk)):
        raise Refusal(Code.E_SIG, "the request for a place is not signed by the device key it names")


def sign_averaged(key: SigningKey, plan_id: PlanId, version: int, average_hash: Digest) -> Averaged:
    """The coordinator publishes an average."""
    signature = key.sign(preimage.averaged(plan_id, version, average_hash))
    return Averaged(plan_id=plan_id, version=version, average_hash=average_hash, signature=signature)


def check_averaged(averaged: Averaged, plan_id: PlanId, coordinator: bytes) -> None:
    """The coordinator published this average of this Plan. E_PLAN, E_SIG."""
    if averaged.plan_id != plan_id:
        raise Refusal(Code.E_PLAN, "this average is of another Plan")
    signed = preimage.averaged(plan_id, averaged.version, averaged.average_hash)
    if not verify(coordinator, averaged.signature, signed):
        raise Refusal(Code.E_SIG, "the average is not signed by the Plan's coordinator")


def sign_receipt(key: SigningKey, update: Upload, received_hour: int) -> Receipt:
    """The coordinator has this Update."""
    name = update_hash(update)
    signature = key.sign(preimage.receipt(name, received_hour))
    return Receipt(update_hash=name, received_hour=received_hour, signature=signature)


def check_receipt(receipt: Receipt, update: Digest, coordinator: bytes) -> None:
    """The coordinator has the Update with the hash `update`. E_SIG."""
    signed = preimage.receipt(receipt.update_hash, receipt.received_hour)
    if receipt.update_hash != update or not verify(coordinator, receipt.signature, signed):
        raise Refusal(Code.E_SIG, "the receipt is not the coordinator's for this Update")


def sign_head(
    key: SigningKey,
    key_id: KeyId,
    plan_id: PlanId,
    version: int,
    snapshot_hash: Digest,
    key_ids: Sequence[KeyId],
) -> HeadSignature:
    """One keyholder's signature under HEAD. To sign at most one for a version is the keyholder's duty."""
    signature = key.sign(preimage.head(plan_id, version, snapshot_hash, key_ids))
    return HeadSignature(plan_id=plan_id, version=version, key_id=key_id, signature=signature)


def check_head(head: Head, keyholders: Sequence[tuple[KeyId, bytes]]) -> Digest:
    """Every keyholder (key_id, signing key), in the Plan's order, signed; returns SHA-256(HEAD). E_HEAD."""
    key_ids = [key_id for key_id, _ in keyholders]
    signed = preimage.head(head.plan_id, head.version, head.snapshot_hash, key_ids)
    if not keyholders or len(head.signatures) != len(keyholders):
        raise Refusal(Code.E_HEAD, f"HEAD has {len(head.signatures)} signatures, the Plan {len(keyholders)} keyholders")
    for (key_id, public), signature in zip(keyholders, head.signatures, strict=True):
        if not verify(public, signature, signed):
            raise Refusal(Code.E_HEAD, f"HEAD {head.version} is not signed by keyholder {key_id.hex()}")
    return sha256(signed)


def sign_prepare(
    key: SigningKey, plan_id: PlanId, t: int, snapshot_hash: Digest, entries: Sequence[Entry]
) -> PrepareRequest:
    """The coordinator asks what would be rejected; entries are put in order of update_id."""
    listed = _in_order(entries)
    signature = key.sign(preimage.prepare_request(plan_id, t, snapshot_hash, root_of(listed)))
    return PrepareRequest(plan_id=plan_id, t=t, snapshot_hash=snapshot_hash, entries=listed, signature=signature)


def sign_open(key: SigningKey, plan_id: PlanId, t: int, snapshot_hash: Digest, entries: Sequence[Entry]) -> OpenRequest:
    """The coordinator asks for the masks of a batch; entries are put in order of update_id."""
    listed = _in_order(entries)
    signature = key.sign(preimage.open_request(plan_id, t, snapshot_hash, root_of(listed)))
    return OpenRequest(plan_id=plan_id, t=t, snapshot_hash=snapshot_hash, entries=listed, signature=signature)


def check_request(request: PrepareRequest | FreezeRequest | SketchRequest | OpenRequest, coordinator: bytes) -> Digest:
    """The coordinator asked for exactly this list; returns its root. E_SIG."""
    root = root_of(request.entries)
    named = request.plan_id, request.t, request.snapshot_hash, root
    match request:
        case PrepareRequest():
            signed = preimage.prepare_request(*named)
        case FreezeRequest():
            signed = preimage.freeze_request(*named, [one.commitment for one in request.committed])
        case SketchRequest():
            signed = preimage.sketch_request(*named, request.secrets)
        case OpenRequest():
            signed = preimage.open_request(*named)
    if not verify(coordinator, request.signature, signed):
        raise Refusal(Code.E_SIG, f"the request for batch {request.t} is not signed by the coordinator")
    return root


def sign_commit_request(key: SigningKey, plan_id: PlanId, t: int, root: Digest) -> CommitRequest:
    """The coordinator asks a keyholder to commit itself."""
    signature = key.sign(preimage.commit_request(plan_id, t, root))
    return CommitRequest(plan_id=plan_id, t=t, root=root, signature=signature)


def check_commit_request(request: CommitRequest, coordinator: bytes) -> None:
    """The coordinator asked for it. E_SIG."""
    if not verify(coordinator, request.signature, preimage.commit_request(request.plan_id, request.t, request.root)):
        raise Refusal(Code.E_SIG, f"the request for batch {request.t} is not signed by the coordinator")


def sign_committed(key: SigningKey, plan_id: PlanId, t: int, root: Digest, commitment: Digest) -> Committed:
    """A keyholder's answer to COMMIT."""
    signature = key.sign(preimage.committed(plan_id, t, root, commitment))
    return Committed(commitment=commitment, signature=signature)


def check_committed(one: Committed, plan_id: PlanId, t: int, root: Digest, public: bytes) -> None:
    """The keyholder with the signing key `public` committed itself so, over this very list. E_SIG."""
    if not verify(public, one.signature, preimage.committed(plan_id, t, root, one.commitment)):
        raise Refusal(Code.E_SIG, f"a commitment for batch {t} is not signed by its keyholder")


def sign_freeze(
    key: SigningKey,
    plan_id: PlanId,
    t: int,
    snapshot_hash: Digest,
    entries: Sequence[Entry],
    committed: Sequence[Committed],
) -> FreezeRequest:
    """The coordinator asks for a keyholder's secret, which burns the list; entries are put in order of update_id."""
    listed = _in_order(entries)
    commitments = [one.commitment for one in committed]
    signature = key.sign(preimage.freeze_request(plan_id, t, snapshot_hash, root_of(listed), commitments))
    return FreezeRequest(
        plan_id=plan_id,
        t=t,
        snapshot_hash=snapshot_hash,
        entries=listed,
        committed=tuple(committed),
        signature=signature,
    )


def sign_revealed(key: SigningKey, plan_id: PlanId, t: int, root: Digest, secret: bytes) -> Revealed:
    """A keyholder's answer to FREEZE."""
    return Revealed(secret=secret, signature=key.sign(preimage.revealed(plan_id, t, root, secret)))


def check_revealed(revealed: Revealed, plan_id: PlanId, t: int, root: Digest, public: bytes) -> None:
    """The keyholder with the signing key `public` said it of this list. E_SIG."""
    if not verify(public, revealed.signature, preimage.revealed(plan_id, t, root, revealed.secret)):
        raise Refusal(Code.E_SIG, f"what was revealed for batch {t} is not signed by its keyholder")


def check_secrets(
    plan_id: PlanId, t: int, root: Digest, secrets: Sequence[bytes], commitments: Sequence[bytes]
) -> None:
    """Each secret, in the Plan's order, is what its keyholder had committed itself to. E_CHANGED."""
    if len(secrets) != len(commitments):
        raise Refusal(Code.E_CHANGED, f"{len(secrets)} numbers were shown for {len(commitments)} commitments")
    for j, (secret, commitment) in enumerate(zip(secrets, commitments, strict=True), 1):
        if sha256(preimage.commit(plan_id, t, j, root, secret)) != commitment:
            raise Refusal(Code.E_CHANGED, f"keyholder {j} had committed itself to another number for batch {t}")


def sign_sketch(
    key: SigningKey,
    plan_id: PlanId,
    t: int,
    snapshot_hash: Digest,
    entries: Sequence[Entry],
    secrets: Sequence[bytes],
) -> SketchRequest:
    """The coordinator asks for sketches of the masks; entries are put in order of update_id."""
    listed = _in_order(entries)
    signature = key.sign(preimage.sketch_request(plan_id, t, snapshot_hash, root_of(listed), secrets))
    return SketchRequest(
        plan_id=plan_id, t=t, snapshot_hash=snapshot_hash, entries=listed, secrets=tuple(secrets), signature=signature
    )


def sign_sketched(key: SigningKey, plan_id: PlanId, t: int, root: Digest, sketches: bytes) -> Sketched:
    """A keyholder's answer to SKETCH."""
    return Sketched(sketches=sketches, signature=key.sign(preimage.sketched(plan_id, t, root, sha256(sketches))))


def check_sketched(sketched: Sketched, plan_id: PlanId, t: int, root: Digest, public: bytes) -> None:
    """The keyholder with the signing key `public` sketched this list so. E_SIG."""
    if not verify(public, sketched.signature, preimage.sketched(plan_id, t, root, sha256(sketched.sketches))):
        raise Refusal(Code.E_SIG, f"the sketches of batch {t} are not signed by their keyholder")


def sign_opened(key: SigningKey, key_id: KeyId, plan_id: PlanId, t: int, root: Digest, masks: bytes) -> Opened:
    """A keyholder's answer to OPEN."""
    signature = key.sign(preimage.opened(plan_id, t, root, sha256(masks)))
    return Opened(plan_id=plan_id, t=t, root=root, key_id=key_id, masks=masks, signature=signature)


def check_opened(
    opened: Opened | OpenedMark, plan_id: PlanId, t: int, root: Digest, key_id: KeyId, public: bytes
) -> None:
    """The keyholder (`key_id`, signing key `public`) answered for this batch with these masks. E_SIG."""
    if isinstance(opened, Opened):
        same = (opened.plan_id, opened.t, opened.root) == (plan_id, t, root)
        masks_hash = sha256(opened.masks)
    else:
        same, masks_hash = True, opened.masks_hash
    signed = preimage.opened(plan_id, t, root, masks_hash)
    if not same or opened.key_id != key_id or not verify(public, opened.signature, signed):
        raise Refusal(Code.E_SIG, f"batch {t} was not opened by keyholder {key_id.hex()} with these masks")


def sign_head_request(
    key: SigningKey,
    plan_id: PlanId,
    version: int,
    snapshot_hash: Digest,
    *,
    root: Digest,
    opened: Sequence[OpenedMark],
    spoilt: bool = False,
    rekeyed: Sequence[Rekeyed] = (),
    back_to: Head | None = None,
) -> SignHeadRequest:
    """The coordinator asks a keyholder to sign a HEAD."""
    signature = key.sign(preimage.sign_head_request(plan_id, version, snapshot_hash, root, spoilt))
    return SignHeadRequest(
        plan_id=plan_id,
        version=version,
        snapshot_hash=snapshot_hash,
        root=root,
        spoilt=spoilt,
        opened=tuple(opened),
        signature=signature,
        rekeyed=tuple(rekeyed),
        back_to=back_to,
    )


def check_head_request(request: SignHeadRequest, coordinator: bytes) -> None:
    """The coordinator asked for it; the OPENED signatures it shows are checked one by one. E_SIG."""
    signed = preimage.sign_head_request(
        request.plan_id, request.version, request.snapshot_hash, request.root, request.spoilt
    )
    if not verify(coordinator, request.signature, signed):
        raise Refusal(Code.E_SIG, f"the request for HEAD {request.version} is not signed by the coordinator")


def sign_rekeyed(key: SigningKey, plan_id: PlanId, from_version: int, hpke_pk: bytes) -> Rekeyed:
    """A keyholder says which card replaces the one that it lost."""
    signature = key.sign(preimage.rekeyed(plan_id, from_version, ids.key_id(hpke_pk, key.public), hpke_pk))
    return Rekeyed(plan_id=plan_id, from_version=from_version, sig_pk=key.public, hpke_pk=hpke_pk, signature=signature)


def check_rekeyed(rekeyed: Rekeyed, plan_id: PlanId) -> None:
    """The keyholder with the signing key `rekeyed.sig_pk` said it of this Plan. E_SIG."""
    signed = preimage.rekeyed(plan_id, rekeyed.from_version, rekeyed.key_id, rekeyed.hpke_pk)
    if rekeyed.plan_id != plan_id or not verify(rekeyed.sig_pk, rekeyed.signature, signed):
        raise Refusal(Code.E_SIG, f"the new key from version {rekeyed.from_version} on is not signed by its keyholder")


def sign_proof(
    key: SigningKey,
    plan_id: PlanId,
    update_id: UpdateId,
    outcome: Outcome,
    t: int,
    members: Sequence[Digest] = (),
) -> Proof:
    """The coordinator says what became of an Update."""
    signature = key.sign(preimage.proof(plan_id, update_id, OUTCOMES.index(outcome), t))
    return Proof(
        plan_id=plan_id,
        update_id=update_id,
        outcome=outcome,
        t=t,
        members=tuple(members),
        signature=signature,
    )


def check_proof(proof: Proof, coordinator: bytes, *, update: Digest, root: Digest | None = None) -> None:
    """The coordinator said it, and where it says `opened` the Update is in the batch with the logged `root`.

    E_SIG for a signature that does not fit, E_CHANGED for a list that does not have the root or lacks the
    Update.
    """
    signed = preimage.proof(proof.plan_id, proof.update_id, OUTCOMES.index(proof.outcome), proof.t)
    if not verify(coordinator, proof.signature, signed):
        raise Refusal(Code.E_SIG, "the proof is not signed by the coordinator")
    if proof.outcome == "opened" and (update not in proof.members or preimage.root(proof.members) != root):
        raise Refusal(Code.E_CHANGED, f"the list of batch {proof.t} does not show this Update under its root")


def root_of(entries: Sequence[Upload | Entry]) -> Digest:
    """root(S) of Updates, in any order."""
    return preimage.root([update_hash(entry) for entry in entries])


def _in_order(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.update_id))
