"""`tacit estimate`: a table for people, an object for machines, and a sentence where something is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tacit.cli import main
from tacit.cli.estimate import explained
from tacit.plan.profile import RANGES, encode_profile, read_profile, shipped

ROOT = Path(__file__).parents[2]

TASK = """\
import tacit
from torch import nn

task = tacit.Task(
    name="mine",
    model=lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)),
    example={"x": tacit.array((4,)), "y": tacit.label(3)},
    subset=["2"],
    privacy=tacit.Privacy(noise=0.1, devices=3, batch=2, threshold=2, snapshots=20, participations=20),
)
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimate")
    (folder / "mine.py").write_text(TASK)
    assert main(["compile", str(folder / "mine.py"), "-o", str(folder / "mine.tacit"), "--home", str(folder)]) == 0
    return str(folder / "mine.tacit")


def devices(text):
    """The rows of the table by their first word."""
    lines = text.splitlines()
    table = lines[2 : lines.index("", 3)]
    assert table[0].split() == [
        "device",
        "by",
        "first",
        "later",
        "compute",
        "joules",
        "battery",
        "mAh",
        "memory",
        "fits",
    ]
    return {line.split()[0]: line for line in table[1:]}


def test_every_device_has_a_line_and_what_is_not_metered_is_said(plan, capsys):
    assert main(["estimate", plan]) == 0

    said = capsys.readouterr().out
    assert set(devices(said)) == set(shipped())
    assert all(line.endswith("yes") for line in devices(said).values())
    assert "energy     coefficient, not metered" in said
    assert "over 90 examples" in said and "10 held back" in said


def test_the_object_holds_what_the_table_shows(plan, capsys):
    assert main(["estimate", plan, "--device", "phone-mid", "pi-4b", "--examples", "20", "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["examples"], found["held_back"]) == (18, 2)
    phone, board = found["devices"]
    assert (phone["profile"], phone["radio"], phone["fits"], phone["metered"]) == ("phone-mid", "wifi", "", False)
    assert phone["seconds"] == pytest.approx(phone["compute_seconds"] + phone["radio_seconds"])
    assert phone["first_seconds"] > phone["seconds"]
    assert phone["battery_share"] > 0 and board["battery_share"] is None
    assert phone["joules"] == pytest.approx(phone["compute_joules"] + phone["radio_joules"])


def test_a_radio_that_was_asked_for_leaves_out_devices_without_it(plan, capsys):
    assert main(["estimate", plan, "--radio", "lte"]) == 0

    said = capsys.readouterr().out
    assert set(devices(said)) == {"phone-mid", "phone-recent", "browser-phone"}
    assert "left out   laptop-entry, micro-server, pi-3b-plus, pi-4b, pi-5: no lte there" in said


def test_a_plan_that_does_not_fit_a_device_says_why(plan, tmp_path, capsys):
    small = msgspec.structs.replace(read_profile("pi-4b"), name="tiny", memory_bytes=60_000_000, base_bytes=59_999_999)
    file = tmp_path / "tiny.json"
    file.write_bytes(encode_profile(small))

    assert main(["estimate", plan, "--device", "pi-4b", str(file)]) == 0

    said = capsys.readouterr().out
    assert devices(said)["pi-4b"].endswith("yes")
    assert devices(said)["tiny"].endswith("no")
    assert "does not fit   tiny: its process takes 60,0" in said and "the device has 60,000,000" in said


def test_energy_that_was_fitted_to_a_meter_is_said_to_be(plan, tmp_path, capsys):
    file = tmp_path / "metered.json"
    file.write_bytes(encode_profile(msgspec.structs.replace(read_profile("pi-4b"), name="mine", metered=True)))

    main(["estimate", plan, "--device", str(file)])
    assert "energy     fitted to a meter\n" in capsys.readouterr().out
    main(["estimate", plan, "--device", str(file), "pi-5"])
    assert "energy     fitted to a meter on mine; else a coefficient, not metered\n" in capsys.readouterr().out


def test_sources_are_printed_for_every_number(capsys):
    assert main(["estimate", "--device", "phone-recent", "--explain"]) == 0

    said = capsys.readouterr().out
    assert "  battery.watt_hours = 16.77 = 4356 / 1000 * 3.85\n    derived: battery.capacity 4356 mAh" in said
    assert said.count("\n    https://") >= 15


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{plan}", "--device", "toaster"], "there is no profile 'toaster'; there are browser-phone,"),
        (["{plan}", "--device", "nowhere.json"], "nowhere.json cannot be read"),
        (["{plan}", "--device", "pi-5", "--radio", "lte"], "pi-5 has no radio lte; it has wifi, none"),
        (["{plan}", "--examples", "0"], "--examples = 0: a device has at least 1"),
        ([], "name a Plan"),
        (["--device", "pi-5", "{plan}"], "name the Plan before the devices"),
        (["nowhere.tacit"], "there is no file nowhere.tacit"),
    ],
)
def test_wrong_input_ends_with_2_and_one_sentence(words, said, plan, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert main(["estimate", *(word.format(plan=plan) for word in words)]) == 2

    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_neither_torch_nor_the_engine_is_loaded(plan):
    script = f"import sys, tacit.cli\ntacit.cli.main(['estimate', {plan!r}])\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    loaded = set(done.stdout.splitlines()[-1].split())
    assert "tacit.plan.estimate" in loaded
    assert not {name for name in loaded if name.startswith(("torch", "tacit.engine", "tacit.compiler"))}


def test_the_reference_shows_what_explain_prints():
    text = (ROOT / "docs" / "reference" / "profiles.md").read_text()
    printed = "\n\n".join("\n".join(explained(read_profile(name))) for name in shipped())

    assert f"\n```\n{printed}\n```\n" in text, "paste what `tacit estimate --explain` prints into its last block"
    for field, found in RANGES.items():
        assert f"| `{field}` | {found.low:,g} and {found.high:,g} | {found.unit} |\n" in text, field
