"""`tacit audit log`: of a coordinator, of a folder, of a server of files."""

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tacit.cli import main
from tests.factory import Device, Site, make_world, running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two batches of two."""
    world = make_world(tmp_path_factory.mktemp("site"), target=2, threshold=2, snapshots=4)
    with running(world) as up:
        for version in range(2):
            head = up.wait_version(version)
            for _ in range(2):
                up.send(Device(world).update(version, world.hash_of(head)))
        up.wait_version(2)
        yield up


@pytest.fixture(scope="module")
def saved(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    assert main(["audit", "log", link(site), "--save", str(folder)]) == 0
    return folder


def link(site: Site) -> str:
    return f"{site.coordinator.url}/join/{site.world.plan_id.hex()}?author={site.world.author.public.hex()}"


def audit(capsys: pytest.CaptureFixture[str], source: object, *words: object) -> tuple[int, dict[str, Any]]:
    code = main(["audit", "log", str(source), *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out or "{}")


def test_a_coordinators_log_is_checked_whole(site: Site, tmp_path: Path, capsys):
    state = tmp_path / "seen"
    code, said = audit(capsys, link(site), "--state", state)

    assert (code, said["findings"], said["newest"], said["entries"]) == (0, [], 2, 6)
    assert said["batches"] == {"0": 2, "1": 2}
    assert json.loads(state.read_text()) == {"entries": 6, "last": said["last"]}
    assert main(["audit", "log", link(site)]) == 0
    assert "each HEAD signed by all 1 keyholders" in capsys.readouterr().out


def test_a_saved_log_is_checked_where_it_lies_and_from_any_server_of_files(saved: Path, capsys):
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(saved))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        served = audit(capsys, f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()

    assert served == audit(capsys, saved)
    assert served[0] == 0


def damaged(saved: Path, folder: Path, change) -> Path:
    shutil.copytree(saved, folder)
    page = folder / "log" / "pages" / "0"
    page.write_bytes(b"".join(change(page.read_bytes().splitlines(keepends=True))))
    return folder


@pytest.mark.parametrize(
    ("change", "entry", "what"),
    [
        (lambda lines: [*lines[:2], *lines[3:]], 2, "dropped"),
        (lambda lines: [*lines[:3], *lines[2:]], 3, "doubled"),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], 2, "moved"),
        (lambda lines: [*lines[:2], lines[2].replace(b'"kind":3', b'"kind":5'), *lines[3:]], 2, "changed"),
    ],
)
def test_what_was_done_to_a_log_is_said_with_its_place_and_its_consequence(
    saved, tmp_path, capsys, change, entry, what
):
    code, said = audit(capsys, damaged(saved, tmp_path / "log", change))

    assert code == 1
    assert (entry, what) in [(one["entry"], one["what"].partition(":")[0]) for one in said["findings"]]
    assert all(one["follows"] for one in said["findings"])


def test_a_log_that_was_cut_shows_by_the_newest_head_and_by_what_was_seen(saved: Path, tmp_path: Path, capsys):
    state, cut = tmp_path / "seen", damaged(saved, tmp_path / "log", lambda lines: lines[:4])
    audit(capsys, saved, "--state", state)
    before = state.read_text()
    code, said = audit(capsys, cut, "--state", state)

    assert code == 1
    whats = [one["what"] for one in said["findings"]]
    assert any("ends before HEAD 2" in one for one in whats) and any("was cut" in one for one in whats)
    assert state.read_text() == before  # what was true once is not forgotten


def test_a_line_that_cannot_be_read_and_a_page_that_is_missing_are_said(saved: Path, tmp_path: Path, capsys):
    torn = damaged(saved, tmp_path / "torn", lambda lines: [*lines[:3], lines[3][:20]])
    missing = damaged(saved, tmp_path / "missing", lambda lines: lines)
    (missing / "log" / "pages" / "0").unlink()

    assert main(["audit", "log", str(torn)]) == 1
    assert "entry 3" in capsys.readouterr().err
    assert main(["audit", "log", str(missing)]) == 1
    assert "page 0 of the log is missing" in capsys.readouterr().err


def test_a_plan_of_another_author_is_not_audited_in_its_place(saved: Path, capsys):
    assert main(["audit", "log", str(saved), "--author", "ab" * 32]) == 2
    assert main(["audit", "log", str(saved / "nowhere")]) == 2
