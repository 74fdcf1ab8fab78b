"""The benchmark of choice: who is compared, with what, and what is concluded."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from choice.contestants import Contest, planned
from choice.contribution import Contributions, contributions
from choice.data import CLASSES, HOLDOUT, OWN, PROXIES, Data, Examples, NoData
from choice.evolution import SHARES, Genes, evolved, fittest, random_subset
from choice.prices import Prices
from choice.settings import Setting
from choice.training import Learnt, learnt
from torch import nn

from bench.planner import Result, goals, noise, text

PUBLIC = 100


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES)
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Iterator[Data]:
    """Images of 8 × 8, each bright where its class says."""
    folder = tmp_path_factory.mktemp("data")
    draw, count = np.random.default_rng(0), PROXIES + HOLDOUT + OWN + PUBLIC
    y = draw.integers(0, CLASSES, count).astype(np.uint8)
    x = draw.integers(0, 100, (count, 8, 8)).astype(np.uint8)
    x[np.arange(count), y // 4 * 3 + 1, y % 4 * 2] = 255
    np.savez(folder / "small.npz", x_train=x, y_train=y, x_test=x[:200], y_test=y[:200])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TACIT_DATA", str(folder))
        patched.setattr("choice.training.BUILD", folder)
        yield Data("small", "small.npz", small, (0.2,), (0.3,), PUBLIC, 1, False, 96, ("1", "3"))


@pytest.fixture(scope="module")
def contest(data) -> Contest:
    torch.manual_seed(0)
    setting = Setting(data, "scratch", data.parts(), small().state_dict())
    return Contest(setting, Prices(small().eval(), (1, 8, 8)), contributions(setting))


def result(contestant: str, accuracy: float, memory: int = 1024) -> Result:
    return Result("d", "s", memory, contestant, contestant, 900, 0.1, Learnt(10.0, (accuracy,), 0.1, 5, 0))


def test_the_planner_holds_its_goal_within_one_point_of_the_best_and_not_beyond():
    near = goals([result("planner", 80.0), result("head", 81.0), result("low-rank", 70.0)])[-1]
    far = goals([result("planner", 80.0), result("head", 81.1)])[-1]

    assert (near.measure, near.holds) == ("d, s, 1 KiB: behind head", True)
    assert (far.holds, pytest.approx(far.value)) == (False, 1.1)


def test_random_subsets_count_by_their_mean():
    rows = goals([result("planner", 80.0), result("random 1", 83.0), result("random 2", 77.0)])

    assert [(row.measure, row.value) for row in rows[1:]] == [
        ("d, s, 1 KiB: random", 80.0),
        ("d, s, 1 KiB: behind random", 0.0),
    ]


def test_the_table_says_what_does_not_fit_and_how_large_noise_is():
    found = [result("planner", 80.0, 2048), result("planner", 70.0), result("low-rank", 75.0, 2048)]
    twice = replace(found[0], learnt=replace(found[0].learnt, tests=(80.0, 82.0)))

    assert "low-rank                          75.0             –" in text(found, [])
    assert noise([twice]) == pytest.approx(2**0.5)


def test_no_image_is_in_two_parts(data):
    parts = data.parts()
    pieces = [parts.public, parts.proxies, parts.holdout, parts.own]

    assert [len(piece.y) for piece in pieces] == [PUBLIC, PROXIES, HOLDOUT, OWN]
    seen = {image.tobytes() for piece in pieces for image in piece.x}
    assert len(seen) == sum(len(piece.y) for piece in pieces)  # all images differ, so none came twice


def test_a_data_set_that_is_not_at_hand_is_named(data, monkeypatch):
    monkeypatch.delenv("TACIT_DATA")

    with pytest.raises(NoData, match=r"set TACIT_DATA to the folder that holds small\.npz"):
        data.parts()


def test_contributions_are_squared_gradients_by_input_feature(contest):
    setting = contest.setting
    parts = replace(setting.parts, proxies=setting.parts.proxies[slice(16)])
    one = contributions(Setting(setting.data, setting.start, parts, setting.weights))
    module = setting.module()
    y = torch.from_numpy(parts.proxies.y).long()
    loss = nn.functional.cross_entropy(module(torch.from_numpy(parts.proxies.x)), y)
    loss.backward()

    assert one.of["2.weight"] == pytest.approx((module[2].weight.grad.double() ** 2).sum((0, 2, 3)).numpy())
    assert one.of["5.bias"] == pytest.approx([(module[5].bias.grad.double() ** 2).sum().item()])


@pytest.mark.parametrize("memory", [9_000, 41_000])
def test_whoever_takes_part_fits_the_memory(contest, memory):
    chosen = {name: choose() for name, choose in contest.all(memory, draws=1).items()}

    assert chosen["planner"] == planned(contest.setting.task, memory)
    assert {name for name, subset in chosen.items() if subset is not None} >= {"planner", "head", "random 1"}
    for name, subset in chosen.items():
        assert subset is None or contest.prices.of(subset) <= memory, name


def test_a_larger_memory_takes_more_layers_and_slices_are_where_most_is_contributed(contest):
    weighty = np.zeros(64)
    weighty[40:48] = 1.0
    given = Contest(contest.setting, contest.prices, Contributions({**contest.contributions.of, "5.weight": weighty}))

    assert given.contributions.best_range("5", 8) == range(40, 48)
    assert len(given.last_layers(9_000) or ()) < len(given.last_layers(41_000) or ()) == 6


def test_the_search_finds_nearly_the_best_there_is(contest):
    genes = Genes(contest.prices, contest.contributions)
    every = np.array(list(product(range(len(SHARES)), repeat=len(genes.layers))))
    every = every[(genes.contribution[np.arange(len(genes.layers)), every] >= 0).all(1)]

    for memory in (5_000.0, 9_000.0, 14_000.0):
        best = genes.summed(every)[genes.memory(every) <= memory].max()
        found = fittest(genes.contribution, genes, memory)[None]
        assert genes.memory(found)[0] <= memory
        assert genes.summed(found)[0] >= 0.99 * best


def test_drawn_subsets_differ_by_seed_and_searched_ones_contribute_more(contest):
    genes = contest.genes
    drawn = {random_subset(genes, 12_000, seed) for seed in range(6)}

    assert len(drawn) > 2
    assert evolved(genes, 12_000) not in (None, ())


def test_learning_ends_well_and_is_not_done_twice(contest):
    said: list[str] = []
    first = learnt(contest.setting, contest.everything(), 96, 2, said.append)
    again = learnt(contest.setting, contest.everything(), 96, 2, said.append)

    assert first == again and len(said) == 1
    assert first.begin < 30 < 80 < first.test
    assert len(first.tests) == 2 and first.values == sum(p.numel() for p in small().parameters())


def test_a_rate_at_which_training_diverges_is_not_chosen(contest, monkeypatch):
    monkeypatch.setattr("choice.training.RATES", (1e-3, 1e-2, 1e-1, 1e30))
    monkeypatch.setattr("choice.training.FIRST", (1, 3))

    assert learnt(contest.setting, contest.everything(), 48, 1, lambda _: None).rate == 0.1


def test_examples_are_taken_by_index():
    taken = Examples(np.arange(6, dtype=np.float32)[:, None], np.arange(6, dtype=np.int32))[np.array([4, 1])]

    assert taken.y.tolist() == [4, 1] and taken.x.ravel().tolist() == [4.0, 1.0]
