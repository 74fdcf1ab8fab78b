"""The evaluator's verdicts: when it raises the alarm, and what it makes of its own history."""

import json
from pathlib import Path

import numpy as np
import pytest

from tacit.cli import main
from tacit.cli.judge import Examiner, SnapshotFell, Verdict, fallen, read_history
from tacit.device.examples import check_examples
from tacit.errors import InputError
from tacit.plan.bundle import encode_snapshot
from tacit.wire.ids import PlanId, sha256
from tacit.wire.messages import Head
from tests.device.coordinating import staged
from tests.device.scripted import Answer
from tests.device.small import D, examples, learning_world, link_to, save_examples


def verdict(version: int, accuracy: float | None = None, loss: float | None = 1.0) -> Verdict:
    return Verdict(version, "", 100, loss, accuracy)


def test_the_newest_is_measured_against_the_best():
    rising = [verdict(0, 0.2), verdict(1, 0.9), verdict(2, 0.86)]

    assert fallen(rising, 5.0) is None
    assert fallen([*rising, verdict(3, 0.84)], 5.0) == rising[1]
    assert fallen([*rising, verdict(3, 0.1), verdict(4, 0.95)], 5.0) is None
    assert fallen([], 5.0) is None


def test_where_nothing_is_right_or_wrong_the_loss_counts():
    falling = [verdict(0, loss=4.0), verdict(1, loss=2.0)]

    assert fallen([*falling, verdict(2, loss=2.08)], 5.0) is None
    assert fallen([*falling, verdict(2, loss=2.12)], 5.0) == falling[1]
    assert fallen([*falling, verdict(2, loss=None)], 5.0) == falling[1]
    assert fallen([verdict(0, loss=None), verdict(1, loss=None)], 5.0) is None


def test_the_alarm_says_what_happened_and_how_to_go_back():
    said = str(SnapshotFell(verdict(7, 0.31), verdict(5, 0.92), 5.0, Path("best.bin")))

    for words in ("Snapshot 7 is right on 31.0%", "Snapshot 5 was on 92.0%", "--from-snapshot best.bin"):
        assert words in said
    assert "has a loss of no number" in str(SnapshotFell(verdict(7, loss=None), verdict(5), 5.0, Path("best.bin")))


def test_a_snapshot_is_as_good_as_the_model_is_on_the_examples(tmp_path: Path):
    plan = learning_world(tmp_path).plan
    program = plan.manifest.program
    held = check_examples(examples(60), program.inputs, program.label, "here")
    weights = np.zeros((3, 4), np.float32)
    weights[:, :3] = np.eye(3) * 4
    good = encode_snapshot(np.concatenate([weights.ravel(), np.zeros(3, np.float32)]))
    judged = [
        Examiner(plan, held).verdict(Head(PlanId(plan.plan_id), version, sha256(data), ()), data)
        for version, data in enumerate((plan.initial_snapshot, good))
    ]

    assert len(good) == 4 * D
    assert judged[0].loss == pytest.approx(np.log(3), abs=1e-5) and judged[1].accuracy == 1.0
    assert fallen(judged, 5.0) is None and fallen(judged[::-1], 5.0) == judged[1]


def test_the_evaluator_waits_for_a_coordinator_that_is_away_and_ends_with_the_run(tmp_path: Path, capsys):
    world = learning_world(tmp_path / "world")
    data = save_examples(tmp_path / "check.npz", 40)
    files = ["--history", str(tmp_path / "h.jsonl"), "--best", str(tmp_path / "best.bin"), "--poll", "0.01"]
    with staged(world, tmp_path) as stage:
        script, pretender = stage.script, stage.pretender
        pretender.publish(1)
        for version in (0, 1):
            script.on(f"GET {version}", pretender.head(version))
        busy = Answer(503, b"busy")
        script.on("GET status", busy, Answer(body=b'{"ended": null}'), busy, Answer(body=b'{"ended": "all opened"}'))
        words = ["judge", str(link_to(world, script.port)), "--examples", str(data), *files]
        code = main(words)
        once = main([*words, "--once"])
        script.on("GET 1", pretender.head(0))
        forged = main([*words, "--history", str(tmp_path / "other.jsonl"), "--once"])

    said = capsys.readouterr()
    history = [json.loads(line) for line in (tmp_path / "h.jsonl").read_text().splitlines()]
    assert (code, once, forged) == (0, 0, 1) and said.err.count("waiting: ") == 2
    assert [one["version"] for one in history] == [0, 1] and said.out.count("\n") == 3
    assert sha256((tmp_path / "best.bin").read_bytes()).hex() == history[0]["snapshot"]
    assert "was asked for HEAD 1 and sent HEAD 0" in said.err


@pytest.mark.parametrize("line", ["no json", "{}", '{"plan_id": "00", "version": 1}', "[1]"])
def test_a_file_that_is_no_history_is_left_alone(tmp_path: Path, line):
    plan = learning_world(tmp_path).plan
    path = tmp_path / "judged.jsonl"
    path.write_text(line + "\n")

    with pytest.raises(InputError, match="is not a history"):
        read_history(path, plan)


def test_the_history_of_another_plan_is_not_continued(tmp_path: Path):
    plan = learning_world(tmp_path).plan
    path = tmp_path / "judged.jsonl"
    line = {"plan_id": "00" * 32, "version": 0, "snapshot": "", "examples": 1, "loss": 1.0, "accuracy": None}
    path.write_text(json.dumps(line) + "\n")

    with pytest.raises(InputError, match="of another Plan"):
        read_history(path, plan)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluate"], "name a Plan to make an evaluation of"),
        (["evaluate", "nowhere.tacit"], "there is no file nowhere.tacit"),
        (["evaluate", "x.tacit", "--batch", "0"], "--batch 0: give a number of at least 1"),
        (["evaluate", "x.tacit", "--noise", "-1"], "--noise -1: give a number above 0"),
        (["evaluate", "x.tacit", "--most-loss", "nan"], "--most-loss nan"),
        (["evaluate", "x.tacit", "--bins", "31"], "--bins 31: give a number from 0 to 30"),
        (["evaluate", "--read", "example.org"], "is not a join link"),
        (["judge", "example.org", "--examples", "x.npz"], "is not a join link"),
        (["judge", "http://h/join/x", "--examples", "x.npz", "--fall", "0"], "--fall 0: give a number of points"),
        (["compile", "x.py", "--evaluators", "51"], "--evaluators 51"),
    ],
)
def test_bad_words_are_refused_in_one_sentence(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.py").write_text(
        "import tacit, torch\ntask = tacit.Task(name='x', model=lambda: torch.nn.Linear(2, 2),"
        " example={'x': tacit.array((2,)), 'y': tacit.label(2)})\n"
    )
    assert main([*words, "--home", str(tmp_path)] if words[0] == "compile" else words) == 2
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said
