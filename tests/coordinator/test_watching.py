"""What can be watched of a coordinator, from its process, after two batches and some refusals."""

import asyncio
import html.parser
import http.client
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tacit.coordinator.dashboard import SCRIPT
from tacit.coordinator.desk import open_operators
from tacit.coordinator.events import Feed, Listening
from tacit.coordinator.operators import Role
from tacit.coordinator.records import Records
from tacit.coordinator.watching import Probe
from tacit.wire.log import decode_lines, read_pages, verify_chain
from tacit.wire.messages import Proof, Upload
from tests.coordinator.direct import open_store
from tests.factory import PATIENCE_S, Device, Refused, Site, make_world, running, wait_for

FOREIGN_ID = os.urandom(16)


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, list[Upload]]]:
    """Two batches of three, one Update that waits, one each that is stale, malformed, doubled and unknown."""
    world = make_world(tmp_path_factory.mktemp("site"), keyholders=2, target=3, most=6, threshold=2, max_age=1)
    with running(world, every=["--log", "json"]) as site:
        sent: list[Upload] = []
        for version in range(2):
            head = site.wait_version(version)
            for _ in range(3):
                sent.append(Device(world).update(version, world.hash_of(head)))
                site.send(sent[-1])
        newest = site.wait_version(2)
        sent.append(Device(world).update(2, world.hash_of(newest)))
        site.send(sent[-1])
        stale = Device(world).update(0, world.hash_of(site.wait_version(0)))
        forged = msgspec.structs.replace(sent[-1], update_id=FOREIGN_ID)
        for wrong in (stale, forged, b"nothing"):
            with pytest.raises(Refused):
                site.send(wrong)
        sent += [stale, forged]
        site.send(sent[0])
        site.coordinator.post(f"{site.path}/proof", os.urandom(16), Proof)
        wait_for(lambda: sum(site.status()["updates"]["refused"].values()) == 3, "refusals are counted")
        yield site, sent


def families(site: Site) -> dict:
    status, headers, data = site.coordinator.request("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return {family.name: family for family in text_string_to_metric_families(data.decode())}


def values(family) -> dict:
    """By the labels that are not the Plan."""
    return {tuple(value for name, value in one.labels.items() if name != "plan"): one.value for one in family.samples}


# Numbers


def test_the_numbers_are_those_of_the_status(journey):
    site, _ = journey
    status, found = site.status(), families(site)

    assert values(found["tacit_updates_accepted"]) == {(): 7.0}
    assert values(found["tacit_updates_over"]) == {("opened",): 6, ("expired",): 0, ("spoilt",): 0, ("refused",): 0}
    assert values(found["tacit_refusals"]) == {(code,): n for code, n in status["updates"]["refused"].items()}
    assert values(found["tacit_updates_queued"]) == {(): 1.0}
    assert values(found["tacit_batch_number"]) == {(): 2.0}
    assert values(found["tacit_snapshot_version"]) == {(): 2.0}
    assert values(found["tacit_batch_fill"]) == {(): status["batch"]["fill"]}
    assert {state for (state,), on in values(found["tacit_batch_state"]).items() if on} == {status["batch"]["state"]}
    assert values(found["tacit_epsilon_spent"]) == {(): pytest.approx(status["privacy"]["epsilon"] or float("inf"))}
    assert values(found["tacit_lease_held"]) == {(): 1.0}
    assert values(found["tacit_keyholder_trouble"]) == {("1",): 0.0, ("2",): 0.0}
    assert 0 <= values(found["tacit_batch_age_seconds"])[()] < PATIENCE_S + 60
    assert values(found["tacit_store_up"]) == {(): 1.0}


def test_how_long_things_take_is_measured_by_route_and_by_state(journey):
    site, _ = journey
    site.coordinator.request("GET", f"/nowhere/{FOREIGN_ID.hex()}")
    found = families(site)

    def counts(name: str) -> dict:
        picked = [one for one in found[name].samples if one.name.endswith("_count")]
        return {tuple(v for k, v in one.labels.items() if k != "plan"): one.value for one in picked}

    requests = counts("tacit_request_seconds")
    assert requests[("POST", "/v1/plans/{plan_id}/updates", "200")] == 8
    assert requests[("GET", "none", "404")] >= 1
    assert not [labels for labels in requests if site.world.plan_id.hex() in str(labels)]
    steps = counts("tacit_step_seconds")
    # HEAD 0 and two batches, with two keyholders to be asked for every opening and signature.
    assert steps == {
        ("applied",): 6,
        ("headed",): 3,
        ("collecting",): 2,
        ("closed",): 2,
        ("agreed",): 4,
        ("opened",): 2,
    }
    assert counts("tacit_store_seconds")[("accept",)] >= 7


def test_no_label_names_anybody(journey):
    site, sent = journey
    data = site.coordinator.get("/metrics").decode()

    assert leaks(data, sent) == []


def test_who_is_not_on_this_machine_needs_a_token(journey):
    site, _ = journey
    operators = open_operators(Records(site.world.coordinator_home))
    token = operators.add_token("prometheus", Role.VIEWER, days=1, random=os.urandom)
    operators.close()
    passed_on = {"X-Forwarded-For": "192.0.2.1"}
    without = site.coordinator.request("GET", "/metrics", headers=passed_on)
    wrong = site.coordinator.request("GET", "/metrics", headers={**passed_on, "Authorization": "Bearer tacit-x"})
    right = site.coordinator.request("GET", "/metrics", headers={**passed_on, "Authorization": f"Bearer {token}"})

    assert [answer[0] for answer in (without, wrong, right)] == [401, 401, 200]


# Being well


def test_readiness_says_each_part(journey):
    site, _ = journey
    said = json.loads(site.coordinator.get("/readyz"))

    (parts,) = said["plans"].values()
    assert said["ready"] and said["fails"] == []
    assert {name: part["ok"] for name, part in parts.items()} == {
        "store": True,
        "blobs": True,
        "lease": True,
        "keyholders": True,
    }
    assert site.coordinator.get("/healthz") == b"ok\n"


def test_a_keyholder_that_is_away_is_said_and_takes_no_process_out_of_service(tmp_path: Path):
    world = make_world(tmp_path, target=2, threshold=2, most=4)
    with running(world) as site:
        head = site.wait_version(0)
        site.keyholders[0].stop()
        for _ in range(2):
            site.send(Device(world).update(0, world.hash_of(head)))
        wait_for(lambda: site.status()["keyholders"][0]["trouble"], "the keyholder is missed")

        balancer = site.coordinator.request("GET", "/readyz")
        monitor = site.coordinator.request("GET", "/readyz?whole")
        assert balancer[0] == 200
        assert (monitor[0], json.loads(monitor[2])["fails"]) == (503, ["keyholders"])
        assert values(families(site)["tacit_keyholder_trouble"]) == {("1",): 1.0}


def test_blobs_that_cannot_be_written_are_told(tmp_path: Path):
    world = make_world(tmp_path)
    store = open_store(world)
    try:
        before = asyncio.run(Probe(store, every=0).parts())
        (tmp_path / "store" / "probe" / "ready").unlink()
        (tmp_path / "store" / "probe").rmdir()
        (tmp_path / "store" / "probe").write_bytes(b"no folder")
        after = asyncio.run(Probe(store, every=0).parts())
    finally:
        store.close()

    assert (before["blobs"].ok, after["blobs"].ok, after["store"].ok) == (True, False, True)
    assert before["lease"].reason == "no process opens batches"


# Events


class Line:
    """A connection that reads events."""

    def __init__(self, site: Site, last: str | None = None):
        self.connection = http.client.HTTPConnection("127.0.0.1", site.coordinator.port, timeout=PATIENCE_S)
        headers = {} if last is None else {"Last-Event-ID": last}
        self.connection.request("GET", f"{site.path}/events", headers=headers)
        self.answer = self.connection.getresponse()

    def next(self) -> tuple[str, dict]:
        fields: dict[str, str] = {}
        while True:
            line = self.answer.readline().decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                return fields["id"], json.loads(fields["data"])

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


def test_an_event_comes_at_once_and_whenever_the_status_changes(tmp_path: Path):
    world = make_world(tmp_path, target=4, threshold=3)
    with running(world) as site:
        head = site.wait_version(0)
        line = Line(site)
        _, before = line.next()
        while before["batch"]["state"] != "collecting":
            _, before = line.next()
        site.send(Device(world).update(0, world.hash_of(head)))
        tag, after = line.next()
        line.close()

        assert line.answer.getheader("content-type") == "text/event-stream"
        assert (before["updates"]["accepted"], after["updates"]["accepted"]) == (0, 1)
        assert after == site.status()

        # Who comes back hears nothing that it knows already, and at once what it does not.
        again = Line(site, last=tag)
        site.send(Device(world).update(0, world.hash_of(head)))
        assert again.next()[1]["updates"]["accepted"] == 2
        again.close()
        behind = Line(site, last=tag)
        assert behind.next()[1]["updates"]["accepted"] == 2
        # The line that is still open does not keep the process from ending.
        assert site.coordinator.stop() == 0
        assert "shutdown exceeded" not in site.coordinator.log_path.read_text()
        behind.close()


def test_a_listener_that_takes_nothing_is_let_go():
    async def listen() -> Feed:
        feed = Feed(lambda: b"{}")
        forever = asyncio.Event()

        async def receive():
            await forever.wait()

        async def send(message):
            if message["type"] == "http.response.body" and message["body"].startswith(b"id"):
                await forever.wait()

        await Listening(feed, "", look_every=0.01, slowest=0.05)({}, receive, send)
        return feed

    assert asyncio.run(listen()).listeners == 0


def test_an_idle_line_is_kept_alive():
    async def listen() -> list[bytes]:
        bodies: list[bytes] = []
        gone = asyncio.Event()

        async def receive():
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.body":
                bodies.append(message["body"])
                if bodies.count(b": still here\n\n") == 2:
                    gone.set()

        await Listening(Feed(lambda: b"{}"), "", look_every=0.01, heartbeat=0.02)({}, receive, send)
        return bodies

    bodies = asyncio.run(listen())
    assert len([one for one in bodies if one.startswith(b"id: ")]) == 1


# The dashboard


class Page(html.parser.HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_the_dashboard_asks_nobody_else_for_anything_and_says_its_pictures_in_words(journey):
    site, _ = journey
    status, headers, data = site.coordinator.request("GET", f"/dashboard/{site.world.plan_id.hex()}")
    page = Page(data.decode())

    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    addresses = [attrs[name] for _, attrs in page.tags for name in ("src", "href", "data-events") if name in attrs]
    assert addresses and all(address.startswith("/") and not address.startswith("//") for address in addresses)
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for tag, attrs in page.tags if tag == "svg")
    assert not [attrs for _, attrs in page.tags if "style" in attrs or any(name.startswith("on") for name in attrs)]
    assert "Snapshot 2 is the newest" in data.decode() and "1 of 3 Updates" in data.decode()
    assert site.coordinator.get("/dashboard.js").decode() == SCRIPT and "http" not in SCRIPT


# The log as files


def test_the_pages_are_the_log(journey):
    site, _ = journey
    url = f"{site.path}/log/pages"
    status, headers, _ = site.coordinator.request("GET", f"{url}/0")
    entries = read_pages(lambda number: site.coordinator.get(f"{url}/{number}"))

    assert (status, headers["cache-control"]) == (200, "no-cache")  # it is not full yet
    assert entries == decode_lines(site.coordinator.get(f"{site.path}/log")) and len(entries) == 6
    verify_chain(entries, site.world.coordinator.sig.public)
    again = site.coordinator.request("GET", f"{url}/0", headers={"If-None-Match": headers["etag"]})
    assert (again[0], again[2]) == (304, b"")
    assert site.coordinator.request("GET", f"{url}/1")[0] == 503
    assert site.coordinator.request("GET", f"{url}/x")[0] == 400


# What is written down


def leaks(text: str, sent: list[Upload]) -> list[str]:
    """Keys, ids and addresses of devices in a text."""
    names = [name.hex() for one in sent for name in (one.dpk, one.update_id)]
    return [name for name in names if name in text] + re.findall(r"(?:\d{1,3}\.){3}\d{1,3}", text)


def test_a_journey_leaves_lines_of_json_with_nobody_in_them(journey):
    site, sent = journey
    logs = [process.log_path.read_text() for process in (site.coordinator, *site.keyholders)]
    lines = [[json.loads(line) for line in text.splitlines()] for text in logs]

    assert [leaks(text, sent) for text in logs] == [[], [], []]
    headed = [line for line in lines[0] if line["event"] == "batch.headed"]
    prefix = site.world.plan_id.hex()[:8]
    assert [(line["level"], line["plan"], line["t"]) for line in headed] == [("info", prefix, t) for t in range(3)]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for text in lines for line in text)
    assert [line["event"] for line in lines[1]] == ["batch.opened", "batch.opened"]
