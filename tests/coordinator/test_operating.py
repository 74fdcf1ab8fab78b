"""Operators: who is let in, and what pausing and draining do to a Plan that is served."""

import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.coordinator.desk import Desk
from tacit.coordinator.operators import MOST_FAILURES, Role
from tacit.coordinator.orders import COME_AGAIN_S
from tacit.coordinator.records import Records
from tacit.wire.codes import Code
from tacit.wire.messages import ErrorReply, decode, encode
from tests.factory import Device, Process, Site, World, make_world, running, wait_for


def desk_of(world: World) -> Desk:
    return Desk(Records(world.coordinator_home), world.coordinator)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running(make_world(tmp_path, target=6, threshold=3)) as up:
        up.wait_version(0)
        yield up


def token(site: Site, role: Role, days: int = 1) -> str:
    return desk_of(site.world).make_token(f"the {role}", role, days).token


def asked(process: Process, method: str, path: str, shown: str | None = None) -> tuple[int, dict | list]:
    headers = {} if shown is None else {"Authorization": f"Bearer {shown}"}
    status, _, data = process.request(method, f"/v1/admin/{path}", headers=headers)
    return status, json.loads(data)


def sent(site: Site, count: int) -> None:
    head = site.head()
    for _ in range(count):
        site.send(Device(site.world).update(head.version, site.world.hash_of(head)))


def test_a_role_may_do_what_it_says_and_nobody_else_may_anything(site: Site):
    shown = {role: token(site, role) for role in Role}
    least = {
        ("GET", "status"): Role.VIEWER,
        ("POST", "pause"): Role.OPERATOR,
        ("POST", "resume"): Role.OPERATOR,
        ("GET", "tokens"): Role.OWNER,
        ("POST", "tokens?name=a&role=viewer&days=1"): Role.OWNER,
    }

    for (method, path), needed in least.items():
        assert asked(site.coordinator, method, path)[0] == 401
        for role in Role:
            expected = 200 if role.covers(needed) else 403
            assert asked(site.coordinator, method, path, shown[role])[0] == expected, (path, role)


def test_only_a_digest_of_a_token_is_kept_and_a_token_that_was_taken_back_opens_nothing(site: Site):
    mine = token(site, Role.OWNER)
    status, made = asked(site.coordinator, "POST", "tokens?name=the%20night%20shift&role=viewer&days=9", mine)
    assert status == 200
    theirs = made["token"]

    kept = b"".join(path.read_bytes() for path in site.world.coordinator_home.rglob("operators.sqlite*"))
    assert theirs.encode() not in kept
    assert asked(site.coordinator, "GET", "status", theirs)[0] == 200
    _, listed = asked(site.coordinator, "GET", "tokens", mine)
    [digest] = [one["digest"] for one in listed if one["name"] == "the night shift"]
    assert theirs not in json.dumps(listed)
    assert asked(site.coordinator, "DELETE", f"tokens/{digest}", mine)[0] == 200
    assert asked(site.coordinator, "GET", "status", theirs)[0] == 401


def test_a_token_ends_with_its_days(tmp_path: Path):
    world = make_world(tmp_path)
    now = [time.time() - 2 * 86400]
    old = Desk(Records(world.coordinator_home), world.coordinator, clock=lambda: now[0])
    late, due = old.make_token("late", Role.OWNER, 1).token, old.make_token("due", Role.OWNER, 3).token

    with running(world) as site:
        status, said = asked(site.coordinator, "GET", "status", late)

        assert status == 401
        assert "the time of 'late' is over" in str(said)
        assert asked(site.coordinator, "GET", "status", due)[0] == 200


def test_who_fails_too_often_is_asked_to_wait_and_whoever_has_a_token_is_not(site: Site):
    mine = token(site, Role.VIEWER)

    said = [asked(site.coordinator, "GET", "status", f"tacit-{number}")[0] for number in range(3 * MOST_FAILURES)]

    assert said[: MOST_FAILURES // 2] == [401] * (MOST_FAILURES // 2)
    assert 429 in said  # at the latest in the second minute, if one has just begun
    assert asked(site.coordinator, "GET", "status", mine)[0] == 200
    lines = site.coordinator.log_path.read_text().count("turned away")
    assert MOST_FAILURES <= lines <= 2 * MOST_FAILURES


def test_while_it_is_paused_updates_are_refused_for_now_and_what_was_closed_is_finished(site: Site):
    mine, world = token(site, Role.OPERATOR), site.world
    site.keyholders[0].kill()
    head = site.head()
    uploads = [Device(world).update(0, world.hash_of(head)) for _ in range(10)]
    for upload in uploads[:9]:
        site.send(upload)
    wait_for(lambda: site.status()["batch"]["state"] != "collecting", "a batch is closed")

    assert asked(site.coordinator, "POST", "pause", mine)[0] == 200
    status, headers, data = site.coordinator.request("POST", f"{site.path}/updates", encode(uploads[9]))
    site.keyholders[0].start()
    site.wait_version(1)
    wait_for(lambda: at_rest(site, mine), "it is at rest")

    assert (status, decode(ErrorReply, data).code) == (429, Code.E_RATE)
    assert COME_AGAIN_S <= int(headers["retry-after"]) < 2 * COME_AGAIN_S
    assert site.status()["updates"] | {"refused": {}} == {
        "accepted": 9,
        "queued": 3,
        "opened": 6,
        "expired": 0,
        "spoilt": 0,
        "abandoned": 0,
        "repeated": 0,
        "refused": {},
    }
    assert site.head().version == 1
    site.coordinator.kill()
    site.coordinator.start()
    assert at_rest(site, mine)
    assert asked(site.coordinator, "POST", f"resume?plan={world.plan_id.hex()[:6]}", mine)[0] == 200
    site.send(uploads[9])
    assert asked(site.coordinator, "POST", "resume?plan=zz", mine)[0] == 400


def at_rest(site: Site, shown: str) -> bool:
    _, [plan] = asked(site.coordinator, "GET", "status", shown)
    assert (plan["going"], plan["who"]) == ("paused", "the operator")
    return plan["at_rest"]


def test_draining_opens_what_is_enough_for_a_batch_and_then_it_is_at_rest(site: Site):
    """Four wait for two more: they are a batch because it drains."""
    mine = token(site, Role.OPERATOR)
    sent(site, 4)

    asked(site.coordinator, "POST", "drain", mine)
    site.wait_version(1)
    wait_for(lambda: asked(site.coordinator, "GET", "status", mine)[1][0]["at_rest"], "it is drained")

    assert [len(ids) for _, ids in site.opened_ids()] == [4]
    assert site.status()["batch"]["state"] == "collecting"
    assert asked(site.coordinator, "GET", "status", mine)[1][0]["going"] == "paused"


def test_what_is_too_little_for_a_batch_waits_through_a_drain(site: Site):
    mine = token(site, Role.OPERATOR)
    sent(site, 2)

    asked(site.coordinator, "POST", "drain", mine)
    wait_for(lambda: asked(site.coordinator, "GET", "status", mine)[1][0]["at_rest"], "it is drained")
    asked(site.coordinator, "POST", "resume", mine)
    sent(site, 4)

    site.wait_version(1)
    assert [len(ids) for _, ids in site.opened_ids()] == [6]


# An address of their own, and certificates


def certificates(folder: Path) -> None:
    """An authority, a server's certificate of it, a client's, and a client's of somebody else."""

    def run(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1")
    for name in ("ca", "stranger"):
        run("req", "-x509", *curve, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client", "other"):
        run("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "san", "-days", "1")
        run("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)


def over_tls(port: int, folder: Path, client: str | None, path: str) -> int:
    import http.client

    context = ssl.create_default_context(cafile=folder / "ca.pem")
    if client is not None:
        context.load_cert_chain(folder / f"{client}.pem", folder / f"{client}.key")
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_operators_may_have_an_address_of_their_own_for_certificates_that_are_known(tmp_path: Path):
    world = make_world(tmp_path)
    certificates(tmp_path)
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "client.pem").read_text())
    desk_of(world).add_certificate(der, "the client", Role.VIEWER, 1)
    arguments = ["--home", str(world.coordinator_home), "--plan", str(world.plan_file), "--admin-port", "0"]
    arguments += ["--admin-tls", str(tmp_path / "server.pem"), str(tmp_path / "server.key")]
    arguments += ["--admin-ca", str(tmp_path / "ca.pem")]
    process = Process("tacit.coordinator", arguments, tmp_path / "coordinator.log").start()
    try:
        port = process.said["admin_port"]

        assert over_tls(port, tmp_path, "client", "/v1/admin/status") == 200
        assert over_tls(port, tmp_path, "client", "/v1/admin/tokens") == 403
        assert over_tls(port, tmp_path, "other", "/v1/admin/status") == 401
        assert over_tls(port, tmp_path, "client", "/healthz") == 404
        for nobody in (None, "stranger"):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                over_tls(port, tmp_path, nobody, "/v1/admin/status")
        assert process.request("GET", "/v1/admin/status")[0] == 404
        assert process.request("GET", "/healthz")[0] == 200
    finally:
        assert process.stop() == 0
