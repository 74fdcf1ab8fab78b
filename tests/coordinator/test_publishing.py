"""What evaluators and operators say by the routes, and what people get then."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tacit.coordinator.operators import Role
from tacit.coordinator.published import Publish, Rule, Verdict
from tacit.coordinator.records import Records
from tacit.coordinator.verdicts import TABLES, Checking, Verdicts
from tacit.wire.messages import Head, decode
from tests.coordinator.test_operating import asked, sent, token
from tests.factory import Site, coordinator_process, keyholder_process, make_world, wait_for
from tests.servers import postgres


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    world = make_world(tmp_path, target=3, threshold=3, snapshots=9)
    keyholder = keyholder_process(world).start()
    coordinator = coordinator_process(world, [keyholder])
    coordinator.arguments += ["--gate", "check"]
    coordinator.start()
    try:
        up = Site(world, coordinator, [keyholder])
        up.wait_version(0)
        yield up
    finally:
        coordinator.stop()
        keyholder.stop()


def report(site: Site, version: int, shown: str, **changes: object) -> tuple[int, dict]:
    named = {"version": version, "snapshot": site.head_of(version).snapshot_hash.hex(), "metric": "right"}
    said = {**named, "value": 0.5, "error": 0.0, "count": 500, **changes}
    query = urlencode({key: value for key, value in said.items() if value is not None})
    status, answer = asked(site.coordinator, "POST", f"plans/{site.world.plan_id.hex()}/verdicts?{query}", shown)
    assert isinstance(answer, dict)
    return status, answer


def published(site: Site) -> Head:
    return decode(Head, site.coordinator.get(f"{site.path}/published"))


def test_people_get_what_passed_and_an_evaluator_is_needed_for_it(site: Site):
    eva, looker = token(site, Role.EVALUATOR), token(site, Role.VIEWER)
    assert published(site).version == 0
    sent(site, 3)
    site.wait_version(1)

    assert report(site, 0, eva)[1] == {"decision": "publish", "published": 0, "judged": 0}
    assert published(site).version == 0
    assert report(site, 1, looker)[0] == 403
    assert report(site, 1, eva, value=0.8)[1]["published"] == 1
    assert published(site) == site.head_of(1)
    status, headers, _ = site.coordinator.request("GET", f"{site.path}/published")
    unchanged, _, _ = site.coordinator.request(
        "GET", f"{site.path}/published", headers={"If-None-Match": headers["etag"]}
    )
    assert (status, unchanged) == (200, 304)
    checks = site.status()["checks"]
    assert (checks["by"], checks["published"], checks["judged"], checks["ahead"]) == ("check", 1, 1, 0)


def test_a_verdict_that_fits_nothing_here_is_refused_and_nothing_is_kept(site: Site):
    eva = token(site, Role.EVALUATOR)
    fits = {"version": 0, "snapshot": site.head_of(0).snapshot_hash.hex(), "metric": "right", "error": 0, "count": 5}
    wrong: list[dict] = [
        {"metric": "loss"},
        {"count": 0},
        {"error": -1},
        {"snapshot": "00" * 32},
        {"value": "much"},
        {"version": 7},
        {"more": 1},
        {"version": -1},
    ]

    for changes in wrong:
        path = f"plans/{site.world.plan_id.hex()}/verdicts?{urlencode(fits | changes)}"
        status, answer = asked(site.coordinator, "POST", path, eva)
        assert status == 400 and isinstance(answer, dict) and answer["error"], changes

    assert site.status()["checks"]["judged"] == -1


def test_what_is_no_number_sends_training_back_and_so_does_an_operator(site: Site):
    eva, boss = token(site, Role.EVALUATOR), token(site, Role.OPERATOR)
    report(site, 0, eva)
    sent(site, 3)
    site.wait_version(1)

    assert report(site, 1, eva, value=None)[1]["decision"] == "roll back"
    assert site.wait_version(2).snapshot_hash == site.head_of(0).snapshot_hash
    sent(site, 3)
    site.wait_version(3)
    assert report(site, 3, eva, value=0.9)[1]["published"] == 3
    assert asked(site.coordinator, "POST", "roll-back?to=0", eva)[0] == 403
    assert asked(site.coordinator, "POST", "roll-back?to=9", boss)[0] == 400
    assert asked(site.coordinator, "POST", "roll-back?to=x", boss)[0] == 400
    status, going = asked(site.coordinator, "POST", "roll-back?to=2&why=it%20learnt%20too%20much", boss)
    assert (status, going["to"]) == (200, 2)
    assert site.wait_version(4).snapshot_hash == site.head_of(0).snapshot_hash
    assert published(site).snapshot_hash == site.head_of(0).snapshot_hash
    log = site.coordinator.get(f"{site.path}/log").decode()
    assert json.loads(log.splitlines()[0])["kind"] == 1
    wait_for(lambda: site.status()["checks"]["rollbacks"] == 2, "both are counted")
    # The bytes that a HEAD may name are still served, and so is what people get.
    assert site.snapshot(published(site)) == site.world.plan.initial_snapshot


def test_by_what_snapshots_are_checked_is_remembered_until_somebody_says_otherwise(site: Site):
    site.coordinator.stop()
    site.coordinator.arguments = site.coordinator.arguments[:-2]
    site.coordinator.start()
    assert site.status()["checks"]["by"] == "check"

    site.coordinator.stop()
    site.coordinator.arguments += ["--gate", "off"]
    site.coordinator.start()

    assert site.status()["checks"]["by"] == "off"


@pytest.mark.parametrize("words", [["--fall", "0"], ["--ahead", "0"], ["--gate", "evaluation"]])
def test_numbers_that_mean_nothing_are_refused_at_the_start(tmp_path: Path, words: list[str]):
    from tacit.coordinator.__main__ import parse
    from tacit.errors import InputError

    with pytest.raises(InputError):
        parse(["--home", str(tmp_path), "--plan", "x", "--gate", "check", *words])


def test_verdicts_are_the_same_in_a_database_of_its_own(tmp_path: Path):
    """What is special here is the SQL; everything else is tested on a file."""
    world = make_world(tmp_path)
    with postgres(durable=False) as url:
        store = Records(tmp_path / "home", url).open(world.plan, world.coordinator.sig)
        try:
            verdicts = Verdicts(store.database)
            verdicts.check_by(Checking("evaluation", Rule(patience=1)), now=5)
            assert verdicts.heard_at() == 5
            first = Verdict(0, "right", 0.5, 0.01, 10)
            assert verdicts.take(first, "evaluation", 6, part=1) == Publish(0)
            verdicts.take(Verdict(0, "right", 0.8, 0.01, 20), "evaluation", 7, part=2)
            verdicts.take(Verdict(0, "right", 0.8, 0.01, 20), "evaluation", 8, part=2)
            (together,) = verdicts.of_source("evaluation")
            assert (round(together.value or 0, 6), together.count) == (0.7, 30)
            assert verdicts.state().verdict == together
            assert verdicts.abandoned() == frozenset()
            assert verdicts.version_of(world.initial_hash) is None
            assert verdicts.alarms() == [] == verdicts.steps()
            assert TABLES.count("CREATE TABLE") == 5
        finally:
            store.close()
