"""Every answer a server can give becomes a value or one typed error."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.codec.difference import difference
from tacit.device.client import AnswerBroken, Client, PlanNotKept, Refused, Unreachable
from tacit.device.link import JoinLink
from tacit.plan.packing import packed
from tacit.wire.codes import Code
from tacit.wire.ids import DeviceKey, Digest, Lineage, PlanId, UpdateId, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.messages import ErrorReply, Head, Message, encode
from tacit.wire.signed import sign_credential, sign_enrol, sign_proof
from tests.device.scripted import Answer, Script, scripted

PLAN = PlanId(b"p" * 32)
HEAD = Head(plan_id=PLAN, version=3, snapshot_hash=Digest(b"s" * 32), signatures=(bytes(64),))
KEY = SigningKey.from_seed(b"k" * 32)


@pytest.fixture
def server() -> Iterator[Script]:
    with scripted() as script:
        yield script


def client(script: Script, **changes: float) -> Client:
    return Client(JoinLink(False, "127.0.0.1", script.port, PLAN, bytes(32)), **changes)


def message(value: Message, status: int = 200, **headers: str) -> Answer:
    return Answer(status, encode(value), headers)


def test_a_head_comes_with_its_tag_and_is_asked_for_with_it(server: Script):
    server.on("GET head", message(HEAD, ETag='"3"'), Answer(304))
    here = client(server)

    first = here.head()
    again = here.head('"3"')

    assert first is not None and (first.head, first.etag) == (HEAD, '"3"')
    assert again is None
    assert server.asked[0].path == f"/v1/plans/{PLAN.hex()}/head"
    assert "If-None-Match" not in server.asked[0].headers
    assert server.asked[1].headers["If-None-Match"] == '"3"'


def test_a_plan_is_streamed_into_a_file_of_its_owner(server: Script, tmp_path: Path):
    data = bytes(range(256)) * 4000
    server.on(f"GET {PLAN.hex()}", Answer(body=data))
    into = tmp_path / "plan"
    into.write_bytes(b"left over from a crash")

    client(server).fetch_plan(into)

    assert into.read_bytes() == data
    assert into.stat().st_mode & 0o777 == 0o600


def test_a_plan_that_comes_packed_is_unpacked_on_its_way(server: Script, tmp_path: Path):
    data = bytes(range(256)) * 4000
    server.on(f"GET {PLAN.hex()}", Answer(body=packed(data), headers={"Content-Encoding": "gzip"}))

    client(server).fetch_plan(tmp_path / "plan", most_bytes=len(data))

    assert (tmp_path / "plan").read_bytes() == data
    assert server.asked[0].headers["Accept-Encoding"] == "gzip"


@pytest.mark.parametrize(
    ("body", "encoding", "words"),
    [
        (packed(b"plan")[:-5], "gzip", "cut short"),
        (packed(b"plan") + b"more", "gzip", "follows"),
        (b"plan", "gzip", "cannot be unpacked"),
        (b"plan", "br", "nobody asked for"),
    ],
)
def test_a_plan_that_cannot_be_unpacked_is_named(
    server: Script, tmp_path: Path, body: bytes, encoding: str, words: str
):
    server.on(f"GET {PLAN.hex()}", Answer(body=body, headers={"Content-Encoding": encoding}))

    with pytest.raises(AnswerBroken, match=words):
        client(server).fetch_plan(tmp_path / "plan")


def test_a_plan_that_unpacks_to_more_than_this_device_takes_is_given_up(server: Script, tmp_path: Path):
    server.on(f"GET {PLAN.hex()}", Answer(body=packed(bytes(1 << 22)), headers={"Content-Encoding": "gzip"}))

    with pytest.raises(Refused, match="takes"):
        client(server).fetch_plan(tmp_path / "plan", most_bytes=1 << 20)


def test_a_plan_that_cannot_be_written_is_not_the_network_s_fault(server: Script, tmp_path: Path):
    server.on(f"GET {PLAN.hex()}", Answer(body=b"plan"))

    with pytest.raises(PlanNotKept, match="No such file or directory") as error:
        client(server).fetch_plan(tmp_path / "no" / "plan")

    assert not error.value.retryable


@pytest.mark.parametrize("promised", [None, 10])
def test_a_plan_that_is_too_large_is_given_up(server: Script, tmp_path: Path, promised: int | None):
    server.on(f"GET {PLAN.hex()}", Answer(body=bytes(5000), promised=promised))

    with pytest.raises((Refused, Unreachable)):
        client(server).fetch_plan(tmp_path / "plan", most_bytes=8)


def test_a_snapshot_has_the_size_and_the_hash_that_were_signed(server: Script):
    data = b"snapshot"
    name = sha256(data)
    server.on(f"GET {name.hex()}", Answer(body=data), Answer(body=b"tampered"), Answer(body=data * 2))
    here = client(server)

    assert here.snapshot(name, 8) == data
    for _ in range(2):
        with pytest.raises(AnswerBroken) as broken:
            here.snapshot(name, 8)
        assert broken.value.retryable


def test_a_snapshot_comes_as_what_differs_from_the_one_that_is_held(server: Script):
    held, data = bytes(4000), bytes(3996) + b"\1\2\3\4"
    made, name = difference(held, data), sha256(data)
    server.on(f"GET {name.hex()}", Answer(body=made))

    assert client(server).snapshot(name, 4000, held) == data
    assert client(server).snapshot(sha256(held), 4000, held) == held
    assert [one.path for one in server.asked] == [f"/v1/plans/{PLAN.hex()}/deltas/{sha256(held).hex()}/{name.hex()}"]


@pytest.mark.parametrize(
    "answer",
    [
        message(ErrorReply(code=Code.E_HEAD, reason="none of these"), 409),
        Answer(404, b"a mirror has only whole ones"),
        Answer(500),
        Answer(silent=True),
        Answer(body=b"junk"),
        Answer(body=bytes(5000)),
        Answer(body=difference(bytes(4000), bytes(3999) + b"\2")),
    ],
)
def test_where_no_difference_makes_what_was_signed_the_whole_snapshot_is_fetched(server: Script, answer: Answer):
    data = bytes(3999) + b"\1"
    name = sha256(data)
    server.on(f"GET {name.hex()}", answer, Answer(body=data))

    assert client(server).snapshot(name, 4000, bytes(4000)) == data
    assert server.asked[1].path == f"/v1/plans/{PLAN.hex()}/snapshots/{name.hex()}"


def test_what_is_posted_is_sent_as_it_is(server: Script):
    credential = sign_credential(KEY, DeviceKey(bytes(32)), Lineage(PLAN), 9)
    proof = sign_proof(KEY, PLAN, UpdateId(b"u" * 16), "queued", 2)
    server.on("POST enrol", message(credential))
    server.on("POST proof", message(proof))
    enrol = sign_enrol(KEY, Lineage(PLAN), "please")
    here = client(server)

    assert here.enrol(enrol) == credential
    assert here.proof(UpdateId(b"u" * 16)) == proof
    assert [one.body for one in server.asked] == [encode(enrol), b"u" * 16]


@pytest.mark.parametrize(
    ("code", "status", "headers", "retryable", "after"),
    [
        (Code.E_STALE, 409, {}, False, None),
        (Code.E_RATE, 429, {"Retry-After": "7"}, True, 7.0),
        (Code.E_VERSION_FUTURE, 503, {}, True, None),
        (Code.E_HALTED, 503, {}, False, None),
        (Code.E_DUP_DEVICE, 409, {"Retry-After": "30"}, True, 30.0),
    ],
)
def test_a_refusal_carries_its_code_and_whether_to_come_again(
    server: Script, code: Code, status: int, headers: dict[str, str], retryable: bool, after: float | None
):
    reply = ErrorReply(code=code, reason="because")
    server.on("POST updates", Answer(status, encode(reply), headers))

    with pytest.raises(Refused) as refused:
        client(server).upload(b"bytes")

    error = refused.value
    assert (error.code, error.reason, error.retryable, error.retry_after) == (code, "because", retryable, after)


def test_the_reply_s_own_wait_is_preferred_to_the_header(server: Script):
    reply = ErrorReply(code=Code.E_RATE, reason="slow down", retry_after=3)
    server.on("POST updates", Answer(429, encode(reply), {"Retry-After": "9"}))

    with pytest.raises(Refused) as refused:
        client(server).upload(b"bytes")

    assert refused.value.retry_after == 3.0


@pytest.mark.parametrize("status", [500, 502, 503, 408, 429])
def test_a_gateway_in_trouble_is_an_unreachable_coordinator(server: Script, status: int):
    server.on("GET head", Answer(status, b"<html>oops</html>", {"Retry-After": "5"}))

    with pytest.raises(Unreachable, match=f"HTTP {status}") as error:
        client(server).head()

    assert error.value.retryable and error.value.retry_after == 5.0


@pytest.mark.parametrize("status", [301, 302, 401, 403, 404])
def test_another_server_s_no_is_not_the_coordinator_s_and_asks_about_the_network_and_the_link(
    server: Script, status: int
):
    server.on("GET head", Answer(status, b"<html>no</html>", {"Location": "http://elsewhere/"}))

    with pytest.raises(Unreachable, match=f"HTTP {status} .* is the network open, and the link right") as error:
        client(server).head()

    assert error.value.retryable and len(server.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=b"<html>hello</html>"),
        Answer(body=encode(HEAD) + b"\0"),
        Answer(body=b""),
        Answer(body=bytes(100_000)),
    ],
)
def test_what_is_no_message_is_named(server: Script, answer: Answer):
    server.on("GET head", answer)

    with pytest.raises(AnswerBroken):
        client(server).head()


@pytest.mark.parametrize("answer", [Answer(silent=True), Answer(body=encode(HEAD)[:20], promised=200)])
def test_an_answer_that_breaks_off_is_no_answer(server: Script, answer: Answer):
    server.on("GET head", answer)

    with pytest.raises(Unreachable):
        client(server).head()


def test_a_closed_port_is_unreachable():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    link = JoinLink(False, "127.0.0.1", port, PLAN, bytes(32))

    with pytest.raises(Unreachable, match=f"the coordinator at http://127.0.0.1:{port} does not answer"):
        Client(link).head()


def test_a_server_that_accepts_and_says_nothing_is_given_up():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        link = JoinLink(False, "127.0.0.1", listening.getsockname()[1], PLAN, bytes(32))

        with pytest.raises(Unreachable, match="timed out"):
            Client(link, timeout=0.05).head()


def test_an_answer_without_end_is_given_up(server: Script, tmp_path: Path):
    server.on(f"GET {PLAN.hex()}", Answer(body=bytes(1_000_000)))

    with pytest.raises(Unreachable, match="took more than"):
        client(server, patience=-1.0).fetch_plan(tmp_path / "plan")


def test_the_end_of_a_run_is_read_from_the_status(server: Script):
    server.on(
        "GET status",
        Answer(body=b'{"version": 3, "ended": null, "new": [1]}'),
        Answer(body=b'{"ended": "all 5 batches of this Plan have been opened"}'),
        Answer(body=b"[]"),
    )
    here = client(server)

    assert here.ended() is None
    assert here.ended() == "all 5 batches of this Plan have been opened"
    with pytest.raises(AnswerBroken):
        here.ended()
