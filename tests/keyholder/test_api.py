"""The keyholder's routes, by HTTP, from its process."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.wire.codes import Code
from tacit.wire.messages import Head, HeadSignature, Opened, PrepareReply, encode
from tests.factory import Device, Process, Refused, keyholder_process, make_world, refusal_code
from tests.keyholder.asking import Asking


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Process, Asking]]:
    world = make_world(tmp_path)
    process = keyholder_process(world).start()
    yield process, Asking(world, [])
    process.stop()


def load(process: Process, asked: Asking, head: Head | None = None) -> dict:
    headers = {} if head is None else {"Tacit-Head": base64.b64encode(encode(head)).decode()}
    status, _, data = process.request("POST", "/v1/load", bytes(asked.world.plan.raw), headers)
    assert status == 200, data
    return json.loads(data)


def test_a_batch_is_opened_over_http_and_audited_by_its_ids(served: tuple[Process, Asking]):
    process, asked = served
    assert load(process, asked)["state"] == "loaded"
    signature = process.post("/v1/sign_head", asked.head_zero(), HeadSignature)
    asked.heads[0] = asked.world.initial_hash
    uploads = asked.updates(3)
    entries = asked.entries(uploads)

    reply = process.post("/v1/prepare", asked.prepare_request(0, entries), PrepareReply)
    opened = process.post("/v1/open", asked.open_request(0, entries), Opened)
    audit = json.loads(process.get(f"/v1/plans/{asked.world.plan_id.hex()}/opened"))
    status = json.loads(process.get("/v1/status"))

    assert signature.version == 0
    assert reply.rejected == ()
    assert opened.t == 0
    assert audit == [{"t": 0, "void": False, "updates": sorted(upload.update_id.hex() for upload in uploads)}]
    assert [(plan["state"], plan["t"]) for plan in status["plans"]] == [("active", 0)]
    assert process.stop() == 0


def test_no_route_accepts_an_update(served: tuple[Process, Asking]):
    process, asked = served
    load(process, asked)
    body = encode(Device(asked.world).update(0, asked.world.head_hash(0, asked.world.initial_hash)))

    codes = {
        path: refusal_code(lambda path=path: process.post(path, body, Opened))
        for path in ("/v1/load", "/v1/prepare", "/v1/open", "/v1/sign_head")
    }

    assert codes.pop("/v1/load") is Code.E_PLAN
    assert set(codes.values()) == {Code.E_MALFORMED}
    assert process.request("POST", "/v1/updates", body)[0] == 404
    home = b"".join(path.read_bytes() for path in asked.world.keyholder_home().rglob("*") if path.is_file())
    assert body[200:260] not in home


def test_a_body_that_is_too_long_is_not_read(served: tuple[Process, Asking]):
    process, _ = served
    body = bytes(65 * 1024)

    with pytest.raises(Refused) as caught:
        process.post("/v1/sign_head", body, HeadSignature)

    assert (caught.value.status, caught.value.code) == (413, Code.E_TOO_LARGE)


def test_a_head_shown_by_header_is_looked_at(served: tuple[Process, Asking]):
    process, asked = served
    load(process, asked)
    signature = process.post("/v1/sign_head", asked.head_zero(), HeadSignature)
    shown = Head(
        plan_id=asked.world.plan_id,
        version=0,
        snapshot_hash=asked.world.initial_hash,
        signatures=(signature.signature,),
    )
    process.stop()
    for path in asked.world.keyholder_home().glob("keyholder.sqlite*"):
        path.unlink()
    process.start()

    status, headers, _ = process.request(
        "POST",
        "/v1/load",
        bytes(asked.world.plan.raw),
        {"Tacit-Head": base64.b64encode(encode(shown)).decode()},
    )

    assert status == 503
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert json.loads(process.get("/v1/status"))["plans"][0]["why"].startswith("E_STATE_LOST")
    for text in ("@", "\u00b2"):
        assert process.request("POST", "/v1/load", bytes(asked.world.plan.raw), {"Tacit-Head": text})[0] == 400


def test_an_unknown_plan_has_no_ids(served: tuple[Process, Asking]):
    process, _ = served

    for name in ("00" * 32, "no-hex"):
        assert refusal_code(lambda name=name: process.get(f"/v1/plans/{name}/opened")) is Code.E_PLAN
