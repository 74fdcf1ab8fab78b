"""Writes the golden vectors beside this file: `python tests/vectors/make.py`.

Bytes are hex. Real numbers are the eight bytes of an IEEE double, most significant first, as hex. Other
implementations read these files; a change in one of them is a change of the protocol.

Nothing here is random: bytes that stand for random ones come from `stream(name, n)`, SHA-256 of the name and
a counter. HPKE draws its own ephemeral key, so its ciphertexts are recorded below and only opened.
"""

import hashlib
import json
import pathlib
import struct
from itertools import groupby, pairwise
from typing import Any

import msgspec
import numpy as np

from tacit.codec.quantise import dequantise_sum, inner_bound, quantise, square_norm
from tacit.codec.ring import RING_BITS, center, low_bits, pack, unpack, wrap
from tacit.codec.rotate import rotate
from tacit.plan import manifest
from tacit.plan.manifest import Charter
from tacit.privacy.account import epsilon_of_mu, mu_of_epsilon, plain_mu
from tacit.privacy.blt import Blt, Correlated, column, sensitivity, spread, squared_sensitivities
from tacit.privacy.gate import deviation
from tacit.privacy.mask import add_mask, draw_seed, hash_of_integers, key_stream, mask_key, masked, sum_masks
from tacit.privacy.noise import gauss, gaussians, next_key, plain_noise, rounded
from tacit.privacy.seal import open_seal
from tacit.privacy.sketch import gate_noise, in_ring, secret, sketches, ternary
from tacit.wire import log, preimage
from tacit.wire.codes import Code
from tacit.wire.ids import DeviceKey, Digest, KeyId, Lineage, PlanId, UpdateId, key_id, sha256
from tacit.wire.keys import SealingKey, SigningKey, device_seed, hedge_key
from tacit.wire.messages import (
    OUTCOMES,
    Entry,
    ErrorReply,
    Head,
    LoggedOpened,
    LoggedPlan,
    LoggedRollback,
    LoggedSuccession,
    LogKind,
    Message,
    encode,
    entry_of,
    mark_of,
    update_hash,
    update_preimage,
)
from tacit.wire.signed import (
    root_of,
    sign_credential,
    sign_enrol,
    sign_head,
    sign_head_request,
    sign_open,
    sign_opened,
    sign_prepare,
    sign_proof,
    sign_receipt,
    sign_rekeyed,
    sign_upload,
)

HERE = pathlib.Path(__file__).parent
Json = dict[str, Any]

PLAN = PlanId(sha256(b"plan"))
SNAPSHOT = sha256(b"snapshot")


def stream(name: str, count: int) -> bytes:
    blocks = (hashlib.sha256(f"{name}/{i}".encode()).digest() for i in range((count + 31) // 32))
    return b"".join(blocks)[:count]


def double(value: float) -> str:
    return struct.pack(">d", value).hex()


def masks() -> Json:
    """PROTOCOL 17.1."""
    seed, update_id = bytes(range(32)), bytes(16)
    key = mask_key(seed, PLAN, update_id)
    words = np.zeros(8, np.uint32)
    add_mask(words, key)
    long = np.zeros(70_001, np.uint32)
    add_mask(long, key)
    weighted = sum_masks([key, bytes(16)], [5, 3], 4, 32)
    return {
        "plan_id": PLAN.hex(),
        "seed": seed.hex(),
        "update_id": update_id.hex(),
        "mask_key": key.hex(),
        "words_u32": words.tolist(),
        "words_by_ring": {str(bits): low_bits(words, bits).tolist() for bits in RING_BITS},
        "sha256_of_70001_words_packed_in_32_bits": sha256(pack(long, 32)).hex(),
        "weighted_sum": {"keys": [key.hex(), bytes(16).hex()], "weights": [5, 3], "words": weighted.tolist()},
    }


def packing() -> Json:
    """PROTOCOL 17.5, for every ring."""
    rings: Json = {}
    for bits in RING_BITS:
        values = np.array([0, 1, -1, 2 ** (bits - 1), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 5], np.int64)
        words = wrap(values, bits)
        rings[str(bits)] = {
            "values": values.tolist(),
            "words": words.tolist(),
            "packed": pack(words, bits).hex(),
            "centered": center(unpack(pack(words, bits), len(words), bits), bits).tolist(),
        }
    return rings


def quantising() -> Json:
    """PROTOCOL 17.4. `random` lists the bytes given for each rounding, and for how many in a row."""

    def case(values: list[float], clip: float, big_q: int, q_in: int, draws: list[bytes]) -> Json:
        given = iter(draws)
        integers = quantise(np.array(values), clip, big_q, q_in, lambda count: next(given))
        return {
            "values": [double(value) for value in values],
            "clip": double(clip),
            "Q": big_q,
            "Q_in": q_in,
            "random": [{"hex": draw.hex(), "times": len(list(run))} for draw, run in groupby(draws)],
            "integers": integers.tolist(),
            "square_norm": square_norm(integers),
            "draws_used": len(draws) - sum(1 for _ in given),
        }

    some = [0.3, -0.3, 0.0, 0.125, -0.5, 1e-300, -1e-12, 0.41]
    # 499 values just above or below zero and one large: rounded away from zero their squares sum to more than 20^2.
    many = [0.5] + [1e-3 * (1 if i % 3 else -1) for i in range(1, 500)]
    away = b"".join(b"\0\0\0\0" if value > 0 else b"\xff" * 4 for value in many)
    q_in = inner_bound(20, 500)
    return {
        "inner_bound": [
            {"Q": q, "d": d, "Q_in": inner_bound(q, d)}
            for q, d in ((512, 1_000), (512, 100_000), (1024, 100_000), (2048, 500_000), (20, 500), (6, 1))
        ],
        "plain": case(some, 1.0, 512, inner_bound(512, len(some)), [stream("uniforms", 4 * len(some))]),
        "all_up": case(some, 1.0, 512, inner_bound(512, len(some)), [bytes(4 * len(some))]),
        "all_down": case(some, 1.0, 512, inner_bound(512, len(some)), [b"\xff" * (4 * len(some))]),
        "redrawn_once": case(many, 1.0, 20, q_in, [away, stream("second", 2000)]),
        "truncated": case(many, 1.0, 20, q_in, [away] * 65),
        "not_truncated": case(many, 1.0, 20, q_in, [away] * 64 + [stream("last", 2000)]),
    }


def rotation() -> Json:
    """The public rotation of few values: one block, and two that overlap; to the bit."""
    cases: list[Json] = []
    for d in (1, 2, 8, 13, 200):
        values = np.frombuffer(stream(f"rotated {d}", 8 * d), "<i8") / 2.0**62
        name = sha256(b"charter %d" % d)
        cases.append(
            {
                "charter_id": name.hex(),
                "values": [double(value) for value in values],
                "rotated": [double(value) for value in rotate(values, name)],
            }
        )
    return {"cases": cases}


def noise() -> Json:
    """PROTOCOL 17.6, then rounded and bound to a batch."""
    key, root = bytes(32), preimage.root([sha256(b"one"), sha256(b"two")])
    return {
        "gauss": {"key": key.hex(), "values": [double(value) for value in gauss(key, 3)]},
        "gauss_of_4": {"key": key.hex(), "values": [double(value) for value in gauss(key, 4)]},
        "plain": {
            "key": key.hex(),
            "plan_id": PLAN.hex(),
            "t": 7,
            "root": root.hex(),
            "sd": double(665.6),
            "values": plain_noise(key, PLAN, 7, root, 9, 665.6).tolist(),
        },
        "next_key": {
            "key": key.hex(),
            "random": bytes(range(32)).hex(),
            "next": next_key(key, lambda count: bytes(range(count))).hex(),
        },
    }


def sketch() -> Json:
    """PROTOCOL 17.9: what one keyholder commits itself to and answers for two Updates of nine words, in 24 bits."""
    key, root, rows, words, bits = bytes(range(32)), preimage.root([sha256(b"one"), sha256(b"two")]), 16, 9, 24
    own, other = secret(key, PLAN, 7, root), stream("secret2", 32)
    seed, sd = preimage.r_seed(root, [own, other]), deviation(rows, 8.0, 4.15, 512)
    matrix, mask_keys = ternary(seed, rows, words), [stream("mask1", 16), stream("mask2", 16)]
    names = [stream("id1", 16), stream("id2", 16)]
    made = sketches(matrix, [key_stream(mask, words) for mask in mask_keys])
    noises = gate_noise(key, root, seed, names, rows, sd)
    return {
        "noise_key": key.hex(),
        "plan_id": PLAN.hex(),
        "t": 7,
        "root": root.hex(),
        "secrets": [own.hex(), other.hex()],
        "commitment": sha256(preimage.commit(PLAN, 7, 1, root, own)).hex(),
        "r_seed": seed.hex(),
        "matrix": matrix.tolist(),
        "sd": double(sd),
        "mask_keys": [one.hex() for one in mask_keys],
        "update_ids": [one.hex() for one in names],
        "noise": noises.tolist(),
        "answer": pack(in_ring(made, noises, bits).reshape(-1), bits).hex(),
    }


# One seal of bytes(range(32)), made once with `tacit.privacy.seal.seal`.
SEALED = (
    "ce66b5ded3e84ebd8b14de59a83ce5c1fad381eb9e49d070f0c55e647377ee034b0da802c20c3d85ba779f17dc6c23bfae7b3e"
    "b853e5bd04a3d0bcd44f9d24c37a09bf4c590654781913e4d77106ddab"
)


# Two more, each for a key, a place and a seed of its own: of `suite1(i)`.
SEALED_1 = (
    "68149d884dcf32bdba7bbd28f0b8f224c345e8d2ed607802a97c3fbbcdbb645df96e01f0a726820cf69bba0a2329972bc882d8"
    "264fc2700d0e7eee76c31b1375102937e279967982b7ea22c708dd6496"
)
SEALED_2 = (
    "75ff3af5c890d3b20cd2f26f596acca2860a27012ef039415c315334542b583a9578bb8d8255823fdb731500a17cdfee545ace"
    "036ab7b5f304b07d27cdb2eed4af7f42c71e00fde40da1475199c80ad7"
)


def seals() -> Json:
    """PROTOCOL 17.3: fixed private keys and recorded ciphertexts, and some that must not open."""

    def suite1(i: int, sealed: str) -> Json:
        info = b"TACIT1/seal\0" + sha256(b"bound%d" % i) + bytes([i]) + sha256(b"card%d" % i)[:16]
        key = SealingKey.from_seed(bytes([i]) * 32)
        seed = open_seal(bytes.fromhex(sealed), key.private, info)
        assert seed == sha256(b"seed%d" % i)
        return {"private": (bytes([i]) * 32).hex(), "info": info.hex(), "sealed": sealed, "seed": seed.hex()}

    one = suite1(1, SEALED_1)
    sealed, info = bytes.fromhex(SEALED_1), one["info"]
    broken = {
        "another place": {**one, "info": info[:-2] + "00"},
        "another key": {**one, "private": (b"\3" * 32).hex()},
        "another ciphertext": {**one, "sealed": (sealed[:-1] + bytes([sealed[-1] ^ 1])).hex()},
        "another ephemeral key": {**one, "sealed": (bytes([sealed[0] ^ 1]) + sealed[1:]).hex()},
        "an ephemeral key of small order": {**one, "sealed": (bytes(32) + sealed[32:]).hex()},
    }
    return {
        "suite": 1,
        "private": bytes(range(32)).hex(),
        "public": SealingKey.from_seed(bytes(range(32))).public.hex(),
        "info": (b"TACIT1/seal\0" + bytes(range(32)) + b"\x01" + bytes(range(16))).hex(),
        "sealed": SEALED,
        "seed": bytes(range(32)).hex(),
        "more": [one, suite1(2, SEALED_2)],
        "broken": [
            {"why": why, **{name: value for name, value in case.items() if name != "seed"}}
            for why, case in broken.items()
        ],
    }


def keys() -> Json:
    """A device's branches, and the names of keyholders."""
    root = bytes(range(32))
    seed = device_seed(root, PLAN)
    update_id, q = bytes(range(16)), np.array([3, 0, -4], np.int64)
    return {
        "root_secret": root.hex(),
        "lineage": PLAN.hex(),
        "device_seed": seed.hex(),
        "dpk": SigningKey.from_seed(seed).public.hex(),
        "hedge_key": hedge_key(root).hex(),
        "seed": {
            "random": bytes(range(32, 64)).hex(),
            "j": 2,
            "update_id": update_id.hex(),
            "integers": q.tolist(),
            "q_hash": hash_of_integers(q).hex(),
            "seed": draw_seed(
                lambda count: bytes(range(32, 32 + count)),
                hedge_key(root),
                2,
                update_id,
                hash_of_integers(q),
            ).hex(),
        },
        "key_id": {"hpke_pk": "01" * 32, "sig_pk": "02" * 32, "key_id": key_id(b"\1" * 32, b"\2" * 32).hex()},
    }


def preimages() -> Json:
    """PROTOCOL 17.2 and 17.10: every preimage, and its SHA-256."""
    result: Json = {}

    def add(name: str, data: bytes, **fields: Any) -> None:
        shown = {key: value.hex() if isinstance(value, bytes) else value for key, value in fields.items()}
        result[name] = {"fields": shown, "bytes": data.hex(), "sha256": sha256(data).hex()}

    for i, (version, k) in enumerate(((0, 1), (7, 2), (2**53 - 1, 3))):
        update_id, dpk = UpdateId(stream(f"id{i}", 16)), DeviceKey(stream(f"dpk{i}", 32))
        head_hash, payload_hash = Digest(stream(f"head{i}", 32)), Digest(stream(f"payload{i}", 32))
        hashes = [Digest(stream(f"h{i}/{j}", 32)) for j in range(k)]
        name = KeyId(stream(f"key{i}", 16))
        common: Json = {
            "plan_id": PLAN,
            "base_version": version,
            "update_id": update_id,
            "dpk": dpk,
            "payload_hash": payload_hash,
        }
        add(
            f"update_{i}",
            preimage.update(PLAN, version, head_hash, update_id, dpk, payload_hash, 1, hashes),
            **common,
            head_hash=head_hash,
            suite=1,
            seal_hashes=[one.hex() for one in hashes],
        )
        add(
            f"seal_info_{i}",
            preimage.seal_info(k, PLAN, version, update_id, dpk, payload_hash, name),
            **common,
            j=k,
            key_id=name,
        )
    one, two = sha256(b"one"), sha256(b"two")
    root = preimage.root([one, two])
    dpk, lineage, update_id = DeviceKey(stream("dpk", 32)), Lineage(PLAN), UpdateId(bytes(range(16)))
    key_ids = [KeyId(b"\1" * 16), KeyId(b"\2" * 16)]
    result["root"] = {"fields": {"update_hashes": [two.hex(), one.hex()]}, "sha256": root.hex()}
    add("plan", preimage.plan(PLAN), plan_id=PLAN)
    add("charter", preimage.charter(one), charter_id=one)
    add(
        "head",
        preimage.head(PLAN, 7, SNAPSHOT, key_ids),
        plan_id=PLAN,
        version=7,
        snapshot_hash=SNAPSHOT,
        key_ids=[one.hex() for one in key_ids],
    )
    add("receipt", preimage.receipt(one, 490_000), update_hash=one, received_hour=490_000)
    add(
        "credential",
        preimage.credential(dpk, lineage, 500_000),
        dpk=dpk,
        lineage=lineage,
        expires_hour=500_000,
    )
    add("enrol", preimage.enrol(dpk, lineage, "häuser-7"), dpk=dpk, lineage=lineage, invitation="häuser-7")
    batch: Json = {"plan_id": PLAN, "t": 7, "snapshot_hash": SNAPSHOT, "root": root}
    add("prepare", preimage.prepare_request(PLAN, 7, SNAPSHOT, root), **batch)
    add("open", preimage.open_request(PLAN, 7, SNAPSHOT, root), **batch)
    add("opened", preimage.opened(PLAN, 7, root, two), plan_id=PLAN, t=7, root=root, masks_hash=two)
    add(
        "sign_head",
        preimage.sign_head_request(PLAN, 8, SNAPSHOT, root, True),
        plan_id=PLAN,
        version=8,
        snapshot_hash=SNAPSHOT,
        root=root,
        spoilt=True,
    )
    for i, outcome in enumerate(("opened", "refused")):
        code = OUTCOMES.index(outcome)
        signed = preimage.proof(PLAN, update_id, code, 7)
        add(f"proof_{i}", signed, plan_id=PLAN, update_id=update_id, outcome=code, t=7)
    public = stream("new card", 32)
    name = key_id(public, stream("keyholder", 32))
    add("rekeyed", preimage.rekeyed(PLAN, 9, name, public), plan_id=PLAN, from_version=9, key_id=name, hpke_pk=public)
    call: Json = {
        "caller": stream("caller", 32),
        "keyholder": stream("keyholder", 32),
        "target": sha256(b"POST /v1/open"),
        "time_ms": 1_764_000_000_000,
        "nonce": bytes(range(16)),
        "shown": sha256(b""),
        "body_hash": one,
    }
    add("call", preimage.call(**call), **call)
    add("answer", preimage.answer(one, 200, two), call_hash=one, status=200, body_hash=two)
    card: Json = {"sig_pk": stream("keyholder", 32), "hpke_pk": public, "operator_hash": one, "url_hash": two}
    add("card", preimage.card(**card), **card)
    said = [stream("secret1", 32), stream("secret2", 32)]
    commitments = [sha256(preimage.commit(PLAN, 7, j, root, secret)) for j, secret in enumerate(said, 1)]
    shown: Json = {"plan_id": PLAN, "t": 7, "snapshot_hash": SNAPSHOT, "root": root}
    list_of: Json = {"plan_id": PLAN, "t": 7, "root": root}
    add("commit", preimage.commit(PLAN, 7, 1, root, said[0]), plan_id=PLAN, t=7, j=1, root=root, secret=said[0])
    add("ask_commit", preimage.commit_request(PLAN, 7, root), **list_of)
    add("committed", preimage.committed(PLAN, 7, root, commitments[0]), **list_of, commitment=commitments[0])
    frozen = preimage.freeze_request(PLAN, 7, SNAPSHOT, root, commitments)
    add("freeze", frozen, **shown, commitments=[one.hex() for one in commitments])
    add("revealed", preimage.revealed(PLAN, 7, root, said[0]), **list_of, secret=said[0])
    asked = preimage.sketch_request(PLAN, 7, SNAPSHOT, root, said)
    add("sketch", asked, **shown, secrets=[one.hex() for one in said])
    add("sketched", preimage.sketched(PLAN, 7, root, one), **list_of, sketches_hash=one)
    add("log", preimage.log_entry(one, 3, two), previous=one, kind=3, body_hash=two)
    return result


def messages() -> Json:
    """PROTOCOL 17.10: whole messages, signed with the keys whose seeds are 32 times one byte."""
    device, authority, coordinator, keyholder = (SigningKey.from_seed(bytes([i]) * 32) for i in (1, 2, 3, 4))
    sealing = SealingKey.from_seed(b"\5" * 32)
    name = key_id(sealing.public, keyholder.public)
    credential = sign_credential(authority, DeviceKey(device.public), Lineage(PLAN), 500_000)
    head = sign_head(keyholder, name, PLAN, 0, SNAPSHOT, [name])
    upload = sign_upload(
        device,
        plan_id=PLAN,
        base_version=0,
        head_hash=sha256(preimage.head(PLAN, 0, SNAPSHOT, [name])),
        update_id=UpdateId(bytes(range(16))),
        payload=bytes.fromhex("010203fffefd"),
        sealed=[bytes.fromhex(SEALED)],
        credential=credential,
    )
    entry = entry_of(upload, 1)
    root = root_of([entry])
    opened = sign_opened(keyholder, name, PLAN, 0, root, bytes.fromhex("0a0b0c0d0e0f"))
    mark = mark_of(opened)
    first = log.append(coordinator, log.GENESIS, LogKind.PLAN, encode(LoggedPlan(plan_id=PLAN)))
    body = encode(LoggedOpened(plan_id=PLAN, t=0, root=root, count=1, marks=(mark,)))
    second = log.append(coordinator, log.digest(first), LogKind.OPENED, body)
    succession = LoggedSuccession(plan_id=PLAN, version=1, successor=PlanId(sha256(b"next plan")), started_from=1)
    third = log.append(coordinator, log.digest(second), LogKind.SUCCESSION, encode(succession))
    rollback = LoggedRollback(plan_id=PLAN, from_version=4, to_version=1, why="Snapshot 4 is 40.5 points below")
    fourth = log.append(coordinator, log.digest(third), LogKind.ROLLBACK, encode(rollback))
    rekeyed = sign_rekeyed(keyholder, PLAN, 1, SealingKey.from_seed(b"\6" * 32).public)
    signature = sign_head(keyholder, rekeyed.key_id, PLAN, 1, SNAPSHOT, [rekeyed.key_id]).signature
    after = Head(plan_id=PLAN, version=1, snapshot_hash=SNAPSHOT, signatures=(signature,))
    all_of_them: dict[str, Message] = {
        "enrol": sign_enrol(device, Lineage(PLAN), "häuser-7"),
        "credential": credential,
        "head_signature": head,
        "upload": upload,
        "receipt": sign_receipt(coordinator, upload, 490_000),
        "entry": entry,
        "prepare": sign_prepare(coordinator, PLAN, 0, SNAPSHOT, [entry]),
        "open": sign_open(coordinator, PLAN, 0, SNAPSHOT, [entry]),
        "opened": opened,
        "sign_head": sign_head_request(coordinator, PLAN, 1, sha256(b"next"), root=root, opened=[mark]),
        "proof": sign_proof(coordinator, PLAN, upload.update_id, "opened", 0, [update_hash(upload)]),
        "proof_refused": sign_proof(coordinator, PLAN, upload.update_id, "refused", 0),
        "rekeyed": rekeyed,
        "head_rekeyed": msgspec.structs.replace(after, rekeyed=(rekeyed,)),
        "head": after,
        "log_1": first,
        "log_2": second,
        "log_3": third,
        "log_4": fourth,
        "sign_head_back": sign_head_request(
            coordinator, PLAN, 5, SNAPSHOT, root=root_of([]), opened=[], spoilt=True, back_to=after
        ),
    }
    charter = manifest.encode(
        Charter(
            title="steps",
            purpose="to count steps, häufig",
            data_sources=("pedometer",),
            author=coordinator.public,
            keyholders=(keyholder.public,),
            most_plans=3,
            mu2_total=0.59375,
            unit="device",
            expires_at=1_800_000_000,
        )
    )
    return {
        "charter": {
            "bytes": charter.hex(),
            "charter_id": sha256(charter).hex(),
            "signature_of_coordinator": coordinator.sign(preimage.charter(sha256(charter))).hex(),
        },
        "seeds": {"device": 1, "authority": 2, "coordinator": 3, "keyholder": 4, "sealing": 5},
        "key_id": name.hex(),
        "H_UPD": update_preimage(upload).hex(),
        "root": root.hex(),
        "log_digests": [log.digest(first).hex(), log.digest(second).hex()],
        "messages": {kind: encode(message).hex() for kind, message in all_of_them.items()},
    }


# Of `blt/1` in these vectors; T = 1000, four landings, 200 apart.
BLT = Blt((0.501474, 0.826958, 0.99025, 0.989161), (0.163454, 0.167289, 0.070254, 0.099197))


def ratcheted(j: int, t: int, key: bytes) -> bytes:
    """Keyholder j's noise key after the one of batch t."""
    return next_key(key, lambda count: stream(f"ratchet{j}/{t}", count))


def correlated(j: int, d: int, sd: float, roots: list[Digest]) -> tuple[list[Json], Correlated]:
    """The steps of keyholder j's noise for batches with these roots."""
    noise, key = Correlated(BLT, d), bytes([j]) * 32
    steps: list[Json] = []
    for t, root in enumerate(roots):
        z = gaussians(key, PLAN, t, root, d, sd)
        values = noise.step(z)
        steps.append(
            {
                "t": t,
                "noise_key": key.hex(),
                "root": root.hex(),
                "z": [double(float(value)) for value in z],
                "values": [double(float(value)) for value in values],
                "noise": rounded(values).tolist(),
            }
        )
        key = ratcheted(j, t, key)
    return steps, noise


def blt() -> Json:
    """PROTOCOL 17.7: ten steps for four values. Batch 3 is void and was never opened: it takes its step all the same.

    `column` is the first column of C, `squared` are S_C^2 for 0 to 4 landings 200 apart among 1000 batches, `spread` A.
    """
    roots = [preimage.root([]) if t == 3 else sha256(b"root %d" % t) for t in range(10)]
    steps, noise = correlated(1, 4, 100.0, roots)
    return {
        "theta": [double(value) for value in BLT.theta],
        "omega": [double(value) for value in BLT.omega],
        "plan_id": PLAN.hex(),
        "sd": double(100.0),
        "steps": steps,
        "buffers": [[double(float(value)) for value in row] for row in noise.buffers],
        "column": [double(float(value)) for value in column(BLT, 10)],
        "squared": [f"{value:.6f}" for value in squared_sensitivities(BLT, 4, 200, 1000)],
        "spread": f"{spread(BLT, 1000):.6f}",
    }


def accounts() -> Json:
    """PROTOCOL 17.11, the tables of 6.6. Decimal, because libraries differ in the last bits: agree to 1e-3."""
    delta = 1e-7
    most = sensitivity(BLT, 4, 200, 1000) ** 2
    squares = squared_sensitivities(BLT, 4, 200, 1000)
    return {
        "delta": "1e-7",
        "mu_of_epsilon": [
            {"epsilon": str(epsilon), "mu": f"{mu_of_epsilon(epsilon, delta):.4f}"}
            for epsilon in (0.5, 1, 2, 3, 4, 6, 8, 10)
        ],
        "plain": [
            {"sigma": str(z), "landings": landings, "epsilon": f"{epsilon_of_mu(plain_mu(landings, z), delta):.4f}"}
            for z in (1, 2, 4)
            for landings in (1, 2, 4, 8, 16)
        ],
        "plain_debits": [
            {"sigma": "2", "landing": j, "mu2": f"{plain_mu(j, 2.0) ** 2 - plain_mu(j - 1, 2.0) ** 2:.6f}"}
            for j in (1, 2, 3)
        ],
        "blt": {
            "landings": 4,
            "separation": 200,
            "snapshots": 1000,
            "S_C": f"{most**0.5:.4f}",
            "A": f"{spread(BLT, 1000):.4f}",
            "debits_at_sigma_1.3": [f"{(after - before) / (most * 1.3**2):.6f}" for before, after in pairwise(squares)],
        },
    }


def full_round(batch: int = 7) -> Json:
    """PROTOCOL 17.8: twelve devices, 2 keyholders, base versions 5 to 7 opened at t = 7; plain noise, weights of 1."""
    return _round(batch, (1, 1, 1), correlate=False)


def full_round_blt(batch: int = 7) -> Json:
    """The same under correlated noise, with weights by age: what batches 0 to 6 left is in the noise of batch 7."""
    return _round(batch, (8, 6, 5), correlate=True)


def _round(t: int, weights: tuple[int, ...], correlate: bool) -> Json:
    """The seals are stand-ins of the right length (their hashes matter here, their contents do not)."""
    d, bits, big_q, clip, sd = 10, 20, 100, 0.5, 40.0
    q_in = inner_bound(big_q, d)
    devices: list[Json] = []
    sent, keys_of, names = np.zeros(d, np.uint32), ([], []), []
    true_sum = np.zeros(d, np.int64)
    shares = [weights[t - (5 + i % 3)] for i in range(12)]
    for i, weight in enumerate(shares):
        values = np.frombuffer(stream(f"delta{i}", 4 * d), ">u4") / 2**32 - 0.5
        values = values * (clip / max(clip, float(np.linalg.norm(values))))
        uniforms = stream(f"uniforms{i}", 4 * d)
        q = quantise(values, clip, big_q, q_in, lambda count, given=uniforms: given)
        update_id, key = UpdateId(stream(f"id{i}", 16)), SigningKey.from_seed(stream(f"device{i}", 32))
        seeds = [stream(f"seed{i}/{j}", 32) for j in (1, 2)]
        mask_keys = [mask_key(seed, PLAN, update_id) for seed in seeds]
        payload = pack(masked(q, mask_keys, bits), bits)
        seal_hashes = [sha256(stream(f"sealed{i}/{j}", 80)) for j in (1, 2)]
        head_hash, version = sha256(f"head {5 + i % 3}".encode()), 5 + i % 3
        dpk = DeviceKey(key.public)
        h_upd = preimage.update(PLAN, version, head_hash, update_id, dpk, sha256(payload), 1, seal_hashes)
        names.append(sha256(h_upd))
        sent += unpack(payload, d, bits) * np.uint32(weight)
        true_sum += q * weight
        for mine, one in zip(keys_of, mask_keys, strict=True):
            mine.append(one)
        devices.append(
            {
                "values": [double(float(value)) for value in values],
                "uniforms": uniforms.hex(),
                "integers": q.tolist(),
                "update_id": update_id.hex(),
                "base_version": version,
                "head_hash": head_hash.hex(),
                "dpk": dpk.hex(),
                "seeds": [seed.hex() for seed in seeds],
                "seal_hashes": [one.hex() for one in seal_hashes],
                "payload": payload.hex(),
                "update_hash": sha256(h_upd).hex(),
                **({"weight": weight} if correlate else {}),
            }
        )
    root = preimage.root(names)
    total, all_noise, keyholders = sent, np.zeros(d, np.int64), []
    for j, mine in enumerate(keys_of, 1):
        if correlate:
            steps, _ = correlated(j, d, sd, [*(sha256(b"root %d" % before) for before in range(t)), root])
            own, said = np.array(steps[-1]["noise"]), {"steps": steps}
        else:
            own = plain_noise(bytes([j]) * 32, PLAN, t, root, d, sd)
            said = {"noise_key": (bytes([j]) * 32).hex()}
        answer = low_bits(sum_masks(mine, shares, d, bits) - wrap(own, 32), bits)
        keyholders.append({**said, "noise": own.tolist(), "masks": pack(answer, bits).hex()})
        total = total - answer
        all_noise += own
    result = center(total, bits)
    assert result.tolist() == (true_sum + all_noise).tolist()
    return {
        "plan_id": PLAN.hex(),
        "d": d,
        "bits": bits,
        "Q": big_q,
        "Q_in": q_in,
        "clip": double(clip),
        "sd": double(sd),
        "t": t,
        "devices": devices,
        "root": root.hex(),
        "keyholders": keyholders,
        "sum": result.tolist(),
        "mean": [double(float(value)) for value in dequantise_sum(result, clip, q_in, sum(shares))],
    }


# One Plan's rules for `negative`, and what a keyholder knows while it looks at a list of batch 7.
AUTHORITY, DEVICE, SEALING = (bytes([i]) * 32 for i in (2, 1, 5))
HEAD_6, HEAD_7 = sha256(b"head 6"), sha256(b"head 7")
KNOWN: Json = {
    "plan_id": PLAN.hex(),
    "lineage": PLAN.hex(),
    "enrolment": SigningKey.from_seed(AUTHORITY).public.hex(),
    "key_id": (b"\7" * 16).hex(),
    "keyholders": 1,
    "j": 1,
    "sealing_private": SEALING.hex(),
    "t": 7,
    "snapshot_hash": SNAPSHOT.hex(),
    "snapshots": 9,
    "threshold": 2,
    "most": 3,
    "max_age": 2,
    "landings": 2,
    "separation": 3,
    "hour": 490_000,
    "head_hashes": {"6": HEAD_6.hex(), "7": HEAD_7.hex()},
    "burnt": [bytes(15).hex() + "63"],
    "landed": {SigningKey.from_seed(b"\x0b" * 32).public.hex(): {"count": 1, "last_t": 5}},
}


def entry_of_device(seed: bytes = DEVICE, place: int = 0, **changed: Any) -> Entry:
    """An entry that holds against KNOWN, but for what is changed. Seals are recorded: of a place out of three."""
    given: Json = {"base_version": 7, "head_hash": HEAD_7, "lineage": Lineage(PLAN), "expires": 500_000, "plan": PLAN}
    given |= changed
    key = SigningKey.from_seed(seed)
    sealed = bytes.fromhex(given.get("sealed", SEALED_ENTRIES[place]))
    credential = sign_credential(
        SigningKey.from_seed(given.get("authority", AUTHORITY)),
        DeviceKey(key.public),
        given["lineage"],
        given["expires"],
    )
    upload = sign_upload(
        key,
        plan_id=given["plan"],
        base_version=given["base_version"],
        head_hash=given["head_hash"],
        update_id=given.get("update_id", UpdateId(bytes([place]) * 16)),
        payload=b"payload",
        sealed=[sealed] * given.get("keyholders", 1),
        credential=credential,
    )
    return entry_of(upload, 1)


# Seals of 32 zero bytes to SEALING, bound to what `entry_of_device` makes of DEVICE in places 0 and 1, and of the
# device with the seed b"\x0a" * 32 in place 2.
SEALED_ENTRIES = (
    "62636bbad0cfef7d8e02ea4e5fce2baf1812766fba6da43a2ba98127cf65e1378b65b300f7512428b629fa10990fe263e13f55"
    "1c5cb16400c9662fac02e56495fbb0892ed1a4a0ed5a171538d5fc1c24",
    "1f322d3d037db96608b43e31ef3cebbd98fc4ad9eff6955bd7d5a4114c335051d29aae27c97dd205492877a95008e6653c36cd"
    "c9726c692144ce4d0740d45aa31280d546eee8eb53ce2c3e0d308310b3",
    "f9a03604bb10892254c8181b26a6747c68aa0580294e358c4a2e2e4542907565914106f9d80befceede30b2c06f20c29d2e906"
    "31b466d1c20c0dd6c36376cdfb9c69c98dad3f02c7a2cc910499186cc8",
)


def negative() -> Json:
    """PROTOCOL 17.12: every error code once. Every case is KNOWN and one list, alike but for what its words say.

    `entries` are Entry messages in the order they came in. The list as a whole is looked at first, then each entry.
    Codes that no list gives are there with the answer that carries them, as is every other.
    """
    good = [entry_of_device(), entry_of_device(b"\x0a" * 32, 2)]
    twice = entry_of_device(place=1)
    resealed = msgspec.structs.replace(good[0], sealed=bytes.fromhex(SEALED_ENTRIES[1]))
    unsigned = msgspec.structs.replace(good[0], signature=bytes(64))
    landed = entry_of_device(b"\x0b" * 32, 0)
    lists: list[tuple[str, Code | None, Json, list[Entry]]] = [
        ("nothing is wrong", None, {}, good),
        ("another batch", Code.E_T_ORDER, {"t": 6}, good),
        ("no batch is left", Code.E_BUDGET, {"snapshots": 7}, good),
        ("another Snapshot", Code.E_HEAD, {"snapshot_hash": bytes(32).hex()}, good),
        ("one is too few", Code.E_BELOW_T, {}, good[:1]),
        ("four are too many", Code.E_TOO_LARGE, {}, [*good, twice, landed]),
        ("not in order", Code.E_MALFORMED, {}, good[::-1]),
        ("of another Plan", Code.E_PLAN, {}, [entry_of_device(plan=PlanId(bytes(32))), good[1]]),
        ("for two keyholders", Code.E_PLAN, {}, [entry_of_device(keyholders=2), good[1]]),
        ("from the future", Code.E_VERSION_FUTURE, {}, [entry_of_device(base_version=8), good[1]]),
        ("too old", Code.E_STALE, {}, [entry_of_device(base_version=4), good[1]]),
        ("from another HEAD", Code.E_HEAD, {}, [entry_of_device(head_hash=HEAD_6), good[1]]),
        ("opened before", Code.E_DUP_ID, {"burnt": [(bytes(16)).hex()]}, good),
        ("too soon after its last", Code.E_PARTICIPATION, {}, [landed, good[1]]),
        ("another seal", Code.E_SEAL_HASH, {}, [resealed, good[1]]),
        ("a credential of nobody", Code.E_CRED, {}, [entry_of_device(authority=b"\x09" * 32), good[1]]),
        ("a credential that has ended", Code.E_CRED, {"hour": 500_000}, good),
        ("not signed", Code.E_SIG, {}, [unsigned, good[1]]),
        ("sealed to nobody", Code.E_UNSEAL, {}, [entry_of_device(sealed="00" * 80), good[1]]),
        ("sealed in another place", Code.E_UNSEAL, {}, [entry_of_device(sealed=SEALED_ENTRIES[1]), good[1]]),
        ("a device twice", Code.E_DUP_DEVICE, {}, [good[0], twice]),
    ]
    return {
        "known": KNOWN,
        "lists": [
            {
                "words": words,
                "code": code,
                "known": changed,
                "entries": [encode(entry).hex() for entry in entries],
            }
            for words, code, changed, entries in lists
        ],
        "replies": {code: encode(ErrorReply(code=code, reason="why")).hex() for code in Code},
    }


VECTORS = {
    "mask": masks,
    "packing": packing,
    "quantise": quantising,
    "rotation": rotation,
    "noise": noise,
    "sketch": sketch,
    "seal": seals,
    "keys": keys,
    "preimages": preimages,
    "messages": messages,
    "round": full_round,
    "round_blt": full_round_blt,
    "blt": blt,
    "accounts": accounts,
    "negative": negative,
}


def text(name: str) -> str:
    return json.dumps(VECTORS[name](), indent=1, ensure_ascii=False) + "\n"


def read(name: str) -> Json:
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    for vector in VECTORS:
        (HERE / f"{vector}.json").write_text(text(vector), encoding="utf-8")
        print(f"wrote tests/vectors/{vector}.json")
