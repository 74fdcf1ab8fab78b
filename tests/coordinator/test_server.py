"""The coordinator's routes, by HTTP, from its process, with a real keyholder behind it."""

import concurrent.futures
import html
import json
import os
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tacit.cli import main
from tacit.codec.errors import CodecError
from tacit.coordinator import __main__ as process
from tacit.coordinator.arriving import places
from tacit.coordinator.status import promise
from tacit.plan.bundle import Plan, PlanRefused
from tacit.wire.codes import Code
from tacit.wire.ids import DeviceKey, KeyId, Lineage, sha256
from tacit.wire.log import verify_chain
from tacit.wire.messages import (
    Credential,
    ErrorReply,
    Head,
    LogEntry,
    LoggedOpened,
    LogKind,
    Proof,
    Upload,
    decode,
    encode,
    update_hash,
)
from tacit.wire.signed import check_credential, check_head, check_proof, check_receipt, sign_enrol
from tests.factory import (
    BLT,
    Device,
    Refused,
    Site,
    coordinator_process,
    keyholder_process,
    make_world,
    next_snapshot,
    refusal_code,
    running,
    wait_for,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A Plan with much room: tests leave Updates waiting in it, and none depends on how many."""
    world = make_world(
        tmp_path_factory.mktemp("site"), target=40, most=40, threshold=2, snapshots=50, landings=3, max_age=2
    )
    with running(world) as up:
        up.wait_version(0)
        yield up


def small(folder: Path, deadline_s: int = 600, **rules: Any):
    """A site of its own, for what changes the state of a Plan."""
    return running(make_world(folder, **rules), deadline_s)


def update(site: Site, device: Device | None = None, version: int = 0, **changes: Any) -> Upload:
    head = site.wait_version(version)
    device = Device(site.world) if device is None else device
    return device.update(version, site.world.hash_of(head), **changes)


def entries_of_log(site: Site) -> list[LogEntry]:
    lines = site.coordinator.get(f"{site.path}/log").splitlines()
    return [msgspec.json.decode(line, type=LogEntry) for line in lines]


def proof_of(site: Site, update_id: bytes) -> Proof:
    return site.coordinator.post(f"{site.path}/proof", update_id, Proof)


# Reading


def test_the_plan_is_served_whole_in_ranges_and_for_ever(site: Site):
    whole = site.coordinator.request("GET", site.path)
    part = site.coordinator.request("GET", site.path, headers={"Range": "bytes=8-15"})
    again = site.coordinator.request("GET", site.path, headers={"If-None-Match": whole[1]["etag"]})

    assert whole[0] == 200
    assert whole[2] == bytes(site.world.plan.raw)
    assert whole[1]["cache-control"] == "public, max-age=31536000, immutable"
    assert (part[0], part[2]) == (206, whole[2][8:16])
    assert again[0] == 304


def test_the_plan_is_served_packed_to_who_takes_it(site: Site):
    takes = {"Accept-Encoding": "br, gzip;q=0.5"}
    plain = site.coordinator.request("GET", site.path)
    status, headers, data = site.coordinator.request("GET", site.path, headers=takes)
    again = site.coordinator.request("GET", site.path, headers={**takes, "If-None-Match": headers["etag"]})
    part = site.coordinator.request("GET", site.path, headers={**takes, "Range": "bytes=8-15"})
    never = site.coordinator.request("GET", site.path, headers={"Accept-Encoding": "gzip;q=0"})

    raw = bytes(site.world.plan.raw)
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert zlib.decompress(data, 31) == raw
    assert len(data) == site.world.plan.delivered_bytes < len(raw)
    assert headers["vary"] == plain[1]["vary"] == "Accept-Encoding"
    assert headers["etag"] != plain[1]["etag"]  # two bodies, two tags
    assert again[0] == 304
    assert (part[0], part[2]) == (206, raw[8:16])
    assert "content-encoding" not in part[1]
    assert never[2] == plain[2] == raw


def test_a_head_carries_a_tag_and_the_signatures_of_all_keyholders(site: Site):
    status, headers, data = site.coordinator.request("GET", f"{site.path}/head")
    again = site.coordinator.request("GET", f"{site.path}/head", headers={"If-None-Match": headers["etag"]})

    cards = [(KeyId(card.key_id), card.sig_pk) for card in site.world.plan.manifest.keyholders]
    assert status == 200
    assert headers["cache-control"] == "no-cache"
    check_head(decode(Head, data), cards)
    assert (again[0], again[2]) == (304, b"")


def test_snapshot_zero_is_what_the_plan_was_published_with(site: Site):
    head = site.wait_version(0)

    assert site.snapshot(head) == site.world.plan.initial_snapshot


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/snapshots/" + "00" * 32, Code.E_HEAD),
        ("/snapshots/..%2f..%2fcoordinator.key", Code.E_ROUTE),
        ("/snapshots", Code.E_ROUTE),
        ("/", Code.E_ROUTE),
        ("/snapshots/no-hex", Code.E_HEAD),
        ("/heads/9", Code.E_VERSION_FUTURE),
        ("/heads/99999999999999999999999", Code.E_MALFORMED),
        ("/heads/" + "9" * 5000, Code.E_MALFORMED),
        ("/heads/%C2%B2", Code.E_MALFORMED),
        ("/heads/-1", Code.E_MALFORMED),
        ("/log?after=x", Code.E_MALFORMED),
        ("/log?after=%C2%B2", Code.E_MALFORMED),
        ("/log?after=" + "9" * 5000, Code.E_MALFORMED),
    ],
)
def test_what_does_not_exist_is_refused(site: Site, path: str, code: Code):
    _, headers, _ = site.coordinator.request("GET", site.path + path)

    assert refusal_code(lambda: site.coordinator.get(site.path + path)) is code
    assert headers["x-content-type-options"] == "nosniff"


def test_another_plan_is_not_served(site: Site):
    other = "/v1/plans/" + "00" * 32

    for path in (other, f"{other}/head", f"{other}/status", f"{other}/log", "/join/" + "00" * 32):
        assert refusal_code(lambda path=path: site.coordinator.get(path)) is Code.E_PLAN


# Enrolment


def test_whoever_holds_a_device_key_is_enrolled(site: Site):
    device = Device(site.world)
    lineage = Lineage(site.world.plan_id)

    credential = site.coordinator.post(f"{site.path}/enrol", sign_enrol(device.key, lineage), Credential)

    hour = site.world.plan.manifest.limits.expires_at // 3600
    check_credential(credential, device.upload_key, site.world.plan.manifest.enrolment, lineage=lineage, hour=hour)
    site.send(update(site, device, credential=credential))


def test_nobody_is_enrolled_for_another_lineage_or_with_anothers_key(site: Site):
    device = Device(site.world)
    elsewhere = sign_enrol(device.key, Lineage(bytes(32)))
    forged = msgspec.structs.replace(
        sign_enrol(device.key, Lineage(site.world.plan_id)), dpk=DeviceKey(Device(site.world).key.public)
    )

    assert refusal_code(lambda: site.coordinator.post(f"{site.path}/enrol", elsewhere, Credential)) is Code.E_CRED
    assert refusal_code(lambda: site.coordinator.post(f"{site.path}/enrol", forged, Credential)) is Code.E_SIG


# Updates


def test_a_receipt_names_the_update_and_a_duplicate_gets_the_same(site: Site):
    upload = update(site)

    receipt = site.send(upload)

    check_receipt(receipt, update_hash(upload), site.world.coordinator.sig.public)
    assert site.send(upload) == receipt
    other = update(site, update_id=upload.update_id)
    assert refusal_code(lambda: site.send(other)) is Code.E_DUP_ID


def test_what_is_refused_is_counted_by_its_code(site: Site):
    good = update(site)
    hour = site.world.credential(bytes(32)).expires_hour
    replace = msgspec.structs.replace
    bad = [
        (b"no Upload", Code.E_MALFORMED),
        (encode(good) + b"\0", Code.E_MALFORMED),
        (bytes(5000), Code.E_TOO_LARGE),
        (encode(replace(good, plan_id=bytes(32))), Code.E_PLAN),
        (encode(replace(good, sealed=good.sealed * 2)), Code.E_PLAN),
        (encode(replace(good, base_version=40)), Code.E_VERSION_FUTURE),
        (encode(replace(good, head_hash=sha256(b"mine"))), Code.E_HEAD),
        (encode(replace(good, payload=good.payload + b"\0")), Code.E_TOO_LARGE),
        (encode(replace(good, payload=good.payload[:-1])), Code.E_MALFORMED),
        (encode(replace(good, credential=replace(good.credential, expires_hour=hour + 1))), Code.E_CRED),
        (encode(replace(good, dpk=Device(site.world).upload_key)), Code.E_CRED),
        (encode(replace(good, signature=bytes(64))), Code.E_SIG),
        (encode(replace(good, payload=bytes(len(good.payload)))), Code.E_SIG),
        (encode(replace(good, sealed=(bytes(80),))), Code.E_SIG),
    ]
    before = site.status()["updates"]["refused"]

    codes = [refusal_code(lambda body=body: site.send(body)) for body, _ in bad]

    assert codes == [code for _, code in bad]
    expected = {code: codes.count(code) + before.get(code, 0) for code in set(codes)}
    wait_for(lambda: site.status()["updates"]["refused"].items() >= expected.items(), "the refusals are counted")


def test_a_version_from_the_future_may_be_tried_again(site: Site):
    with pytest.raises(Refused) as caught:
        site.send(msgspec.structs.replace(update(site), base_version=40))

    assert caught.value.reply.retry_after == 1
    assert caught.value.reply.refusal().retryable


def test_a_device_sends_no_more_than_it_may(site: Site):
    device = Device(site.world)
    for _ in range(3):
        site.send(update(site, device))

    assert refusal_code(lambda: site.send(update(site, device))) is Code.E_PARTICIPATION


def test_who_comes_while_too_many_are_sending_is_asked_to_come_again(site: Site):
    upload = encode(update(site))
    head = f"POST {site.path}/updates HTTP/1.1\r\nHost: x\r\nContent-Length: {len(upload)}\r\n\r\n".encode()
    slow = [socket.create_connection(("127.0.0.1", site.coordinator.port)) for _ in range(places(4096))]

    for connection in slow:
        connection.sendall(head + upload[:10])
    wait_for(lambda: refused_for_now(site), "the server is full")
    for connection in slow:
        connection.close()

    wait_for(lambda: site.send(upload) is not None if not refused_for_now(site) else False, "there is room again")


def refused_for_now(site: Site) -> bool:
    try:
        site.send(b"no Upload")
    except Refused as refused:
        return refused.code is Code.E_RATE and refused.reply.retry_after == 1 and refused.status == 429
    return False


@pytest.mark.usefixtures("place")
def test_many_at_once_are_all_received_and_their_sums_are_exact(tmp_path: Path):
    with small(tmp_path, target=16, most=16, threshold=16) as site:
        site.wait_version(0)
        devices = [Device(site.world) for _ in range(48)]
        uploads = [update(site, device) for device in devices]
        by_id = {upload.update_id.hex(): device for upload, device in zip(uploads, devices, strict=True)}

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            receipts = list(pool.map(site.send, uploads))
        head = site.wait_version(3)

        assert {receipt.update_hash for receipt in receipts} == {update_hash(upload) for upload in uploads}
        opened = site.opened_ids()
        assert sorted(one for _, ids in opened for one in ids) == sorted(by_id)
        expected = site.world.plan.initial_snapshot
        for _, ids in opened:
            total = np.sum([by_id[one].integers() for one in ids], axis=0)
            expected = next_snapshot(site.world, expected, total, 16)
        assert site.snapshot(head) == expected
        status = site.status()
        assert status["updates"] == {
            "accepted": 48,
            "queued": 0,
            "opened": 48,
            "expired": 0,
            "spoilt": 0,
            "refused": {},
            "repeated": 0,
            "abandoned": 0,
        }


def test_an_update_that_a_keyholder_rejects_leaves_the_batch(tmp_path: Path):
    with small(tmp_path, target=4, threshold=3) as site:
        site.wait_version(0)
        card = site.world.plan.manifest.keyholders[0]
        wrong = [msgspec.structs.replace(card, key_id=bytes(16))]
        bad, good = update(site, cards=wrong), [update(site) for _ in range(3)]
        for upload in (bad, *good):
            site.send(upload)

        site.wait_version(1)
        status, log = site.status(), entries_of_log(site)

        assert status["updates"]["refused"] == {"E_UNSEAL": 1}
        assert status["updates"]["opened"] == 3
        public = site.world.coordinator.sig.public
        check_proof(proof_of(site, bad.update_id), public, update=update_hash(bad))
        assert proof_of(site, bad.update_id).outcome == "refused"
        verify_chain(log, public)
        opened = [decode(LoggedOpened, entry.body) for entry in log if entry.kind is LogKind.OPENED]
        assert [(one.t, one.count) for one in opened] == [(0, 3)]
        proof = proof_of(site, good[0].update_id)
        assert (proof.outcome, proof.t) == ("opened", 0)
        check_proof(proof, public, update=update_hash(good[0]), root=opened[0].root)
        assert proof_of(site, bytes(16)).outcome == "unknown"


def test_a_batch_closes_at_its_deadline_once_the_threshold_is_met(tmp_path: Path):
    with small(tmp_path, deadline_s=1, target=8, threshold=3) as site:
        site.wait_version(0)
        site.send(update(site))
        site.send(update(site))
        closes_at = site.status()["batch"]["closes_at"]
        wait_for(lambda: site.status()["batch"]["closes_at"] == closes_at, "the batch stands")
        assert site.status()["version"] == 0
        site.send(update(site))

        site.wait_version(1)

        assert [len(ids) for _, ids in site.opened_ids()] == [3]


def test_the_plan_ends_with_its_budget_and_says_so(tmp_path: Path):
    with small(tmp_path, target=3, snapshots=1, landings=1, sigma=2.0) as site:
        site.wait_version(0)
        device = Device(site.world)
        first = update(site, device)
        for upload in (first, update(site), update(site)):
            receipt = site.send(upload)

        head = site.wait_version(1)
        wait_for(lambda: site.status()["ended"] is not None, "the Plan ends")
        status = site.status()

        assert status["ended_code"] == "E_BUDGET"
        assert status["ended"] == "the last of its 1 batches has been opened"
        assert status["version"] == 1
        assert status["privacy"]["epsilon"] == pytest.approx(2.49, abs=0.01)
        assert status["privacy"]["trust"] == "single-operator"
        assert status["privacy"]["sentence"].startswith("Spent so far, by the device that landed most often: ε = 2.5")
        assert refusal_code(lambda: site.send(update(site, version=1))) is Code.E_BUDGET
        assert site.send(upload) == receipt
        assert site.head() == head
        cards = site.world.keyholder_home() / "cards"
        wait_for(lambda: list(cards.iterdir()) == [], "the card's key is erased")
        assert [entry.kind for entry in entries_of_log(site)][-1] is LogKind.HALT
        assert list((site.world.coordinator_home / "plans" / site.world.plan_id.hex() / "updates").iterdir()) == []


def test_an_update_from_too_old_a_snapshot_is_stale_and_one_that_waited_too_long_expires(tmp_path: Path):
    """Two batches may take them and the keyholder is away: of seven Updates the last waits for a third."""
    with small(tmp_path, target=3, max_age=1) as site:
        site.wait_version(0)
        site.keyholders[0].kill()
        uploads, late = [update(site) for _ in range(7)], update(site)
        for upload in uploads:
            site.send(upload)
        site.keyholders[0].start()

        site.wait_version(2)
        wait_for(lambda: site.status()["updates"]["expired"] == 1, "the seventh expires")

        assert refusal_code(lambda: site.send(late)) is Code.E_STALE
        assert proof_of(site, uploads[6].update_id).outcome == "expired"


def test_a_full_queue_asks_to_come_again_and_knows_what_it_has(tmp_path: Path):
    with small(tmp_path, target=3, most=3, max_age=1) as site:
        site.wait_version(0)
        site.keyholders[0].kill()
        uploads = [update(site) for _ in range(10)]
        receipts = [site.send(upload) for upload in uploads[:3]]
        wait_for(lambda: site.status()["batch"]["state"] != "collecting", "the first three are in a batch")
        receipts += [site.send(upload) for upload in uploads[3:9]]

        status, headers, data = site.coordinator.request("POST", f"{site.path}/updates", encode(uploads[9]))

        assert (status, decode(ErrorReply, data).code) == (429, Code.E_RATE)
        assert headers["retry-after"] == str(decode(ErrorReply, data).retry_after)
        assert 1 <= int(headers["retry-after"]) <= 60
        assert [site.send(upload) for upload in uploads[:9]] == receipts
        site.keyholders[0].start()
        site.wait_version(2)
        site.send(update(site, version=2))


def test_a_body_is_never_longer_than_an_upload_whatever_the_plan_says(tmp_path: Path):
    with small(tmp_path, max_upload_bytes=2**40) as site:
        site.wait_version(0)
        head = f"POST {site.path}/updates HTTP/1.1\r\nHost: x\r\nContent-Length: {Upload.max_bytes + 1}\r\n\r\n"

        with socket.create_connection(("127.0.0.1", site.coordinator.port)) as connection:
            connection.settimeout(30)
            connection.sendall(head.encode())
            answer = connection.recv(100)

        assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_coordinator_waits_for_its_keyholder_and_loses_nothing(tmp_path: Path):
    world = make_world(tmp_path, target=3)
    keyholder = keyholder_process(world).start()
    coordinator = coordinator_process(world, [keyholder]).start()
    site = Site(world, coordinator, [keyholder])
    try:
        site.wait_version(0)
        keyholder.kill()
        uploads = [update(site) for _ in range(3)]
        receipts = [site.send(upload) for upload in uploads]
        wait_for(lambda: site.status()["keyholders"][0]["trouble"] is not None, "the trouble is said")
        assert "does not answer" in site.status()["keyholders"][0]["trouble"]
        assert site.status()["batch"]["state"] in ("closed", "agreed")

        keyholder.start()
        site.wait_version(1)

        assert [site.send(upload) for upload in uploads] == receipts
        wait_for(lambda: site.status()["keyholders"][0]["trouble"] is None, "the trouble is over")
    finally:
        coordinator.stop()
        keyholder.stop()


def test_training_waits_for_a_keyholder_that_lost_its_home_and_goes_on_once_it_is_re_keyed_by_command(tmp_path: Path):
    """The second of two, as processes; all that is left of it is its identity."""
    with small(tmp_path, keyholders=2, mechanism=BLT, target=3) as site:
        site.wait_version(0)
        home, process, plan_id = site.world.keyholder_home(2), site.keyholders[1], site.world.plan_id.hex()
        process.kill()
        for path in [*home.glob("*.sqlite*"), *home.glob("cards/*"), *home.glob("plans/*")]:
            path.unlink()
        process.start()
        lost = [update(site) for _ in range(3)]
        for upload in lost:
            site.send(upload)
        wait_for(lambda: site.status()["keyholders"][1]["trouble"] is not None, "the trouble is said")
        wait_for(lambda: f"rekey {plan_id}" in str(site.status()["keyholders"][1]["trouble"]), "what to do is said")
        assert json.loads(process.get("/v1/status"))["plans"][0]["state"] == "halted"
        assert site.status()["ended"] is None

        assert main(["keyholder", "rekey", plan_id[:8], "--home", str(home)]) == 0
        head = site.wait_version(2)

        devices = [Device(site.world) for _ in range(3)]
        for device in devices:
            site.send(device.update(2, site.world.hash_of(head), rekeyed=head.rekeyed))
        after = site.wait_version(3)
        total = np.sum([device.integers() for device in devices], axis=0)
        assert site.snapshot(after) == next_snapshot(site.world, site.world.plan.initial_snapshot, total, 3)
        assert [(t, len(ids)) for t, ids in site.opened_ids(2)] == [(2, 3)]
        assert not {one.update_id.hex() for one in lost} & set(site.opened_ids(2)[0][1])
        assert [entry.kind for entry in entries_of_log(site)].count(LogKind.REKEYED) == 1


def test_two_coordinators_on_one_home_open_every_batch_once(tmp_path: Path):
    with small(tmp_path, target=3, snapshots=3) as site:
        second = coordinator_process(site.world, site.keyholders).start()
        twin = Site(site.world, second, site.keyholders)
        try:
            site.wait_version(0)
            for version in range(2):
                for sender in (site, twin, site):
                    sender.send(update(site, version=version))
                site.wait_version(version + 1)
            site.coordinator.kill()
            for _ in range(3):
                twin.send(update(twin, version=2))
            twin.wait_version(3)
            assert [len(ids) for _, ids in site.opened_ids()] == [3, 3, 3]
        finally:
            second.stop()
            site.coordinator.start()


# People


def test_the_join_page_shows_the_command_and_escapes_what_it_was_given(site: Site):
    author = site.world.author.public.hex()
    status, headers, data = site.coordinator.request("GET", f"/join/{site.world.plan_id.hex()}?author={author}")
    page = data.decode()

    assert status == 200
    link = f"http://127.0.0.1:{site.coordinator.port}/join/{site.world.plan_id.hex()}?author={author}"
    assert f"tacit join &#x27;{link}&#x27; --data FOLDER" in page
    assert "to test &lt;sums&gt; &amp; nothing else" in page
    assert "integers &lt;1..9&gt;" in page
    assert "whoever runs this server can unmask individual updates" in page
    assert "Enrolment is open" in page
    assert "2 Updates are 2 enrolments" in page
    assert "only the noise protects you" in page
    said = html.escape(promise(site.world.plan).sentence)
    assert f"Over the Plan's whole life, at most: {said}" in page
    assert "<script" not in page
    assert headers["content-security-policy"].startswith("default-src 'none'; base-uri 'none'")
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("author", ["", "<script>alert(1)</script>", "00" * 32])
def test_the_join_page_gives_no_command_for_a_wrong_link(site: Site, author: str):
    query = "" if not author else f"?author={author.replace('<', '%3C').replace('>', '%3E')}"
    _, _, data = site.coordinator.request("GET", f"/join/{site.world.plan_id.hex()}{query}")

    assert b"tacit join" not in data
    assert b"<script" not in data
    assert b'class="warning"' in data


def test_a_host_that_is_no_host_is_not_shown(site: Site):
    path = f"/join/{site.world.plan_id.hex()}?author={site.world.author.public.hex()}"
    _, _, data = site.coordinator.request("GET", path, headers={"Host": "x'; rm -rf ~ #"})

    assert b"rm -rf" not in data
    assert b"tacit join" not in data


def test_health_is_one_word(site: Site):
    assert site.coordinator.request("GET", "/healthz")[2] == b"ok\n"
    assert site.keyholders[0].request("GET", "/healthz")[2] == b"ok\n"


# The process


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=30)


def test_a_plan_of_another_coordinator_is_refused_in_one_sentence(tmp_path: Path):
    world = make_world(tmp_path)

    ended = run("tacit.coordinator", "--home", str(tmp_path / "other"), "--plan", str(world.plan_file), "--port", "0")

    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert "compile the Task with this home's keys" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("kind", [CodecError, ValueError, OverflowError, ZeroDivisionError])
def test_a_plan_with_numbers_that_nobody_foresaw_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
):
    world = make_world(tmp_path)
    words = ["--home", str(world.coordinator_home), "--plan", str(world.plan_file)]

    def read(path: Path) -> Plan:
        raise kind("a number")

    monkeypatch.setattr(process, "read_plan", read)

    with pytest.raises(PlanRefused, match="a number"):
        process.coordinators_of(process.parse(words))


def test_a_key_that_others_can_read_is_refused(tmp_path: Path):
    world = make_world(tmp_path)
    os.chmod(world.coordinator_home / "coordinator.key", 0o644)

    ended = run(
        "tacit.coordinator", "--home", str(world.coordinator_home), "--plan", str(world.plan_file), "--port", "0"
    )

    assert ended.returncode == 2
    assert "chmod 600" in ended.stderr


def test_an_author_who_is_no_key_is_refused(tmp_path: Path):
    ended = run("tacit.keyholder", "--home", str(tmp_path), "--approve-author", "me")

    assert ended.returncode == 2
    assert "64 hex digits" in ended.stderr


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_both_programs_say_when_they_listen_and_end_cleanly(tmp_path: Path, how: signal.Signals):
    world = make_world(tmp_path)
    commands = [
        ["tacit.keyholder", "--home", str(world.keyholder_home()), "--approve-author", world.author.public.hex()],
        ["tacit.coordinator", "--home", str(world.coordinator_home), "--plan", str(world.plan_file), "--port", "0"],
    ]
    programs = [
        subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]

    for program in programs:
        assert program.stdout is not None
        said = json.loads(program.stdout.readline())
        assert said["ready"] is True
        assert said["port"] > 0
        program.send_signal(how)

    for program in programs:
        out, err = program.communicate(timeout=30)
        assert (program.returncode, out) == (0, "")
        assert "Traceback" not in err
