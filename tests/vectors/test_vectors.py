"""The golden vectors: the code still makes them, byte for byte, and a reader of the specification would agree."""

import hashlib
import hmac
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from tacit.keyholder.checks import Knowledge, Landings, check_list, examine
from tacit.keyholder.states import Active
from tacit.plan.bundle import Plan
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import Digest, PlanId
from tacit.wire.keys import SealingKey, SigningKey
from tacit.wire.messages import Entry, ErrorReply, decode
from tacit.wire.signed import sign_open
from tests.factory import make_world
from tests.vectors.make import HERE, SNAPSHOT, VECTORS, read, text


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_the_code_writes_the_recorded_vectors_again(name: str):
    assert text(name) == (HERE / f"{name}.json").read_text(encoding="utf-8")


def test_every_recorded_file_has_its_maker():
    assert {path.stem for path in HERE.glob("*.json")} >= set(VECTORS)


def test_a_sketch_is_what_the_specification_says_in_whole_numbers():
    """R bit by bit, R·mask word by word, less the noise, in 24 bits."""
    one = read("sketch")
    root, secrets = bytes.fromhex(one["root"]), [bytes.fromhex(secret) for secret in one["secrets"]]
    said = b"TACIT1/commit\0" + bytes.fromhex(one["plan_id"]) + (7).to_bytes(8, "big") + b"\1" + root + secrets[0]
    assert hashlib.sha256(said).hexdigest() == one["commitment"]
    assert hashlib.sha256(root + secrets[0] + secrets[1]).hexdigest() == one["r_seed"]
    rows, words = len(one["matrix"]), len(one["matrix"][0])
    width = -(-words // 4)
    stream = aes_stream(bytes.fromhex(one["r_seed"]), rows * width)
    answer = bytes.fromhex(one["answer"])
    for row in range(rows):
        for i in range(words):
            bits = stream[row * width + i // 4] >> 2 * (i % 4)
            assert one["matrix"][row][i] == (bits & 1) - (bits >> 1 & 1)
    for i, key in enumerate(one["mask_keys"]):
        mask = np.frombuffer(aes_stream(bytes.fromhex(key), 4 * words), "<u4").tolist()
        for row in range(rows):
            product = sum(r * word for r, word in zip(one["matrix"][row], mask, strict=True))
            at = 3 * (i * rows + row)
            assert int.from_bytes(answer[at : at + 3], "little") == (product - one["noise"][i][row]) % 2**24


def aes_stream(key: bytes, count: int) -> bytes:
    return Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(count))


# HPKE once more, from RFC 9180 and primitives alone


def hpke_open(private: bytes, info: bytes, sealed: bytes) -> bytes:
    """Base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM, no additional data."""
    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x01"
    enc, ciphertext = sealed[:32], sealed[32:]
    key = X25519PrivateKey.from_private_bytes(private)
    dh = key.exchange(X25519PublicKey.from_public_bytes(enc))
    both = enc + key.public_key().public_bytes_raw()
    shared = _expand(kem, _extract(kem, b"", b"eae_prk", dh), b"shared_secret", both, 32)
    context = b"\0" + _extract(suite, b"", b"psk_id_hash", b"") + _extract(suite, b"", b"info_hash", info)
    secret = _extract(suite, shared, b"secret", b"")
    aead, nonce = (_expand(suite, secret, label, context, size) for label, size in ((b"key", 16), (b"base_nonce", 12)))
    return AESGCM(aead).decrypt(nonce, ciphertext, b"")


def _extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + material, hashlib.sha256)


def _expand(suite: bytes, secret: bytes, label: bytes, info: bytes, size: int) -> bytes:
    labelled = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(secret, labelled + b"\1", hashlib.sha256)[:size]


def test_seals_open_as_the_rfc_says():
    vector = read("seal")
    for one in [vector, *vector["more"]]:
        opened = hpke_open(*(bytes.fromhex(one[name]) for name in ("private", "info", "sealed")))
        assert opened.hex() == one["seed"]


def test_broken_seals_do_not_open_as_the_rfc_says():
    for one in read("seal")["broken"]:
        with pytest.raises((InvalidTag, ValueError)):
            hpke_open(*(bytes.fromhex(one[name]) for name in ("private", "info", "sealed")))


# Correlated noise once more, by matrices


def _doubles(texts: list[str]) -> list[float]:
    return np.frombuffer(bytes.fromhex("".join(texts)), ">f8").tolist()


def test_correlated_noise_is_the_inverse_of_c_times_z():
    vector = read("blt")
    column = _doubles(vector["column"])
    matrix = np.array([[column[row - at] if row >= at else 0.0 for at in range(10)] for row in range(10)])
    z = np.array([_doubles(step["z"]) for step in vector["steps"]])

    expected = np.linalg.solve(matrix, z)

    assert np.allclose(expected, [_doubles(step["values"]) for step in vector["steps"]], rtol=0, atol=1e-9)
    assert np.rint(expected).astype(int).tolist() == [step["noise"] for step in vector["steps"]]


def test_the_tables_are_those_of_the_protocol():
    vector = read("accounts")

    assert [float(row["mu"]) for row in vector["mu_of_epsilon"]] == pytest.approx(
        [0.111, 0.214, 0.408, 0.593, 0.771, 1.107, 1.424, 1.725], abs=1e-3
    )
    assert float(vector["blt"]["S_C"]) == pytest.approx(3.684, abs=1e-3)
    assert float(vector["blt"]["A"]) == pytest.approx(1.13, abs=5e-3)
    assert sum(map(float, vector["blt"]["debits_at_sigma_1.3"])) == pytest.approx(1 / 1.3**2, abs=1e-5)


# What must be refused


def rules(folder: Path, known: dict[str, Any]) -> Plan:
    """A Plan with the rules of the vector; nothing else of it is looked at."""
    plan = make_world(
        folder,
        threshold=known["threshold"],
        target=known["threshold"],
        most=known["most"],
        max_age=known["max_age"],
        landings=known["landings"],
        separation=known["separation"],
        snapshots=known["snapshots"],
    ).plan
    card = msgspec.structs.replace(plan.manifest.keyholders[0], key_id=bytes.fromhex(known["key_id"]))
    enrolment = bytes.fromhex(known["enrolment"])
    manifest = msgspec.structs.replace(plan.manifest, keyholders=(card,) * known["keyholders"], enrolment=enrolment)
    return replace(plan, plan_id=bytes.fromhex(known["plan_id"]), manifest=manifest)


def knowledge(plan: Plan, known: dict[str, Any]) -> Knowledge:
    return Knowledge(
        plan=plan,
        j=known["j"],
        sealing=SealingKey.from_seed(bytes.fromhex(known["sealing_private"])).private,
        t=known["t"],
        head_hashes={int(v): Digest(bytes.fromhex(one)) for v, one in known["head_hashes"].items()},
        burnt=frozenset(bytes.fromhex(one) for one in known["burnt"]),
        landings={bytes.fromhex(dpk): Landings(**landed) for dpk, landed in known["landed"].items()},
        hour=known["hour"],
    )


def code_of_list(plan: Plan, known: dict[str, Any], entries: list[Entry]) -> Code | None:
    """Of the list as a whole, else of the first entry that is rejected."""
    coordinator = SigningKey.from_seed(bytes(32))
    request = sign_open(coordinator, PlanId(plan.plan_id), 7, SNAPSHOT, entries)
    request = msgspec.structs.replace(request, entries=tuple(entries))  # in the order of the vector
    try:
        check_list(request, Active(known["t"], Digest(bytes.fromhex(known["snapshot_hash"]))), plan)
    except Refusal as refusal:
        return refusal.code
    _, rejected = examine(entries, knowledge(plan, known))
    return rejected[0].code if rejected else None


def test_every_list_of_the_negative_set_gets_its_code(tmp_path: Path):
    vector = read("negative")
    for number, case in enumerate(vector["lists"]):
        known = {**vector["known"], **case["known"]}
        plan = rules(tmp_path / str(number), known)
        entries = [decode(Entry, bytes.fromhex(one)) for one in case["entries"]]
        assert code_of_list(plan, known, entries) == case["code"], case["words"]


def test_the_negative_set_has_every_code_that_an_entry_can_get_and_an_answer_for_every_code():
    vector = read("negative")

    assert {case["code"] for case in vector["lists"]} >= {code for code in Code if code.per_entry}
    assert {decode(ErrorReply, bytes.fromhex(one)).code for one in vector["replies"].values()} == set(Code)
