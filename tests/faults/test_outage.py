"""The database crashes and the object store goes away, under load: devices come again, and nothing else happens."""

import threading
from collections import Counter
from pathlib import Path

import pytest

from tacit.wire.messages import Head, encode, update_hash
from tests.factory import Device, Refused, Site, make_world, running, wait_for
from tests.servers import Line, postgres_server

BATCHES, SENDERS = 3, 3
LONG_S = 120  # a server that comes back may take its time


def test_records_that_go_away_and_come_back_lose_and_double_nothing(
    tmp_path: Path, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    line = Line(int(servers["AWS_ENDPOINT_URL"].rpartition(":")[2])).start()
    world = make_world(tmp_path, target=SENDERS, threshold=SENDERS, snapshots=BATCHES, landings=BATCHES)
    # It crashes, its machine does not: so nothing has to reach the disk, which a busy one may take a minute for.
    with postgres_server(durable=False) as database:
        for name, value in servers.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TACIT_STORE", database.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{line.port}")
        with running(world) as site:
            site.wait_version(0)
            told: Counter[int] = Counter()
            threads = [threading.Thread(target=insist, args=(site, told)) for _ in range(SENDERS)]
            for thread in threads:
                thread.start()

            site.wait_version(1)
            database.stop("immediate")
            # Who waits for HEAD at this moment asks nothing else before the database is back; later outages tell it.
            for path in (f"{site.path}/head", f"{site.path}/status", f"{site.path}/log"):
                # What was asked a moment ago may be answered from memory.
                wait_for(lambda path=path: site.coordinator.request("GET", path)[0] == 503, f"{path} says so too")
                assert 1 <= int(site.coordinator.request("GET", path)[1]["retry-after"]) <= 10
            database.start()
            site.wait_version(2, LONG_S)
            before = told[503]
            line.cut("refuse")
            wait_for(lambda: told[503] > before, f"devices are told to come again\n{site.logs()}")
            assert site.coordinator.request("GET", f"{site.path}/status")[0] == 200  # rows are there all the same
            line.state = "open"
            for thread in threads:
                thread.join()
            site.wait_version(BATCHES, LONG_S)

            assert {200, 503} <= set(told) <= {200, 429, 503}  # who comes too often is told so as well
            opened = [one for _, ids in site.opened_ids() for one in ids]
            assert len(opened) == len(set(opened)) == BATCHES * SENDERS
            updates = site.status()["updates"]
            assert updates == {**updates, "accepted": len(opened), "opened": len(opened), "spoilt": 0, "expired": 0}
    line.close()


def there(site: Site, version: int) -> Head:
    """HEAD of this version, whatever goes away meanwhile."""
    while True:
        try:
            return site.wait_version(version, LONG_S)
        except Refused as refused:
            if not refused.reply.refusal().retryable:
                raise


def insist(site: Site, told: Counter[int]) -> None:
    """One device: an Update from each Snapshot, the same bytes until there is a receipt."""
    device, pause = Device(site.world), threading.Event()
    for version in range(BATCHES):
        head = there(site, version)
        upload = device.update(version, site.world.hash_of(head))
        while True:
            try:
                receipt = site.send(encode(upload))
            except Refused as refused:
                told[refused.status] += 1
                if not refused.reply.refusal().retryable:
                    raise
                pause.wait(0.05)
                continue
            told[200] += 1
            assert receipt.update_hash == update_hash(upload)
            break
