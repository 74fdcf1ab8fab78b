"""A sweep's file: every combination once, under a name that people can read; what is wrong is found by line and key."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.cli.grid import GridInvalid, read_grid

WHOLE = """\
# what 500 phones do
[run]
task = "task.py"
at-work = 20
keep = true
quiet = false
mix = ["phone-mid=0.6", "pi-4b=0.4"]

[grid]
strategy = ["tacit", "fedavg"]
seed = [1, 2]

[[point]]
strategy = "central"
seed = 1
days = 0.5
"""


def written(tmp_path, text):
    file = tmp_path / "grid.toml"
    file.write_text(text)
    return file


def test_every_combination_and_every_point_is_a_run_with_what_is_the_same_in_all(tmp_path):
    points = read_grid(written(tmp_path, WHOLE)).points

    assert [point.name for point in points] == [
        "strategy-tacit_seed-1",
        "strategy-tacit_seed-2",
        "strategy-fedavg_seed-1",
        "strategy-fedavg_seed-2",
        "strategy-central_seed-1_days-0.5",
    ]
    fixed = ["task.py", "--at-work=20", "--keep", "--mix=phone-mid=0.6,pi-4b=0.4"]
    assert points[1].words == [*fixed, "--strategy=tacit", "--seed=2"]
    assert points[4].words == [*fixed, "--strategy=central", "--seed=1", "--days=0.5"]


def test_a_point_replaces_what_is_the_same_elsewhere_and_a_run_that_is_named_twice_is_played_once(tmp_path):
    text = '[run]\ntask = "a.py"\nseed = 1\n[[point]]\nseed = 2\n[[point]]\nseed = 2\n'

    assert [point.words for point in read_grid(written(tmp_path, text)).points] == [["a.py", "--seed=2"]]


def test_values_that_read_the_same_as_a_name_are_told_apart(tmp_path):
    text = '[run]\ntask = "a.py"\n[grid]\nsplit = ["a:b", "a,b", "a-b"]\n'
    names = [point.name for point in read_grid(written(tmp_path, text)).points]

    assert names[0] == "split-a-b" and len(set(names)) == 3 and all(name.startswith("split-a-b") for name in names)


def test_without_a_grid_there_is_the_one_run(tmp_path):
    assert [point.name for point in read_grid(written(tmp_path, '[run]\ntask = "a.py"\n')).points] == ["run"]


@given(st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]), max_size=130), min_size=1))
def test_names_are_folders_of_their_own_whatever_the_values(tmp_path_factory, values):
    quoted = ", ".join('"' + value.replace("\\", "").replace('"', "") + '"' for value in values)
    file = written(tmp_path_factory.mktemp("grid"), f'[run]\ntask = "a.py"\n[grid]\ndata = [{quoted}]\n')

    points = read_grid(file).points

    assert len(points) == len({value.replace("\\", "").replace('"', "") for value in values})
    for one, other in itertools.combinations(points, 2):
        assert one.name.casefold() != other.name.casefold() or one.name != other.name
    for point in points:
        assert "/" not in point.name and not point.name.startswith(".") and len(point.name) < 130


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[run\n", "grid.toml is no TOML: Expected ']'"),
        ('[run]\ntask = "a.py"\ntask = "b.py"\n', "(at line 3"),
        ('[run]\ntask = "a.py"\n\n[gird]\nseed = [1]\n', "grid.toml line 4, gird: [gird] is no table of a sweep"),
        ('seed = 1\n[run]\ntask = "a.py"\n', "grid.toml line 1, seed: it stands in no table"),
        ('[run]\ntask = "a.py"\n[grid]\nseed = 1\n', "grid.toml line 4, grid.seed: a list of at least one value"),
        ('[run]\ntask = "a.py"\n[grid]\nseed = []\n', "grid.toml line 4, grid.seed: a list of at least one value"),
        ('[run]\ntask = "a.py"\ndays = 1979-05-27\n', "grid.toml line 3, run.days: a text, a number"),
        ('[run]\ntask = "a.py"\n[grid]\nmix = [{a = 1}]\n', "grid.toml line 4, grid.mix: a text, a number"),
        ('[run]\ntask = "a.py"\nout = "b"\n', "grid.toml line 3, run.out: leave it out, the sweep names the folders"),
        ('[run]\ntask = "a.py"\n"a b" = 1\n', "grid.toml line 3, run.a b: 'a b' is no option"),
        ('[run]\ntask = "a.py"\n[point]\nseed = 1\n', "grid.toml line 3, point: write it as [[point]]"),
        ("[run]\nseed = 1\n", 'no task is named; write task = "task.py" below [run]'),
    ],
)
def test_what_is_wrong_is_found_by_line_and_key(text, sentence, tmp_path):
    with pytest.raises(GridInvalid) as raised:
        read_grid(written(tmp_path, text))

    assert sentence in str(raised.value)


@given(st.text(max_size=200))
def test_any_text_is_a_grid_or_an_error_of_ours(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("grid") / "grid.toml"
    file.write_text(text)

    with contextlib.suppress(GridInvalid):
        read_grid(file)
