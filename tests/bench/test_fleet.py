"""The benchmark of the fleet: what it concludes from figures, and that its contestants do the same work."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peers.vectorised import by_hand, by_vmap
from peers.work import CASES, Case, net, prepare, put, split

from bench.fleet import GOALS, PROGRAMS, ROOT, TITLES, Speed, compiled_for, initial, memory_of, rows_of

MLP = CASES["mlp"]
ALIKE = (1.0, 1.0, 1.0)
OURS = Speed("mlp", "ours", 4000.0, ALIKE, ALIKE, 0.5, 1.2, 2**27, {})
SLOW = Speed("mlp", "flower", 20.0, (200.0, 150.0, 230.0), (50.0, 40.0, 60.0), 90.0, 1.201, 2**30, {})


def by_measure(found: list[Speed]) -> dict[str, bool | None]:
    return {row.measure.rpartition(" (")[0] or row.measure: row.holds for row in rows_of(found)}


def test_a_goal_holds_by_the_median_of_ratios_and_all_must_have_learnt_the_same():
    good = by_measure([OURS, SLOW])

    assert good["HAR MLP 561-64-6: tacit, training alone, against Flower"] is True
    assert good["HAR MLP 561-64-6: tacit, whole rounds, against Flower"] is False
    assert [holds for measure, holds in good.items() if "loss after" in measure] == [True]
    slower = by_measure([OURS, replace(SLOW, ratio=(99.0, 90.0, 230.0))])
    assert slower["HAR MLP 561-64-6: tacit, training alone, against Flower"] is False
    skipped = by_measure([OURS, replace(SLOW, loss=1.3)])
    assert [holds for measure, holds in skipped.items() if "loss after" in measure] == [False]


def test_every_goal_is_of_a_contestant_that_has_a_title_and_a_program():
    for case, goals in GOALS.items():
        assert case in CASES
        for name in goals:
            assert name in TITLES and (PROGRAMS / f"{name}.py").exists()


def test_training_needs_as_many_multiply_adds_as_the_layers_say():
    assert MLP.operations == 561 * 64 * 2 + 64 * 6 * 3
    assert 36e6 < CASES["cnn"].operations < 38e6


def test_memory_counts_the_processes_that_a_process_has_started():
    size = 60 * 2**20
    child = f"b = bytearray(b'a' * {size}); print(flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        found = memory_of(process.pid)
        process.stdin.close()

    assert size < found < size + 60 * 2**20


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Path]:
    """A fleet of a hundred devices, in the same folder as a large one would be."""
    folder, case = tmp_path_factory.mktemp("peers"), replace(MLP, devices=100)
    model = net("mlp")
    prepare(case, folder, initial("mlp", model))
    compiled_for("mlp", model, folder / "ours")
    return case, folder


def plain(case: Case, folder: Path, device: int) -> list[torch.Tensor]:
    """What a visit from the first Snapshot leads to, by autograd."""
    model = net("mlp")
    put(model, np.load(folder / "start.npy"))
    optimizer = torch.optim.SGD(model.parameters(), lr=case.rate)
    x = torch.from_numpy(np.load(folder / "x.npy")[device])
    y = torch.from_numpy(np.load(folder / "y.npy")[device])
    for part in case.minibatches():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def test_vectorised_devices_train_as_one_after_another(small: tuple[Case, Path]):
    case, folder = small
    devices = [3, 1, 7]
    each = [plain(case, folder, device) for device in devices]
    wanted = [torch.stack(parts).sum(0) for parts in zip(*each, strict=True)]
    shapes = [tuple(values.shape) for values in wanted]
    start = [torch.from_numpy(values.copy()) for values in split(np.load(folder / "start.npy"), shapes)]
    x = torch.from_numpy(np.load(folder / "x.npy")[devices])
    y = torch.from_numpy(np.load(folder / "y.npy")[devices])

    for training in (by_hand, by_vmap):
        for own, expected in zip(training(case, start, x, y), wanted, strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


def test_our_program_answers_a_turn_with_the_mean_of_what_its_devices_learnt(small: tuple[Case, Path]):
    case, folder = small
    case = replace(case, cohort=4)
    program = (
        "import sys; from dataclasses import replace; from peers import ours, work;"
        f"work.CASES = {{'mlp': replace(work.CASES['mlp'], devices={case.devices}, cohort={case.cohort})}};"
        "ours.main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "mlp", str(folder)],
        input='{"rounds": 1}\n',
        capture_output=True,
        text=True,
        env={"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "bench", ROOT, ROOT / "src")))},
        check=True,
    )
    ready, turn = (json.loads(line) for line in ended.stdout.splitlines())

    learnt = [np.concatenate([v.numpy().ravel() for v in plain(case, folder, device)]) for device in case.chosen(0)]
    assert ready == {"microbatch": 16} and turn["devices"] == case.cohort
    np.testing.assert_allclose(np.load(folder / "ours.npy"), np.mean(learnt, axis=0), rtol=1e-4, atol=1e-5)
