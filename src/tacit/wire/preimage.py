"""The exact bytes that are hashed, signed and bound.

Every preimage is `label NUL field field ...` with integers big-endian and fields of fixed length; where
a list follows, its length stands before it or it is the last field. So two different statements never
share their bytes, and nothing here depends on a serialiser. The functions refuse a field of the wrong
length with `ValueError`: after `tacit.wire.messages.decode` that cannot happen.
"""

from collections.abc import Sequence

from tacit.wire.ids import DeviceKey, Digest, KeyId, Lineage, PlanId, UpdateId, sha256


def plan(plan_id: PlanId) -> bytes:
    """What the author of a Plan signs.

    >>> len(plan(PlanId(bytes(32))))
    44
    """
    return b"TACIT1/plan\0" + _fixed(plan_id, 32)


def charter(charter_id: Digest) -> bytes:
    """What the author of a charter and each keyholder's operator sign; its id is the SHA-256 of its bytes."""
    return b"TACIT1/charter\0" + _fixed(charter_id, 32)


def head(plan_id: PlanId, version: int, snapshot_hash: Digest, key_ids: Sequence[KeyId]) -> bytes:
    """HEAD: which Snapshot is version `version`. Every keyholder signs it, at most once for a version.

    >>> head(PlanId(bytes(32)), 7, Digest(bytes(32)), [KeyId(bytes(16))])[:12]
    b'TACIT1/head\\x00'
    """
    return b"".join(
        (
            b"TACIT1/head\0",
            _fixed(plan_id, 32),
            _u64(version),
            _fixed(snapshot_hash, 32),
            *(_fixed(key, 16) for key in key_ids),
        )
    )


def update(
    plan_id: PlanId,
    base_version: int,
    head_hash: Digest,
    update_id: UpdateId,
    dpk: DeviceKey,
    payload_hash: Digest,
    suite: int,
    seal_hashes: Sequence[Digest],
) -> bytes:
    """H_UPD: everything that identifies one Update. The device signs it; its SHA-256 names the Update."""
    return b"".join(
        (
            b"TACIT1/update\0",
            _fixed(plan_id, 32),
            _u64(base_version),
            _fixed(head_hash, 32),
            _fixed(update_id, 16),
            _fixed(dpk, 32),
            _fixed(payload_hash, 32),
            _u8(suite),
            _u8(len(seal_hashes)),
            *(_fixed(seal_hash, 32) for seal_hash in seal_hashes),
        )
    )


def seal_info(
    j: int,
    plan_id: PlanId,
    base_version: int,
    update_id: UpdateId,
    dpk: DeviceKey,
    payload_hash: Digest,
    key_id: KeyId,
) -> bytes:
    """info_j: what the seal to keyholder `j` is bound to. `j` counts from 1, as in h_1 .. h_k."""
    bound = sha256(
        _fixed(plan_id, 32),
        _u64(base_version),
        _fixed(update_id, 16),
        _fixed(dpk, 32),
        _fixed(payload_hash, 32),
    )
    if j < 1:
        raise ValueError(f"keyholders are counted from 1, got {j}")
    return b"TACIT1/seal\0" + bound + _u8(j) + _fixed(key_id, 16)


def root(update_hashes: Sequence[Digest]) -> Digest:
    """root(S): the SHA-256 over the sorted SHA-256(H_UPD) of a batch; the order given does not matter.

    >>> a, b = sha256(b"a"), sha256(b"b")
    >>> root([a, b]) == root([b, a])
    True
    """
    return sha256(*(_fixed(update_hash, 32) for update_hash in sorted(update_hashes)))


def receipt(update_hash: Digest, received_hour: int) -> bytes:
    """RECEIPT: the coordinator has the Update with this SHA-256(H_UPD), since this hour of Unix time."""
    return b"TACIT1/receipt\0" + _fixed(update_hash, 32) + _u64(received_hour)


def credential(dpk: DeviceKey, lineage: Lineage, expires_hour: int) -> bytes:
    """What the enrolment authority signs for a device."""
    return b"TACIT1/credential\0" + _fixed(dpk, 32) + _fixed(lineage, 32) + _u64(expires_hour)


def enrol(dpk: DeviceKey, lineage: Lineage, invitation: str) -> bytes:
    """What a device signs to show the enrolment authority that it holds `dpk`."""
    return b"TACIT1/enrol\0" + _fixed(dpk, 32) + _fixed(lineage, 32) + sha256(invitation.encode())


def device_list(lineage: Lineage, number: int, devices: Sequence[DeviceKey]) -> bytes:
    """Who may take part in a lineage: the SHA-256 is over the device keys, one after the other."""
    keys = sha256(*(_fixed(dpk, 32) for dpk in devices))
    return b"TACIT1/device-list\0" + _fixed(lineage, 32) + _u64(number) + keys


def ask(plan_id: PlanId, version: int, dpk: DeviceKey) -> bytes:
    """What a device signs that asks for a place."""
    return b"TACIT1/place\0" + _fixed(plan_id, 32) + _u64(version) + _fixed(dpk, 32)


def averaged(plan_id: PlanId, version: int, average_hash: Digest) -> bytes:
    """What the coordinator signs of the average that it publishes beside Snapshot `version`."""
    return b"TACIT1/averaged\0" + _fixed(plan_id, 32) + _u64(version) + _fixed(average_hash, 32)


def prepare_request(plan_id: PlanId, t: int, snapshot_hash: Digest, batch_root: Digest) -> bytes:
    """PREPARE: the coordinator asks which entries of this list would be rejected."""
    return b"TACIT1/prepare\0" + _fixed(plan_id, 32) + _u64(t) + _fixed(snapshot_hash, 32) + _fixed(batch_root, 32)


def open_request(plan_id: PlanId, t: int, snapshot_hash: Digest, batch_root: Digest) -> bytes:
    """OPEN: the coordinator asks for the masks of this list, once for each t."""
    return b"TACIT1/open\0" + _fixed(plan_id, 32) + _u64(t) + _fixed(snapshot_hash, 32) + _fixed(batch_root, 32)


def opened(plan_id: PlanId, t: int, batch_root: Digest, masks_hash: Digest) -> bytes:
    """OPENED: a keyholder's answer for batch t was the packed M_j with this SHA-256."""
    return b"TACIT1/opened\0" + _fixed(plan_id, 32) + _u64(t) + _fixed(batch_root, 32) + _fixed(masks_hash, 32)


def commit(plan_id: PlanId, t: int, j: int, batch_root: Digest, secret: bytes) -> bytes:
    """What keyholder `j` (from 1) commits itself to by the SHA-256 of it, before R is known.

    >>> len(commit(PlanId(bytes(32)), 7, 1, Digest(bytes(32)), bytes(32)))
    119
    """
    return b"TACIT1/commit\0" + _fixed(plan_id, 32) + _u64(t) + _u8(j) + _fixed(batch_root, 32) + _fixed(secret, 32)


def commit_request(plan_id: PlanId, t: int, batch_root: Digest) -> bytes:
    """COMMIT: the coordinator asks a keyholder to commit itself over the list with this root."""
    return b"TACIT1/ask-commit\0" + _fixed(plan_id, 32) + _u64(t) + _fixed(batch_root, 32)


def committed(plan_id: PlanId, t: int, batch_root: Digest, commitment: Digest) -> bytes:
    """COMMITTED: a keyholder's commitment over the list with this root."""
    return b"TACIT1/committed\0" + _fixed(plan_id, 32) + _u64(t) + _fixed(batch_root, 32) + _fixed(commitment, 32)


def freeze_request(
    plan_id: PlanId, t: int, snapshot_hash: Digest, batch_root: Digest, commitments: Sequence[Digest]
) -> bytes:
    """FREEZE: the coordinator shows every keyholder's commitment and asks for what one committed itself to."""
    return b"".join(
        (
            b"TACIT1/freeze\0",
            _fixed(plan_id, 32),
            _u64(t),
            _fixed(snapshot_hash, 32),
            _fixed(batch_root, 32),
            *(_fixed(one, 32) for one in commitments),
        )
    )


def revealed(plan_id: PlanId, t: int, batch_root: Digest, secret: bytes) -> bytes:
    """REVEALED: the list with this root is frozen, and this is what the keyholder had committed itself to."""
    return b"TACIT1/revealed\0" + _fixed(plan_id, 32) + _u64(t) + _fixed(batch_root, 32) + _fixed(secret, 32)


def sketch_request(
    plan_id: PlanId, t: int, snapshot_hash: Digest, batch_root: Digest, secrets: Sequence[bytes]
) -> bytes:
    """SKETCH: the coordinator shows what every keyholder revealed and asks for sketches of the masks."""
    return b"".join(
        (
            b"TACIT1/sketch\0",
            _fixed(plan_id, 32),
            _u64(t),
            _fixed(snapshot_hash, 32),
            _fixed(batch_root, 32),
            *(_fixed(one, 32) for one in secrets),
        )
    )


def sketched(plan_id: PlanId, t: int, batch_root: Digest, sketches_hash: Digest) -> bytes:
    """SKETCHED: a keyholder's answer for the frozen list was the packed sketches with this SHA-256."""
    return b"TACIT1/sketched\0" + _fixed(plan_id, 32) + _u64(t) + _fixed(batch_root, 32) + _fixed(sketches_hash, 32)


def r_seed(batch_root: Digest, secrets: Sequence[bytes]) -> Digest:
    """The seed of R: nobody knows it before every keyholder has revealed, and then the list is frozen."""
    return sha256(_fixed(batch_root, 32), *(_fixed(one, 32) for one in secrets))


def sign_head_request(plan_id: PlanId, version: int, snapshot_hash: Digest, batch_root: Digest, spoilt: bool) -> bytes:
    """SIGN_HEAD: the coordinator asks for a signature under the HEAD of `version`.

    `batch_root` is the root of batch `version - 1`. `spoilt` declares that batch void: then the Snapshot is
    that of `version - 1` or of an earlier HEAD that is shown, and no OPENED signature is shown.
    """
    return b"".join(
        (
            b"TACIT1/sign-head\0",
            _fixed(plan_id, 32),
            _u64(version),
            _fixed(snapshot_hash, 32),
            _fixed(batch_root, 32),
            _u8(int(spoilt)),
        )
    )


def rekeyed(plan_id: PlanId, from_version: int, key_id: KeyId, hpke_pk: bytes) -> bytes:
    """REKEYED: a keyholder that lost its state takes a new card; seals from this version on are for it.

    >>> len(rekeyed(PlanId(bytes(32)), 9, KeyId(bytes(16)), bytes(32)))
    101
    """
    return b"TACIT1/rekey\0" + _fixed(plan_id, 32) + _u64(from_version) + _fixed(key_id, 16) + _fixed(hpke_pk, 32)


def proof(plan_id: PlanId, update_id: UpdateId, outcome: int, t: int) -> bytes:
    """PROOF: what became of an Update (`outcome` indexes `tacit.wire.messages.OUTCOMES`) in which batch."""
    return b"TACIT1/proof\0" + _fixed(plan_id, 32) + _fixed(update_id, 16) + _u8(outcome) + _u64(t)


def log_entry(previous: Digest, kind: int, body_hash: Digest) -> bytes:
    """One link of the log. Its SHA-256 is the next link's `previous`."""
    return b"TACIT1/log\0" + _fixed(previous, 32) + _u8(kind) + _fixed(body_hash, 32)


def call(
    caller: bytes, keyholder: bytes, target: Digest, time_ms: int, nonce: bytes, shown: Digest, body_hash: Digest
) -> bytes:
    """A request to a keyholder: who asks whom for what, when. `target` is the SHA-256 of `METHOD /path`."""
    return b"".join(
        (
            b"TACIT1/call\0",
            _fixed(caller, 32),
            _fixed(keyholder, 32),
            _fixed(target, 32),
            _u64(time_ms),
            _fixed(nonce, 16),
            _fixed(shown, 32),
            _fixed(body_hash, 32),
        )
    )


def answer(call_hash: Digest, status: int, body_hash: Digest) -> bytes:
    """What a keyholder answered to the one request with this SHA-256, be it a refusal."""
    return b"TACIT1/answer\0" + _fixed(call_hash, 32) + _u64(status) + _fixed(body_hash, 32)


def card(sig_pk: bytes, hpke_pk: bytes, operator_hash: Digest, url_hash: Digest) -> bytes:
    """A keyholder's card for one Plan: the key to seal to, who runs it, where it is."""
    return b"TACIT1/card\0" + b"".join(_fixed(one, 32) for one in (sig_pk, hpke_pk, operator_hash, url_hash))


def _fixed(value: bytes, length: int) -> bytes:
    if len(value) != length:
        raise ValueError(f"a field of {length} bytes was expected, got {len(value)}")
    return value


def _u8(value: int) -> bytes:
    if not 0 <= value < 2**8:
        raise ValueError(f"{value} does not fit into one byte")
    return value.to_bytes(1, "big")


def _u64(value: int) -> bytes:
    # The wire's integers stay below 2**53, so that a browser reads every one of them exactly.
    if not 0 <= value < 2**53:
        raise ValueError(f"{value} is not an integer from 0 to 2**53 - 1")
    return value.to_bytes(8, "big")
