"""The keyholder as a service for others: who is heard, what is approved, and whose cards these are."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tacit.coordinator.keyholders import HttpKeyholder, Unreachable
from tacit.coordinator.keys import load_or_make
from tacit.errors import InputError
from tacit.keyholder.approvals import approve
from tacit.keyholder.callers import COORDINATORS, STRANGERS, Callers
from tacit.keyholder.cards import MOST_UNUSED_EACH, MOST_UNUSED_STRANGERS, UNUSED_S, GivenCards, read_card
from tacit.keyholder.keys import load_card
from tacit.keyholder.operator import Operator, write_operator
from tacit.plan.bundle import parse_plan
from tacit.wire.calls import Call, sign_call
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import KeyId, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.messages import HeadSignature, Opened, PrepareReply, encode
from tests.device.scripted import Answer, Asked, scripted
from tests.factory import Process, World, identity, keyholder_process, make_plan, make_world, refusal_code
from tests.keyholder.asking import Asking, code_of

OPERATOR = Operator("a university", "http://127.0.0.1:9100")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


@pytest.fixture
def served(world: World) -> Iterator[Process]:
    """A keyholder that knows no author: only approved charters."""
    process = keyholder_process(world)
    process.arguments = ["--home", str(world.keyholder_home())]
    write_operator(world.keyholder_home(), OPERATOR)
    yield process.start()
    process.stop()


def plan_bytes(world: World) -> bytes:
    return bytes(world.plan.raw)


def as_seen_by(process: Process, world: World, caller: SigningKey | None = None) -> HttpKeyholder:
    return HttpKeyholder(process.url, identity(world).public, caller or world.coordinator.sig)


def test_a_plan_is_loaded_once_its_charter_is_approved_and_not_before(served: Process, world: World):
    keyholder = as_seen_by(served, world)

    with pytest.raises(Refusal, match="was not approved here"):
        keyholder.load(world.plan, None)
    approve(world.keyholder_home(), world.plan.charter)  # as `tacit keyholder approve` does, while it runs
    keyholder.load(world.plan, None)

    assert keyholder.sign_head(Asking(world, []).head_zero()).version == 0


def test_a_charter_of_one_letter_more_is_another_charter(served: Process, world: World):
    approve(world.keyholder_home(), msgspec.structs.replace(world.plan.charter, purpose="to test <sums> & nothing els"))

    with pytest.raises(Refusal, match="was not approved here"):
        as_seen_by(served, world).load(world.plan, None)


def test_what_is_not_signed_is_not_heard(served: Process, world: World):
    served.caller = None

    for path in ("/v1/load", "/v1/prepare", "/v1/open", "/v1/sign_head", "/v1/cards"):
        assert served.request("POST", path, b"")[0] == 401


def test_a_call_is_taken_once_also_after_a_restart(served: Process, world: World):
    body = plan_bytes(world)
    headers = sign_call(world.coordinator.sig, served.call("/v1/load", body))
    served.caller = None

    first = served.request("POST", "/v1/load", body, headers)
    again = served.request("POST", "/v1/load", body, headers)
    served.kill()
    served.start()
    after = served.request("POST", "/v1/load", body, headers)

    assert (first[0], again[0], after[0]) == (404, 401, 401)  # not approved, and then not heard
    assert b"made before" in again[2]


def test_only_the_plan_s_own_coordinator_may_speak_about_it(served: Process, world: World, tmp_path: Path):
    approve(world.keyholder_home(), world.plan.charter)
    stranger = SigningKey.from_seed(os.urandom(32))
    asked = Asking(world, [])

    shown = code_of(lambda: as_seen_by(served, world, stranger).load(world.plan, None))
    as_seen_by(served, world).load(world.plan, None)
    # The request inside is the coordinator's own; whoever got hold of it may not bring it.
    brought = code_of(lambda: as_seen_by(served, world, stranger).sign_head(asked.head_zero()))

    assert (shown, brought) == (Code.E_SIG, Code.E_SIG)
    assert as_seen_by(served, world).sign_head(asked.head_zero()).version == 0


def test_several_coordinators_have_their_plans_at_one_keyholder(served: Process, world: World, tmp_path: Path):
    cards = GivenCards(world.keyholder_home(), OPERATOR, lambda name: False, os.urandom, time.time)
    others = load_or_make(tmp_path / "elsewhere", os.urandom)
    author = SigningKey.from_seed(os.urandom(32))
    data = make_plan(author, others, [read_card(cards.give_by_hand())], title="another")
    cards.close()
    other = replace(world, author=author, coordinator=others, plan=parse_plan(data))
    worlds = [world, other]
    for one in worlds:
        approve(one.keyholder_home(), one.plan.charter)
        as_seen_by(served, one).load(one.plan, None)

    opened: list[Opened] = []
    for one in worlds:
        asked = Asking(one, [], heads={0: one.initial_hash})
        keyholder = as_seen_by(served, one)
        keyholder.sign_head(asked.head_zero())
        entries = asked.entries(asked.updates(3))
        assert keyholder.prepare(asked.prepare_request(0, entries)) == PrepareReply(rejected=())
        opened.append(keyholder.open(asked.open_request(0, entries)))
        crossed = as_seen_by(served, worlds[0] if one is other else other)
        assert code_of(lambda crossed=crossed, asked=asked, e=entries: crossed.open(asked.open_request(0, e))) is (
            Code.E_SIG
        )

    status = json.loads(served.get("/v1/status"))
    assert {one.plan_id for one in opened} == {world.plan_id, other.plan_id}
    assert [plan["state"] for plan in status["plans"]] == ["active", "active"]


def test_an_answer_that_the_keyholder_did_not_sign_is_not_listened_to(world: World):
    signature = HeadSignature(plan_id=world.plan_id, version=0, key_id=KeyId(bytes(16)), signature=bytes(64))
    for answer in (Answer(200, encode(signature)), Answer(409, b"no")):
        with scripted() as script:
            script.on("POST sign_head", answer)
            keyholder = HttpKeyholder(f"http://127.0.0.1:{script.port}", identity(world).public, world.coordinator.sig)
            with pytest.raises(Unreachable, match="not signed by the keyholder"):
                keyholder.sign_head(Asking(world, []).head_zero())


def test_an_answer_to_one_call_does_not_pass_for_that_to_another(served: Process, world: World):
    """Somebody between coordinator and keyholder hands out what was answered before."""
    kept: list[Answer] = []

    def between(asked: Asked) -> Answer:
        if not kept:
            status, headers, body = served.request("POST", "/v1/load", asked.body, asked.headers)
            kept.append(Answer(status, body, headers={"Tacit-Answer": headers["tacit-answer"]}))
        return kept[0]

    served.caller = None
    with scripted() as script:
        script.on("POST load", between)
        keyholder = HttpKeyholder(f"http://127.0.0.1:{script.port}", identity(world).public, world.coordinator.sig)
        with pytest.raises(Refusal, match="was not approved here"):
            keyholder.load(world.plan, None)
        with pytest.raises(Unreachable, match="not signed by the keyholder"):
            keyholder.load(world.plan, None)


def test_a_clock_that_is_wrong_is_told_so(served: Process, world: World):
    late = HttpKeyholder(served.url, identity(world).public, world.coordinator.sig, clock=lambda: time.time() - 3600)

    with pytest.raises(Unreachable, match="set the clocks right"):
        late.load(world.plan, None)


def test_a_card_is_given_to_whoever_compiles_and_signed(served: Process, world: World):
    card = read_card(as_seen_by(served, world, world.author).card())

    assert (card.sig_pk, card.operator, card.url) == (identity(world).public, OPERATOR.operator, OPERATOR.url)
    assert load_card(world.keyholder_home(), KeyId(card.key_id)) is not None


def test_a_card_with_another_key_to_seal_to_is_refused(served: Process, world: World):
    data = as_seen_by(served, world, world.author).card()
    signed = msgspec.json.decode(data)
    another = msgspec.json.decode(as_seen_by(served, world, world.author).card())
    signed["card"]["hpke_pk"], signed["card"]["key_id"] = another["card"]["hpke_pk"], another["card"]["key_id"]

    assert read_card(data)
    with pytest.raises(InputError, match="is not signed by the key"):
        read_card(msgspec.json.encode({**signed, "card": {**signed["card"], "url": "http://elsewhere"}}))
    with pytest.raises(InputError, match="is not signed by the key"):
        read_card(msgspec.json.encode(signed))


def test_an_embedded_keyholder_gives_no_cards(world: World):
    process = keyholder_process(world).start()
    try:
        assert code_of(as_seen_by(process, world).card) is Code.E_PLAN
    finally:
        process.stop()


def test_cards_that_no_plan_came_with_are_counted_and_expire(tmp_path: Path):
    loaded: set[KeyId] = set()
    now = [1e9]
    cards = GivenCards(tmp_path, OPERATOR, loaded.__contains__, os.urandom, lambda: now[0])
    ada, eve = bytes(31) + b"a", bytes(31) + b"e"
    given = [read_card(cards.give(ada, True)) for _ in range(MOST_UNUSED_EACH)]

    assert code_of(lambda: cards.give(ada, True)) is Code.E_RATE
    loaded.add(KeyId(given[0].key_id))
    given.append(read_card(cards.give(ada, True)))
    assert code_of(lambda: cards.give(ada, True)) is Code.E_RATE
    cards.give(eve, True)

    now[0] += UNUSED_S + 1
    cards.give(ada, True)
    there = [load_card(tmp_path, KeyId(card.key_id)) is not None for card in given]
    assert there == [True] + [False] * MOST_UNUSED_EACH


def test_strangers_cannot_use_up_the_cards_of_known_authors(tmp_path: Path):
    cards = GivenCards(tmp_path, OPERATOR, lambda name: False, os.urandom, time.time)
    for _ in range(MOST_UNUSED_STRANGERS):
        cards.give(os.urandom(32), False)

    assert code_of(lambda: cards.give(os.urandom(32), False)) is Code.E_RATE
    assert read_card(cards.give(os.urandom(32), True))
    assert read_card(cards.give_by_hand())


def test_too_many_calls_are_refused_and_strangers_use_up_their_own_share(tmp_path: Path):
    me, known = SigningKey.from_seed(bytes(32)), SigningKey.from_seed(bytes(31) + b"1")
    now = [1e9]
    callers = Callers(tmp_path, me.public, lambda: frozenset({known.public}), lambda: now[0])

    def call(key: SigningKey) -> None:
        made = Call(key.public, me.public, "POST /v1/open", int(now[0] * 1000), os.urandom(16), sha256(b""))
        callers.admit(made, key.sign(made.preimage))

    for _ in range(int(STRANGERS.burst)):
        call(SigningKey.from_seed(os.urandom(32)))

    assert code_of(lambda: call(SigningKey.from_seed(os.urandom(32)))) is Code.E_RATE
    for _ in range(int(COORDINATORS.burst)):
        call(known)
    assert code_of(lambda: call(known)) is Code.E_RATE
    now[0] += 1 / STRANGERS.a_second
    call(SigningKey.from_seed(os.urandom(32)))


def test_a_body_that_is_too_long_is_refused_with_a_signature(served: Process, world: World):
    body = bytes(65 * 1024)
    status, headers, _ = served.request("POST", "/v1/sign_head", body)

    assert status == 413
    assert "tacit-answer" in headers
    assert refusal_code(lambda: served.post("/v1/cards", b"x", Opened)) is Code.E_TOO_LARGE


def test_it_serves_tls_where_it_is_given_a_certificate(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What TLS adds is that sizes and times are hidden; that the answer is the keyholder's is known without it."""
    certificate, key = self_signed(tmp_path)
    write_operator(world.keyholder_home(), OPERATOR)
    words = ["--home", str(world.keyholder_home()), "--tls-cert", str(certificate), "--tls-key", str(key)]
    process = Process("tacit.cli", ["keyholder", "run", *words], tmp_path / "keyholder.log").start()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    try:
        keyholder = HttpKeyholder(f"https://127.0.0.1:{process.port}", identity(world).public, world.coordinator.sig)

        assert read_card(keyholder.card()).operator == OPERATOR.operator
        assert code_of(lambda: keyholder.load(world.plan, None)) is Code.E_PLAN
    finally:
        process.stop()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for this machine, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths
