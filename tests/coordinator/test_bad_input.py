"""Bad input gets a typed error: a stable code, the reason, whether to come again. Nothing is stored; it is counted.

One coordinator as a process, where devices take part by invitation: every door that there is stands before its routes.
"""

import gzip
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import msgspec
import pytest

from tacit.coordinator.records import Records
from tacit.coordinator.roll import token_name
from tacit.wire.calls import Call, sign_call
from tacit.wire.codes import Code
from tacit.wire.ids import Lineage, sha256
from tacit.wire.messages import Credential, ErrorReply, Proof, Receipt, Upload, decode, encode
from tacit.wire.signed import sign_enrol
from tests.factory import Device, Site, make_world, running, wait_for

OF_MINUTES = 60_000


@dataclass(frozen=True)
class Sent:
    """A request, as it will be sent."""

    body: bytes
    method: str = "POST"
    path: str = "updates"
    headers: tuple[tuple[str, str], ...] = ()
    status: int = 0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Nobody but those with an invitation. Batches close only by hand: the target is out of reach."""
    world = make_world(
        tmp_path_factory.mktemp("bad"), target=40, most=40, threshold=2, snapshots=50, landings=9, max_age=2
    )
    with running(world, more=["--enrol", "invited"]) as up:
        up.wait_version(0)
        yield up


def invited(site: Site) -> str:
    """A token that lets one device in."""
    token, roll = os.urandom(16).hex(), Records(site.world.coordinator_home).roll()
    roll.invite([token_name(token)], expires_at=2**40, now=0)
    roll.close()
    return token


def signed(site: Site, device: Device, what: str, body: bytes, **changes: object) -> tuple[tuple[str, str], ...]:
    """The headers with which a device posts a body."""
    fields = {
        "caller": device.key.public,
        "to": site.world.coordinator.sig.public,
        "target": f"POST {site.path}/{what}",
        "time_ms": int(time.time() * 1000),
        "nonce": os.urandom(16),
        "body_hash": sha256(body),
    }
    return tuple(sign_call(device.key, Call(**(fields | changes))).items())


def post(site: Site, device: Device, what: str, body: bytes, **changes: object) -> tuple[int, dict[str, str], bytes]:
    headers = dict(signed(site, device, what, body, **changes))
    status, got, data = site.coordinator.request("POST", f"{site.path}/{what}", body, headers)
    return status, dict(got), data


def enrolled(site: Site) -> Device:
    """A device that an invitation has let in."""
    device = Device(site.world)
    body = encode(sign_enrol(device.key, site.world.plan.lineage, invited(site)))
    status, _, data = post(site, device, "enrol", body)
    assert status == 200, decode(ErrorReply, data)
    return device


def update(site: Site, device: Device, **changes: object) -> Upload:
    head = site.wait_version(0)
    upload = device.update(0, site.world.hash_of(head))
    return msgspec.structs.replace(upload, **changes)


def sending(site: Site, device: Device, upload: Upload | bytes, **changes: object) -> Sent:
    body = upload if isinstance(upload, bytes) else encode(upload)
    return Sent(body, headers=signed(site, device, "updates", body, **changes))


COUNTED = {"refusals", "repeated", "lease", "troubles", "alarms"}


def stored(site: Site) -> object:
    """Everything that the coordinator keeps, but for what it counts and who opens."""
    folder = site.world.coordinator_home / "plans" / site.world.plan_id.hex()
    rows = []
    for path in (folder / "store.sqlite", site.world.coordinator_home / "roll.sqlite"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            left = set(names) - COUNTED
            rows += [(name, db.execute(f"SELECT * FROM {name}").fetchall()) for name in sorted(left)]
    kept = (path for path in folder.rglob("*") if path.is_file() and "probe" not in path.parts)
    blobs = sorted(str(path) for path in kept if ".sqlite" not in path.name)
    return rows, blobs


# What is wrong, made for a site and a device that may take part.


def malformed(site: Site, device: Device) -> Sent:
    return sending(site, device, b"no Update at all")


def not_canonical(site: Site, device: Device) -> Sent:
    return sending(site, device, encode(update(site, device)) + b"\0")


def misaligned(site: Site, device: Device) -> Sent:
    """A payload that is not of whole values: not the words of this Plan."""
    return sending(site, device, update(site, device, payload=update(site, device).payload[:-1]))


def oversized_payload(site: Site, device: Device) -> Sent:
    return sending(site, device, update(site, device, payload=update(site, device).payload + b"\0"))


def oversized(site: Site, device: Device) -> Sent:
    return sending(site, device, bytes(site.world.plan.manifest.limits.max_upload_bytes + 1))


def wrongly_signed(site: Site, device: Device) -> Sent:
    return sending(site, device, update(site, device, signature=bytes(64)))


def altered(site: Site, device: Device) -> Sent:
    good = update(site, device)
    return sending(site, device, msgspec.structs.replace(good, payload=bytes(len(good.payload))))


def wrong_plan(site: Site, device: Device) -> Sent:
    return sending(site, device, update(site, device, plan_id=bytes(32)))


def no_such_plan(site: Site, device: Device) -> Sent:
    return Sent(b"", method="GET", path="../" + "00" * 32 + "/head")


def of_another_head(site: Site, device: Device) -> Sent:
    return sending(site, device, update(site, device, head_hash=sha256(b"mine")))


def of_the_future(site: Site, device: Device) -> Sent:
    return sending(site, device, update(site, device, base_version=7))


def credential_of_another(site: Site, device: Device) -> Sent:
    return sending(site, device, update(site, device, credential=site.world.credential(bytes(32))))


def same_id(site: Site, device: Device) -> Sent:
    """Another Update with the id of one that was received."""
    upload = update(site, device)
    assert post(site, device, "updates", encode(upload))[0] == 200
    return sending(site, device, device.update(0, upload.head_hash, update_id=upload.update_id))


def revoked(site: Site, device: Device) -> Sent:
    roll = Records(site.world.coordinator_home).roll()
    roll.revoke([device.upload_key], now=0)
    roll.close()
    return sending(site, device, update(site, device))


def uninvited(site: Site, device: Device) -> Sent:
    """With a credential from days when enrolment was open."""
    stranger = Device(site.world)
    return sending(site, stranger, update(site, stranger))


def used_invitation(site: Site, device: Device) -> Sent:
    token, first, second = invited(site), Device(site.world), Device(site.world)
    lineage = site.world.plan.lineage
    assert post(site, first, "enrol", encode(sign_enrol(first.key, lineage, token)))[0] == 200
    body = encode(sign_enrol(second.key, lineage, token))
    return Sent(body, path="enrol", headers=signed(site, second, "enrol", body))


def for_another_lineage(site: Site, device: Device) -> Sent:
    body = encode(sign_enrol(device.key, Lineage(bytes(32)), invited(site)))
    return Sent(body, path="enrol", headers=signed(site, device, "enrol", body))


def with_anothers_key(site: Site, device: Device) -> Sent:
    enrol = sign_enrol(Device(site.world).key, site.world.plan.lineage)
    body = encode(msgspec.structs.replace(enrol, dpk=device.upload_key))
    return Sent(body, path="enrol", headers=signed(site, device, "enrol", body))


def unsigned_call(site: Site, device: Device) -> Sent:
    return Sent(encode(update(site, device)))


def old_call(site: Site, device: Device) -> Sent:
    return sending(site, device, update(site, device), time_ms=int(time.time() * 1000) - 6 * OF_MINUTES)


def early_call(site: Site, device: Device) -> Sent:
    return sending(site, device, update(site, device), time_ms=int(time.time() * 1000) + 6 * OF_MINUTES)


def call_to_another(site: Site, device: Device) -> Sent:
    return sending(site, device, update(site, device), to=bytes(32))


def call_of_another_body(site: Site, device: Device) -> Sent:
    return sending(site, device, update(site, device), body_hash=sha256(b"another"))


def call_of_another_route(site: Site, device: Device) -> Sent:
    return sending(site, device, update(site, device), target=f"POST {site.path}/enrol")


def sent_by_another(site: Site, device: Device) -> Sent:
    return sending(site, device, update(site, enrolled(site)))


def gzip_bomb(site: Site, device: Device) -> Sent:
    sent = sending(site, device, gzip.compress(bytes(10**6)))
    return Sent(sent.body, headers=(*sent.headers, ("Content-Encoding", "gzip")))


def deflate_bomb(site: Site, device: Device) -> Sent:
    sent = sending(site, device, zlib.compress(bytes(10**6)))
    return Sent(sent.body, headers=(*sent.headers, ("Content-Encoding", "deflate")))


def wrong_type(site: Site, device: Device) -> Sent:
    sent = sending(site, device, update(site, device))
    return Sent(sent.body, headers=(*sent.headers, ("Content-Type", "application/json")))


def wrong_method(site: Site, device: Device) -> Sent:
    return Sent(b"", method="PUT")


def no_such_route(site: Site, device: Device) -> Sent:
    return Sent(b"", method="GET", path="nothing")


def no_update_id(site: Site, device: Device) -> Sent:
    return Sent(b"not sixteen", path="proof")


def long_url(site: Site, device: Device) -> Sent:
    return Sent(b"", method="GET", path="heads/" + "9" * 9000)


BAD: list[tuple[Callable[[Site, Device], Sent], int, Code]] = [
    (malformed, 400, Code.E_MALFORMED),
    (not_canonical, 400, Code.E_MALFORMED),
    (misaligned, 400, Code.E_MALFORMED),
    (oversized_payload, 413, Code.E_TOO_LARGE),
    (oversized, 413, Code.E_TOO_LARGE),
    (wrongly_signed, 403, Code.E_SIG),
    (altered, 403, Code.E_SIG),
    (wrong_plan, 404, Code.E_PLAN),
    (no_such_plan, 404, Code.E_PLAN),
    (of_another_head, 409, Code.E_HEAD),
    (of_the_future, 503, Code.E_VERSION_FUTURE),
    (credential_of_another, 403, Code.E_CRED),
    (same_id, 409, Code.E_DUP_ID),
    (revoked, 403, Code.E_REVOKED),
    (uninvited, 403, Code.E_CRED),
    (used_invitation, 403, Code.E_CRED),
    (for_another_lineage, 403, Code.E_CRED),
    (with_anothers_key, 403, Code.E_SIG),
    (unsigned_call, 401, Code.E_SIG),
    (old_call, 401, Code.E_SIG),
    (early_call, 401, Code.E_SIG),
    (call_to_another, 401, Code.E_SIG),
    (call_of_another_body, 401, Code.E_SIG),
    (call_of_another_route, 401, Code.E_SIG),
    (sent_by_another, 401, Code.E_SIG),
    (gzip_bomb, 415, Code.E_MALFORMED),
    (deflate_bomb, 415, Code.E_MALFORMED),
    (wrong_type, 415, Code.E_MALFORMED),
    (wrong_method, 405, Code.E_ROUTE),
    (no_such_route, 404, Code.E_ROUTE),
    (no_update_id, 400, Code.E_MALFORMED),
    (long_url, 414, Code.E_TOO_LARGE),
]
# About no Plan, so not counted with one.
OF_NO_PLAN = {wrong_method, no_such_route, no_such_plan, long_url}


@pytest.mark.parametrize(("wrong", "status", "code"), BAD, ids=[wrong.__name__ for wrong, _, _ in BAD])
def test_bad_input_gets_a_typed_error_and_leaves_nothing_behind(
    site: Site, wrong: Callable[[Site, Device], Sent], status: int, code: Code
):
    sent = wrong(site, enrolled(site))
    before, counted = stored(site), site.status()["updates"]["refused"].get(code, 0)
    path = f"{site.path}/{sent.path}" if not sent.path.startswith("../") else f"/v1/plans/{sent.path[3:]}"

    got, headers, data = site.coordinator.request(sent.method, path, sent.body, dict(sent.headers))

    reply = decode(ErrorReply, data)
    assert (got, reply.code) == (status, code), reply.reason
    assert len(reply.reason) > 10
    assert headers["content-type"] == "application/msgpack"
    assert (reply.retry_after is not None) == code.retryable == ("retry-after" in headers)
    assert stored(site) == before
    if wrong not in OF_NO_PLAN:
        wait_for(lambda: site.status()["updates"]["refused"].get(code, 0) == counted + 1, "the refusal is counted")


def test_the_same_request_again_changes_nothing_and_gets_the_same_answer(site: Site):
    """A replay is harmless, so no nonce is kept: a Receipt for an Update that is there, a Credential for its key."""
    device, token = Device(site.world), invited(site)
    enrol = encode(sign_enrol(device.key, site.world.plan.lineage, token))
    enrolling = dict(signed(site, device, "enrol", enrol))
    first = site.coordinator.request("POST", f"{site.path}/enrol", enrol, enrolling)
    head = site.wait_version(0)
    upload = encode(device.update(0, site.world.hash_of(head), credential=decode(Credential, first[2])))
    sending_it = dict(signed(site, device, "updates", upload))
    receipt = site.coordinator.request("POST", f"{site.path}/updates", upload, sending_it)
    assert (first[0], receipt[0]) == (200, 200)
    before = stored(site)

    again = [
        site.coordinator.request("POST", f"{site.path}/enrol", enrol, enrolling),
        site.coordinator.request("POST", f"{site.path}/updates", upload, sending_it),
    ]

    assert [one[2] for one in again] == [first[2], receipt[2]]
    decode(Receipt, again[1][2])
    assert stored(site) == before


def test_what_waits_of_a_revoked_device_leaves_before_the_next_batch_closes_and_what_is_too_old_stays_out(tmp_path):
    with running(make_world(tmp_path, target=3, threshold=2, landings=9, max_age=0), more=["--enrol", "invited"]) as up:
        up.wait_version(0)
        devices = [enrolled(up) for _ in range(5)]
        uploads = [update(up, device) for device in devices]
        for device, upload in zip(devices[:2], uploads, strict=False):
            assert post(up, device, "updates", encode(upload))[0] == 200
        roll = Records(up.world.coordinator_home).roll()
        roll.revoke([devices[0].upload_key], now=0)
        roll.close()

        for device, upload in zip(devices[2:4], uploads[2:4], strict=True):
            assert post(up, device, "updates", encode(upload))[0] == 200
        up.wait_version(1)

        assert sorted(up.opened_ids()[0][1]) == sorted(one.update_id.hex() for one in uploads[1:4])
        proof = up.coordinator.post(f"{up.path}/proof", uploads[0].update_id, Proof)
        assert proof.outcome == "refused"
        assert up.status()["updates"]["refused"] == {"E_REVOKED": 1}
        wait_for(lambda: up.status()["batch"]["state"] == "collecting", "the next batch")
        before = stored(up)
        status, _, data = post(up, devices[4], "updates", encode(uploads[4]))
        assert (status, decode(ErrorReply, data).code, stored(up)) == (409, Code.E_STALE, before)


def test_one_device_sends_no_more_often_than_its_share(site: Site):
    device = enrolled(site)
    statuses = [post(site, device, "updates", b"no Update")[0] for _ in range(40)]

    assert statuses[0] == 400
    assert statuses[-1] == 429
    assert post(site, enrolled(site), "updates", b"no Update")[0] == 400  # nobody else's is used up
