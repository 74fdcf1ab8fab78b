"""What ε costs, by simulation: the same run without noise and under each ε, and what `tacit privacy` makes of it."""

import json
from dataclasses import replace

import numpy as np
import pytest

import tacit
from tacit.cli import main
from tacit.cli.measured import read_trade
from tacit.cli.trade import cases, drawn_for_a_sum, elsewhere
from tacit.errors import InputError
from tacit.fleet.folder import Folder
from tacit.fleet.strategy import Sizes, parse, policy_of

TASK = """\
import tacit
import torch

def model():
    torch.manual_seed(0)
    return torch.nn.Linear(8, 3)

task = tacit.Task(
    name="blobs", model=model, example={"x": tacit.array((8,)), "y": tacit.label(3)}, loss="cross_entropy",
    metrics=["accuracy"], local=tacit.Local(minibatch=8, optimizer=tacit.sgd(0.3)), subset=["weight", "bias"],
    privacy=tacit.Privacy(noise=0.01, batch=500, threshold=5, snapshots=200, participations=3),
)
"""


def blobs():
    """Examples of three kinds that a line tells apart."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 900).astype(np.int32)
    inputs = 2 * random.normal(size=(3, 8))[labels] + random.normal(size=(900, 8))
    return {"x": inputs.astype(np.float32), "y": labels}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("trade")
    (place / "task.py").write_text(TASK)
    np.savez(place / "data.npz", **blobs())
    return place


def simulate(place, *words):
    """A fleet of 60 devices, and where it went."""
    out = place / "out"
    fixed = ["simulate", place / "task.py", "--data", place / "data.npz", "--devices", 60, "--batch", 10]
    code = main([str(word) for word in [*fixed, "--updates", 100, "--no-pictures", "--out", out, *words]])
    return code, out


def test_every_epsilon_is_played_and_said_and_drawn_and_tacit_privacy_reads_it(place, capsys):
    code, out = simulate(place, "--epsilon", "8,2")
    said = capsys.readouterr()

    assert code == 0, said.err
    measured = read_trade(out)
    assert [point.epsilon for point in measured.points] == [None, 2, 8]
    without, low, high = measured.points
    assert without.ratio == 0 < high.ratio < low.ratio
    assert without.value > 0.8 and without.value >= high.value - 0.05
    for point, name in zip(measured.points, ("without-noise", "epsilon-2", "epsilon-8"), strict=True):
        (folder,) = (Folder(path.parent) for path in (out / name).glob("tacit*/settings.json"))
        assert folder.summary().epsilon == pytest.approx(point.epsilon) if point.epsilon else True
        assert f"{point.value:.4f}" in said.out
    for part in ("ε for each device at δ = 1e-07", "replaced by zeros", "Trust: single-operator"):
        assert part in said.out
    assert (out / "trade.html").read_text().startswith("<!doctype html>")
    assert (out / "trade.png").read_bytes().startswith(b"\x89PNG")

    before = {file: file.read_bytes() for file in out.rglob("summary.json")}
    assert simulate(place, "--epsilon", "2,8")[0] == 0
    assert "is done" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in out.rglob("summary.json")} == before

    assert main(["privacy", "--values", "27", "--epsilon", "1,8", "--curve", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["correlated"]["expected"]["value"] <= rows[1]["correlated"]["expected"]["value"]
    assert rows[1]["correlated"]["expected"]["value"] == pytest.approx(without.value, abs=0.05)


def task(**privacy):
    named = tacit.Privacy(batch=500, threshold=5, snapshots=200, participations=3, noise=0.01)
    example = {"x": tacit.array((8,)), "y": tacit.label(3)}
    return tacit.Task("blobs", dict, example, "cross_entropy", subset=["weight"], privacy=replace(named, **privacy))


def test_as_if_a_mean_has_the_noise_of_a_larger_fleets_mean_and_differs_from_the_run_without_in_noise_alone():
    sizes = Sizes(60, 100, batch=10)
    there = elsewhere(policy_of(task()), "1e6/500")
    without, low, high = cases(task(), parse("tacit"), sizes, (1.0, 8.0), there)

    for case in (low, high):
        assert case.epsilon is not None and case.privacy.noise is not None
        whole = tacit.Privacy(epsilon=case.epsilon, batch=500, participations=3, snapshots=200, correlated=False)
        numbers = whole.numbers(100, 1).noise
        assert case.privacy.noise / 10 == pytest.approx(numbers.sigma * numbers.sensitivity / 500)
        assert (case.privacy.epsilon, case.sizes, case.strategy) == (None, without.sizes, without.strategy)
        assert replace(case.privacy, noise=1) == replace(without.privacy, noise=1)
    assert drawn_for_a_sum(there, 1.0) > 5 * drawn_for_a_sum(there, 8.0)
    assert set(without.strategy.without) == {"class-sums", "clip"} and without.sizes.batch == 10


@pytest.mark.parametrize(
    ("strategy", "epsilons", "sentence"),
    [
        ("fedavg", (1.0,), "fedavg adds no noise"),
        ("tacit:without=noise", (1.0,), "adds no noise"),
        ("tacit", (1.0, 20.0), "--epsilon 20 is not called privacy by anybody"),
    ],
)
def test_what_cannot_be_traded_is_said_before_anything_is_played(strategy, epsilons, sentence):
    with pytest.raises(InputError) as raised:
        list(cases(task(), parse(strategy), Sizes(60, 100, batch=10), epsilons, None))

    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--as-if-devices", "1e6"], "name an ε, or several, with --epsilon"),
        (["--epsilon", "4", "--as-if-devices", "1e3"], "1,000 devices that send at most 3 each send 3,000"),
        (["--epsilon", "4", "--as-if-devices", "1e6/many"], "--as-if-devices many: write a whole number"),
        (["--epsilon", "1,x"], "--epsilon 1,x: write numbers above 0"),
        (["--epsilon", "1,2", "--strategy", "tacit,fedavg"], "draws one strategy"),
    ],
)
def test_wrong_words_end_with_2_and_one_sentence(words, sentence, place, capsys):
    code, _ = simulate(place, *words)

    assert code == 2
    assert sentence in capsys.readouterr().err


def test_the_noise_of_a_larger_fleet_depends_on_its_batches_and_not_on_how_many_devices_there_are():
    privacy = tacit.Privacy(participations=1, batch=100, snapshots=100)
    small, large = elsewhere(privacy, "1e6"), elsewhere(privacy, "1e8")

    assert drawn_for_a_sum(small, 4.0) == pytest.approx(drawn_for_a_sum(large, 4.0))
    assert drawn_for_a_sum(small, 1.0) == pytest.approx(4.679, rel=1e-3)
    assert (small.batch, elsewhere(privacy, "1e6/2000").batch) == (1000, 2000)
