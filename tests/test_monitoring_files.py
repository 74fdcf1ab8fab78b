"""Dashboard, alerts and runbook name what there is: numbers that are served, sections that are written."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.factory import make_world, running, wait_for
from tests.test_docs import anchors

ROOT = Path(__file__).parents[1]
ALERTS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
BOARD = json.loads((ROOT / "deploy/grafana/tacit.json").read_text())
RUNBOOK = ROOT / "docs/how-to/runbook.md"
NAME = re.compile(r"\b(?:tacit|process)_[a-z_]+\b")


def rules() -> Iterator[dict]:
    for group in ALERTS:
        yield from group["rules"]


def asked() -> Iterator[str]:
    """Every question that dashboard and alerts put to Prometheus."""
    for rule in rules():
        yield rule["expr"]
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in BOARD["templating"]["list"]:
        yield variable["query"]


def test_every_number_that_dashboard_and_alerts_name_is_served(tmp_path: Path):
    world = make_world(tmp_path)
    with running(world) as site:
        site.wait_version(0)
        site.coordinator.request("POST", f"{site.path}/updates", b"nothing")
        wait_for(lambda: site.status()["updates"]["refused"], "a refusal is counted")
        text = site.coordinator.get("/metrics").decode()

    named = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    there = {name + suffix for name, kind in named for suffix in ("_bucket", "_sum", "_count") if kind == "histogram"}
    there |= {name for name, kind in named if kind != "histogram"}
    wanted = {name for question in asked() for name in NAME.findall(question)}
    assert wanted - there == set()
    # All but who listens is looked at somewhere.
    assert {name for name, kind in named if kind == "gauge"} - wanted <= {
        "tacit_listeners",
        "process_start_time_seconds",
        "tacit_landings_most",
        "tacit_updates_queued",
    }
    # Where there is a sample at all, it has the labels that are asked for.
    selectors = [found for question in asked() for found in re.findall(r"(tacit_\w+)\{(\w+)=", question)]
    for name, label in selectors:
        for sample in re.findall(rf"^{name}[{{ ].*$", text, re.MULTILINE):
            assert f'{label}="' in sample


def test_every_alert_has_its_section_and_every_section_its_alarm():
    linked = {rule["annotations"]["runbook"].removeprefix("docs/how-to/runbook.md#") for rule in rules()}
    sections = anchors(RUNBOOK.read_text()) - anchors(RUNBOOK.read_text().split("\n## ")[0])

    assert linked == sections


@pytest.mark.parametrize("rule", list(rules()), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_urgent_it_is_and_what_it_is_about(rule: dict):
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert rule["expr"].count("(") == rule["expr"].count(")")


def test_a_section_says_what_to_do():
    for section in RUNBOOK.read_text().split("\n## ")[1:]:
        for word in ("*Means*", "*Do*", "*Wake somebody*"):
            assert word in " ".join(section.split()), section.splitlines()[0]


def test_panels_do_not_lie_on_one_another():
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
