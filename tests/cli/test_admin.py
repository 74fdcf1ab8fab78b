"""`tacit admin`, as people type it: on the coordinator's machine, and from another one."""

import json
from pathlib import Path

import pytest

from tacit.cli import main
from tests.factory import make_world, running


def tacit(*words: object) -> int:
    return main([str(word) for word in words])


def test_the_first_token_is_made_at_home_and_does_from_elsewhere_what_its_role_may(tmp_path: Path, capsys):
    world, mine = make_world(tmp_path), tmp_path / "mine.token"
    with running(world) as site:
        site.wait_version(0)
        assert tacit("admin", "token", "--home", tmp_path, "--role", "operator", "--name", "me") == 0
        mine.write_text(capsys.readouterr().out)
        there = ("--url", site.coordinator.url, "--token", mine)

        assert tacit("admin", "pause", *there) == 0
        assert f"{world.plan_id.hex()[:8]}  numbers: paused" in capsys.readouterr().out
        assert tacit("admin", "status", *there) == 0
        from_there = capsys.readouterr().out
        assert tacit("admin", "status", "--home", tmp_path) == 0
        assert capsys.readouterr().out == from_there
        assert "paused since" in from_there
        assert "by me, at rest" in from_there
        assert tacit("admin", "token", *there, "--role", "owner", "--name", "me") == 1
        assert "'me' is an operator, and this needs an owner" in capsys.readouterr().err


def test_a_token_is_listed_without_what_it_is_and_taken_back_by_how_its_digest_begins(tmp_path: Path, capsys):
    make_world(tmp_path)
    tacit("admin", "token", "--home", tmp_path, "--role", "viewer", "--name", "a\x1b[31m")
    made = capsys.readouterr().out.strip()

    tacit("admin", "tokens", "--home", tmp_path)
    listed = capsys.readouterr().out
    assert tacit("admin", "take-back", listed[:6], "--home", tmp_path) == 0
    capsys.readouterr()
    tacit("admin", "tokens", "--home", tmp_path, "--json")

    assert made not in listed
    assert "viewer" in listed
    assert "\x1b" not in listed
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pause", "--plan", "zz"), "0 Plans of this coordinator begin with 'zz'"),
        (("status", "--token", "x"), "go with --url"),
        (("status", "--url", "ftp://x"), "is not an address"),
        (("status", "--url", "http://127.0.0.1:1"), "does not answer"),
        (("token", "--role", "viewer", "--name", "me", "--days", "0"), "from 1 to 3650 days"),
        (("take-back", "abcdef"), "0 tokens or certificates begin with"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(tmp_path: Path, capsys, words: tuple[str, ...], said: str):
    make_world(tmp_path)
    home = () if "--url" in words else ("--home", tmp_path)

    assert tacit("admin", *words, *home) in (1, 2)
    assert said in capsys.readouterr().err


def test_a_home_in_which_nobody_has_served_is_no_coordinators(tmp_path: Path, capsys):
    assert tacit("admin", "status", "--home", tmp_path) == 2
    assert "no coordinator has served from" in capsys.readouterr().err
    assert list(tmp_path.rglob("*.key")) == []
