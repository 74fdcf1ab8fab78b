"""`tacit privacy`: the protocol's figures, the same for a Plan, a picture, and a sentence where something is wrong."""

import json
import math

import msgspec
import pytest

from tacit.cli import main
from tacit.cli.measured import Point, Trade
from tacit.plan.bundle import build_plan, read_plan
from tacit.plan.manifest import OnDevice
from tacit.plan.program import Stretch
from tacit.privacy.account import epsilon_of_mu
from tacit.privacy.blt import Blt
from tests.factory import make_world

WORKED = (
    "privacy --devices 1e6 --batch 1000 --snapshots 2000 --participations 4 --separation 400 --epsilon 4 "
    "--trust three-party --values 100000"
).split()


def said_by(capsys, *words):
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_the_worked_case_is_the_protocols(capsys):
    said = json.loads(said_by(capsys, *WORKED, "--json"))

    assert said["sigma"] == pytest.approx(1.30, rel=0.02)
    assert (said["mechanism"], said["keyholders"], said["devices_needed"]) == ("blt/1", 2, 416_000)
    assert said["epsilon"] == pytest.approx(4, rel=1e-6) and said["mu"] == pytest.approx(0.771, rel=1e-3)
    assert said["noise_of_the_run_plain"] / said["noise_of_the_run"] == pytest.approx(8.7, rel=0.01)
    assert said["noise_to_signal"] == pytest.approx(0.042, rel=0.02)
    assert said["epsilon_by_landings"][0] == 0 and said["epsilon_by_landings"][-1] == pytest.approx(4, rel=1e-6)


def test_people_read_the_same_with_unit_delta_relation_and_trust(capsys):
    said = said_by(capsys, *WORKED)

    for part in ("σ = 1.298", "S_C = ", "A = ", "μ = 0.77", "ε = 4", "δ = 1e-07", "each device", "replaced by zeros"):
        assert part in said
    assert "three-party" in said and "Three-party mode: " in said and "8.7 times as much" in said
    rows = {line.split()[0]: line for line in said.splitlines() if line.split()[0].replace(",", "").isdigit()}
    assert set(rows) == {"100", "1,000", "10,000", "100,000"}
    assert rows["100,000"].count("*") == 1 and "-" in rows["100"]
    assert "warning" not in said


def test_noise_that_drowns_the_signal_is_warned_of_with_numbers_that_help(capsys):
    words = "privacy --devices 50 --batch 10 --snapshots 100 --participations 20 --noise 1"
    said = said_by(capsys, *words.split())

    assert "No meaningful differential privacy (ε = 32.6)" in said
    assert "warning    train at most 4 of the 10,000 values" in said and "use batches of" in said
    assert "of its own for every sum" in said and "correlated noise wants" in said


def test_several_epsilons_stand_side_by_side_and_each_row_is_what_a_plan_of_that_epsilon_has(capsys):
    words = "privacy --devices 1e6 --participations 3 --snapshots 2000 --values 5000".split()
    rows = json.loads(said_by(capsys, *words, "--epsilon", "8,1,12", "--json"))

    assert [row["epsilon"] for row in rows] == pytest.approx([1, 8, 12], rel=1e-6)
    for row in rows:
        alone = json.loads(said_by(capsys, *words, "--epsilon", f"{row['epsilon']:.9g}", "--json"))
        for name in ("noise_of_a_mean", "noise_to_signal", "sigma"):
            assert row["correlated"][name] == pytest.approx(alone[name], rel=1e-6)
        plain = json.loads(said_by(capsys, *words, "--epsilon", f"{row['epsilon']:.9g}", "--plain", "--json"))
        assert row["plain"]["noise_to_signal"] == pytest.approx(plain["noise_to_signal"], rel=1e-6)
        assert row["plain"]["noise_to_signal"] > 5 * row["correlated"]["noise_to_signal"]
        assert (row["unit"], row["relation"], row["delta"]) == ("device", "zero-out", 1e-7)
    assert rows[0]["plain"]["noise_of_a_mean"] == pytest.approx(5000**0.5 * 4.679 * 3**0.5 / 50, rel=1e-3)


def test_a_fleet_that_just_fills_the_batches_is_not_refused(capsys):
    words = "privacy --devices 50000 --batch 100 --snapshots 2000 --participations 4 --json"

    assert json.loads(said_by(capsys, *words.split()))["snapshots"] == 2000


def test_what_is_printed_of_several_says_unit_delta_relation_and_trust(capsys):
    said = said_by(capsys, *"privacy --devices 2e4 --batch 100 --snapshots 500 --epsilon 1,8,12".split())

    for part in ("ε for each device at δ = 1e-07", "replaced by zeros", "Trust: single-operator", "† no ε to speak of"):
        assert part in said
    assert [line.split()[0] for line in said.splitlines() if "*" in line and line[:11].isspace()][:3] == [
        "1.00",
        "8.00",
        "12.0†",
    ]


def test_a_measured_trade_says_what_to_expect_at_the_same_noise(tmp_path, capsys):
    words = "privacy --devices 1e6 --values 5000".split()
    noises = [
        row["correlated"]["noise_to_signal"]
        for row in json.loads(said_by(capsys, *words, "--epsilon", "2,8", "--json"))
    ]
    halfway = sum(noises) / 2
    points = (Point(None, 0.0, 0.9, 1), Point(8.0, noises[1], 0.8, 1), Point(8.0, noises[1], 0.84, 2))
    trade = Trade(1, "digits", "accuracy", 500, 10, 100, 5000, "", None, (*points, Point(2.0, halfway, 0.5, 1)))
    (tmp_path / "trade.json").write_bytes(msgspec.json.encode(trade))

    rows = json.loads(said_by(capsys, *words, "--epsilon", "2,8", "--curve", str(tmp_path), "--json"))
    assert [row["correlated"]["expected"]["at_best"] for row in rows] == [True, False]
    assert [row["correlated"]["expected"]["value"] for row in rows] == pytest.approx([0.5, 0.82])
    said = said_by(capsys, *words, "--epsilon", "2,8", "--curve", str(tmp_path))
    assert "≤ 0.5" in said and "0.82" in said and "4 runs of 500 devices" in said
    assert "expect     accuracy 0.82" in said_by(capsys, *words, "--curve", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("{", "is no measured trade"), ('{"format": 1}', "is no measured trade"), (None, "holds no measured trade")],
)
def test_a_file_that_is_no_trade_is_named(text, sentence, tmp_path, capsys):
    if text is not None:
        (tmp_path / "trade.json").write_text(text)

    assert main(["privacy", "--curve", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err


def test_a_plan_says_the_same_as_its_numbers(tmp_path, capsys):
    blt = Blt((0.5, 0.9), (0.3, 0.2))
    world = make_world(tmp_path, mechanism=blt, snapshots=40, landings=3, separation=10, sigma=1.25)
    plan = read_plan(world.plan_file)

    said = json.loads(said_by(capsys, "privacy", "--plan", str(world.plan_file), "--json"))

    spent = [plan.manifest.spent(landings) for landings in range(4)]
    assert (said["sigma"], said["theta"], said["values"]) == (1.25, [0.5, 0.9], 32)
    assert said["epsilon_by_landings"] == [epsilon_of_mu(math.sqrt(one), 1e-7) for one in spent]
    assert said["epsilon"] == pytest.approx(epsilon_of_mu(0.8, 1e-7))


def test_a_plan_that_trains_nothing_has_no_signal_to_compare_with(tmp_path, capsys):
    world = make_world(tmp_path, snapshots=4, landings=1, sigma=2.0)
    program = msgspec.structs.replace(world.plan.manifest.program, scouted=tuple(Stretch(f"{n}") for n in range(32)))
    blobs = {name: blob.tobytes() for name, blob in world.plan.blobs.items()}
    manifest = msgspec.structs.replace(world.plan.manifest, program=program)
    file = tmp_path / "scout.tacit"
    file.write_bytes(build_plan(manifest, world.plan.charter, blobs, world.author))

    said = said_by(capsys, "privacy", "--plan", str(file))

    assert "ε = 2.50" in said and "one sum" in said and "signal" not in said
    assert json.loads(said_by(capsys, "privacy", "--plan", str(file), "--json"))["noise_to_signal"] is None
    assert main(["privacy", "--plan", str(file), "--picture", str(tmp_path / "a.svg")]) == 2


@pytest.mark.parametrize(("ending", "begins"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("html", b"<!doctype html>")])
def test_a_picture_is_drawn_in_the_form_that_its_name_asks_for(ending, begins, tmp_path, capsys):
    file = tmp_path / f"bought.{ending}"

    said = said_by(capsys, "privacy", "--picture", str(file))

    assert str(file) in said
    assert file.read_bytes().startswith(begins)
    if ending == "html":
        assert "<svg" in file.read_text() and "S_C = " in file.read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--devices", "many"], "--devices many: write a whole number"),
        (["--batch", "2.5"], "--batch 2.5: write a whole number"),
        (["--devices", "inf"], "--devices inf: write a whole number"),
        (["--devices", "10"], "privacy batch = 1000: there are 10 devices"),
        (["--snapshots", "0"], "privacy snapshots = 0"),
        (["--epsilon=-1"], "--epsilon -1: write numbers above 0, such as 8 or 1,2,4,8"),
        (["--epsilon", "1,two"], "--epsilon 1,two: write numbers above 0"),
        (["--epsilon", "1,2", "--noise", "1"], "--noise goes with one ε"),
        (["--epsilon", "1,2", "--picture", "bought.svg"], "--picture goes with one ε"),
        (["--threshold", "2000"], "privacy threshold = 2000: a batch holds 1000"),
        (["--devices", "100", "--batch", "50", "--threshold", "101"], "privacy threshold = 101: a batch holds 50"),
        (["--devices", "2e4", "--batch", "100"], "20,000 devices that send at most 4 each send 80,000"),
        (["--devices", "2e4", "--batch", "100"], "snapshots of at most 800, participations of at least 10"),
        (["--devices", "49999", "--batch", "100"], "49,999 devices that send at most 4 each send 199,996"),
        (["--snapshots", "3"], "participations = 4: a device lands in a batch once, and there are 3"),
        (["--curve", "nowhere"], "nowhere holds no measured trade (trade.json cannot be read: No such file"),
        (["--epsilon", "1", "--noise", "1"], "epsilon is given too"),
        (["--delta", "0.5"], "privacy delta = 0.5"),
        (["--trust", "nobody"], "it is one of single-operator, two-party, three-party"),
        (["--trust", "three-party", "--keyholders", "1"], "three-party needs 2 at least"),
        (["--separation", "1999", "--participations", "2", "--devices", "1e7"], "begin anew"),
        (["--plan", "nowhere.tacit"], "nowhere.tacit"),
        (["--plan", "nowhere.tacit", "--epsilon", "4"], "leave out --epsilon"),
        (["--plan", "nowhere.tacit", "--plain"], "leave out --plain"),
        (["--picture", "bought.jpg"], "a picture is a .html, .svg or .png file, not '.jpg'"),
    ],
)
def test_wrong_numbers_end_with_2_and_one_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    code = main(["privacy", *words])

    said = capsys.readouterr()
    assert code == 2 and said.err.count("\n") == 1 and sentence in said.err
    assert said.out == ""


def test_a_plan_whose_sites_add_the_noise_is_referred_to_inspect(tmp_path, capsys):
    world = make_world(tmp_path, mechanism=OnDevice("patient", 1.0, 1), sigma=1.0, target=4)

    assert main(["privacy", "--plan", str(world.plan_file)]) == 2
    assert "add their noise themselves" in capsys.readouterr().err
