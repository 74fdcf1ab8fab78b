"""`tacit keyholder`, `tacit device trust` and compiling with keyholders of others, as people type them."""

import io
import json
import os
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import pytest

from tacit.cli import main
from tacit.cli.keyholder import charter_lines
from tacit.cli.parties import chartered, claim_of, named
from tacit.cli.serve import start_servers
from tacit.errors import InputError
from tacit.keyholder.approvals import Shown
from tacit.keyholder.cards import read_card
from tacit.keyholder.keys import new_card
from tacit.plan.bundle import parse_plan
from tacit.plan.manifest import Charter, KeyholderCard, Manifest
from tacit.privacy.trust import Trust
from tacit.wire.codes import Code
from tacit.wire.keys import SigningKey
from tests.factory import World, make_plan, make_world
from tests.keyholder.asking import asking
from tests.keyholder.test_rekeying import lose, published, show


def tacit(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    home = tmp_path / "keyholder1"
    assert tacit("keyholder", "init", "--home", home, "--operator", "a university", "--url", "https://k.example") == 0
    return home


def world_of(home: Path, capsys: pytest.CaptureFixture[str]) -> World:
    """A Plan with a card of that keyholder."""
    capsys.readouterr()
    assert tacit("keyholder", "card", "--home", home) == 0
    card = read_card(capsys.readouterr().out.encode())
    world = make_world(home.parent / "world")
    data = make_plan(world.author, world.coordinator, [card])
    world.plan_file.write_bytes(data)
    return World(world.folder, world.author, world.coordinator, parse_plan(data))


def test_init_prints_the_line_that_a_device_s_owner_can_type(home: Path, tmp_path: Path, capsys):
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if "device trust add" in line).split()

    assert tacit(*line[1:4], "a university", line[-1], "--home", tmp_path / "device") == 0
    assert capsys.readouterr().out == f"a university  {line[-1]}\n"
    assert tacit("device", "trust", "remove", "a university", "--home", tmp_path / "device") == 0
    assert "single-operator" in capsys.readouterr().out


def test_init_again_keeps_the_key_and_refuses_another_name(home: Path, capsys):
    before = (home / "identity.key").read_bytes()

    assert tacit("keyholder", "init", "--home", home, "--operator", "a university", "--url", "https://new.example") == 0
    assert tacit("keyholder", "init", "--home", home, "--operator", "eve", "--url", "https://k.example") == 2
    assert (home / "identity.key").read_bytes() == before
    assert "a --home of its own" in capsys.readouterr().err


def test_a_charter_is_shown_in_words_and_approved_only_on_a_yes(home: Path, capsys, monkeypatch):
    world = world_of(home, capsys)
    charters = home / "charters"

    for answer in ("n\n", "\n", ""):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        assert tacit("keyholder", "approve", world.plan_file, "--home", home) == 2
        assert not charters.exists()
    said = capsys.readouterr().out
    for part in (
        "to test <sums>",
        "integers <1..9>",
        world.author.public.hex(),
        "3 at most",
        "one device",
        "two-party",
    ):
        assert part in said
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert tacit("keyholder", "approve", world.plan_file, "--home", home) == 0
    capsys.readouterr()
    assert tacit("keyholder", "status", "--home", home, "--json") == 0
    status = json.loads(capsys.readouterr().out)

    assert [one["charter_id"] for one in status["charters"]] == [world.plan.manifest.charter_id.hex()]
    assert status["plans"] == []


def test_a_charter_comes_by_itself_too(home: Path, tmp_path: Path, capsys):
    world = world_of(home, capsys)
    assert tacit("inspect", world.plan_file, "--charter") == 0
    (tmp_path / "mine.charter").write_text(capsys.readouterr().out)

    assert tacit("keyholder", "approve", tmp_path / "mine.charter", "--home", home, "--yes") == 0
    assert [file.stem for file in (home / "charters").iterdir()] == [world.plan.manifest.charter_id.hex()]


def test_a_plan_whose_state_is_lost_is_re_keyed_by_command_and_no_other_is(tmp_path: Path, capsys):
    asked = asking(tmp_path, snapshots=9)
    home, plan_id = asked.world.keyholder_home(), asked.world.plan_id.hex()
    assert tacit("keyholder", "rekey", plan_id[:8], "--home", home) == 1
    assert "there is nothing to re-key" in capsys.readouterr().err
    head = published(asked, 0)
    lose(asked)
    assert tacit("keyholder", "rekey", plan_id, "--home", home) == 2
    assert "0 of the 0 Plans" in capsys.readouterr().err
    assert show(asked, head) is Code.E_STATE_LOST

    assert tacit("keyholder", "rekey", plan_id[:8].upper(), "--home", home) == 0

    assert "seals from Snapshot 2 on" in capsys.readouterr().out
    assert asked.keyholders[0].load(bytes(asked.world.plan.raw), head).from_version == 2


def test_a_charter_that_does_not_name_this_keyholder_is_not_approved(home: Path, tmp_path: Path, capsys):
    other = make_world(tmp_path / "other")

    assert tacit("keyholder", "approve", other.plan_file, "--home", home, "--yes") == 2
    assert "does not name this keyholder" in capsys.readouterr().err
    assert not (home / "charters").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["init", "--operator", "a=b", "--url", "https://k.example"],
        ["init", "--operator", "uni", "--url", "k.example"],
        ["run"],
        ["card"],
        ["status"],
        ["approve", "nowhere.tacit"],
    ],
)
def test_wrong_words_end_with_2_and_one_sentence(words: list[str], tmp_path: Path, capsys):
    assert tacit("keyholder", *words, "--home", tmp_path / "nobody") == 2
    said = capsys.readouterr().err
    assert said.startswith("tacit keyholder: ") and said.count("\n") == 1


def test_who_wrote_a_charter_cannot_write_on_the_operator_s_terminal(home: Path, capsys):
    charter = Charter("a\x1b[2Jb", "p\nkeyholder  this one", ("x\r",), bytes(32), (bytes(32),), 1, 1.0, "device", 0)

    assert all(line.isprintable() for line in charter_lines(Shown(charter), bytes(32)))


def test_a_developer_names_a_keyholder_by_its_pin_or_by_the_file_of_its_card(home: Path, tmp_path: Path, capsys):
    author = SigningKey.from_seed(bytes(32))
    capsys.readouterr()
    tacit("keyholder", "card", "--home", home)
    file = tmp_path / "uni.card"
    file.write_text(capsys.readouterr().out)

    assert named(str(file), author).operator == "a university"
    for word in ("https://k.example", f"uni={'0a' * 31}@https://k.example", "nowhere.card"):
        with pytest.raises(InputError, match="NAME=KEY@URL"):
            named(word, author)


def card_of(home: Path, operator: str) -> KeyholderCard:
    return new_card(home, "https://k.example", os.urandom, operator)


@pytest.mark.parametrize(
    ("operators", "most"),
    [
        ((), "single-operator"),
        (("uni",), "two-party"),
        (("uni", "uni"), "two-party"),
        (("uni", "union"), "three-party"),
    ],
)
def test_a_plan_claims_what_its_keyholders_operators_give_and_never_more(operators, most, tmp_path: Path):
    cards = [card_of(tmp_path / str(i), name) for i, name in enumerate(operators)] or [card_of(tmp_path, "")]
    given = Namespace(keyholders=list(operators), trust=None)

    assert claim_of(given, cards, Trust.SINGLE_OPERATOR) == most
    for claim in Trust:
        if claim.at_most(Trust(most)):
            assert claim_of(Namespace(keyholders=list(operators), trust=claim), cards, Trust(most)) is claim
        else:
            for asked in (Namespace(keyholders=[], trust=claim), Namespace(keyholders=[], trust=None)):
                with pytest.raises(InputError, match=f"is to claim {claim}.*{most} at most"):
                    claim_of(asked, cards, claim)


def test_a_charter_may_name_the_keyholders_of_later_plans(tmp_path: Path):
    world = make_world(tmp_path)
    made = Made(world.plan.manifest, world.plan.charter)

    found = chartered(made, Trust.SINGLE_OPERATOR, ["0a" * 32])
    assert found.charter.keyholders == (*world.plan.charter.keyholders, bytes.fromhex("0a" * 32))
    for later, old in ((["0a"], False), (["0a" * 32], True)):
        with pytest.raises(InputError, match="--keyholder-later"):
            chartered(made, Trust.SINGLE_OPERATOR, later, old_charter=old)


@dataclass(frozen=True)
class Made:
    """The part of what was assembled that a charter changes."""

    manifest: Manifest
    charter: Charter


def test_serving_says_which_keyholder_it_cannot_place(home: Path, tmp_path: Path, capsys):
    world = world_of(home, capsys)
    started: list = []

    with pytest.raises(InputError, match="1 keyholders of others and --keyholder was said 2 times"):
        start_servers(
            world.plan_file, tmp_path / "h", started, host="127.0.0.1", port=0, addresses=["http://a", "http://b"]
        )
    beside = make_world(tmp_path / "beside")
    data = make_plan(beside.author, beside.coordinator, [new_card(tmp_path / "gone", "embedded:", os.urandom)])
    beside.plan_file.write_bytes(data)
    with pytest.raises(InputError, match="has no key in"):
        start_servers(beside.plan_file, tmp_path / "h", started, host="127.0.0.1", port=0)
    assert started == []
