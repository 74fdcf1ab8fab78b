"""Messages of every kind, for properties."""

from hypothesis import strategies as st

from tacit.wire.codes import Code
from tacit.wire.ids import DeviceKey, Digest, KeyId, Lineage, PlanId, UpdateId
from tacit.wire.messages import (
    OUTCOMES,
    SEALED_SIZE,
    SUITE_1,
    Ask,
    Averaged,
    CommitRequest,
    Committed,
    Credential,
    Enrol,
    Entry,
    ErrorReply,
    FreezeRequest,
    Head,
    HeadSignature,
    LogEntry,
    LoggedHalt,
    LoggedOpened,
    LoggedPlan,
    LoggedSuccession,
    LogKind,
    Opened,
    OpenedMark,
    OpenRequest,
    Place,
    PrepareReply,
    PrepareRequest,
    Proof,
    Receipt,
    Rejection,
    Rekeyed,
    Revealed,
    SignHeadRequest,
    Sketched,
    SketchRequest,
    Upload,
)


def exactly(length: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=length, max_size=length)


def several(one: st.SearchStrategy, least: int = 0, most: int = 3) -> st.SearchStrategy[tuple]:
    return st.lists(one, min_size=least, max_size=most).map(tuple)


integers = st.one_of(st.integers(0, 300), st.integers(0, 2**53 - 1), st.just(2**53 - 1))
sentences = st.text(max_size=40)
plan_ids, update_ids = exactly(32).map(PlanId), exactly(16).map(UpdateId)
device_keys, key_ids, digests = exactly(32).map(DeviceKey), exactly(16).map(KeyId), exactly(32).map(Digest)
lineages, signatures, seals = exactly(32).map(Lineage), exactly(64), exactly(SEALED_SIZE)
payloads = st.one_of(st.binary(max_size=50), st.sampled_from([255, 256]).map(bytes))
codes = st.sampled_from(Code)

credentials = st.builds(Credential, lineage=lineages, expires_hour=integers, signature=signatures)
committed = st.builds(Committed, commitment=digests, signature=signatures)
marks = st.builds(OpenedMark, key_id=key_ids, masks_hash=digests, signature=signatures)
rekeyed = st.builds(
    Rekeyed,
    plan_id=plan_ids,
    from_version=integers,
    sig_pk=exactly(32),
    hpke_pk=exactly(32),
    signature=signatures,
)
rejections = st.builds(Rejection, update_id=update_ids, code=codes, reason=sentences)
h_upd = {
    "plan_id": plan_ids,
    "base_version": integers,
    "head_hash": digests,
    "update_id": update_ids,
    "dpk": device_keys,
    "suite": st.just(SUITE_1),
    "credential": credentials,
    "signature": signatures,
}
uploads = st.builds(Upload, payload=payloads, sealed=several(seals, 1), **h_upd)
entries = st.builds(Entry, payload_hash=digests, seal_hashes=several(digests, 1), sealed=seals, **h_upd)
request = {
    "plan_id": plan_ids,
    "t": integers,
    "snapshot_hash": digests,
    "entries": several(entries),
    "signature": signatures,
}

messages = st.one_of(
    credentials,
    st.builds(Ask, plan_id=plan_ids, version=integers, dpk=device_keys, credential=credentials, signature=signatures),
    st.builds(Place, plan_id=plan_ids, version=integers, until=integers),
    st.builds(Averaged, plan_id=plan_ids, version=integers, average_hash=digests, signature=signatures),
    st.builds(Enrol, dpk=device_keys, lineage=lineages, invitation=st.text(max_size=20), signature=signatures),
    uploads,
    entries,
    st.builds(Receipt, update_hash=digests, received_hour=integers, signature=signatures),
    st.builds(
        Head,
        plan_id=plan_ids,
        version=integers,
        snapshot_hash=digests,
        signatures=several(signatures, 1),
        rekeyed=several(rekeyed),
    ),
    rekeyed,
    st.builds(PrepareRequest, **request),
    rejections,
    st.builds(PrepareReply, rejected=several(rejections)),
    st.builds(OpenRequest, **request),
    st.builds(CommitRequest, plan_id=plan_ids, t=integers, root=digests, signature=signatures),
    committed,
    st.builds(FreezeRequest, **request, committed=several(committed, 1)),
    st.builds(Revealed, secret=exactly(32), signature=signatures),
    st.builds(SketchRequest, **request, secrets=several(exactly(32), 1)),
    st.builds(Sketched, sketches=payloads, signature=signatures),
    st.builds(
        Opened,
        plan_id=plan_ids,
        t=integers,
        root=digests,
        key_id=key_ids,
        masks=payloads,
        signature=signatures,
    ),
    marks,
    st.builds(
        SignHeadRequest,
        plan_id=plan_ids,
        version=integers,
        snapshot_hash=digests,
        root=digests,
        spoilt=st.booleans(),
        opened=several(marks),
        rekeyed=several(rekeyed),
        signature=signatures,
    ),
    st.builds(HeadSignature, plan_id=plan_ids, version=integers, key_id=key_ids, signature=signatures),
    st.builds(
        Proof,
        plan_id=plan_ids,
        update_id=update_ids,
        outcome=st.sampled_from(OUTCOMES),
        t=integers,
        members=several(digests),
        signature=signatures,
    ),
    st.builds(
        LogEntry,
        previous=digests,
        kind=st.sampled_from(LogKind),
        body=st.binary(max_size=50),
        signature=signatures,
    ),
    st.builds(LoggedPlan, plan_id=plan_ids),
    st.builds(LoggedOpened, plan_id=plan_ids, t=integers, root=digests, count=integers, marks=several(marks, 1)),
    st.builds(LoggedSuccession, plan_id=plan_ids, version=integers, successor=plan_ids, started_from=integers),
    st.builds(LoggedHalt, plan_id=plan_ids, key_id=key_ids, code=codes),
    st.builds(ErrorReply, code=codes, reason=sentences, retry_after=st.none() | integers),
)
