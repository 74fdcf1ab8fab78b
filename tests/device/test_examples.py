"""An owner's data fit the Plan, or the first example that does not is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tacit.device.examples import (
    ExampleMisshaped,
    ExamplesUnreadable,
    FieldMissing,
    NoExamples,
    ValueRefused,
    check_examples,
    read_examples,
    shuffled,
    split,
    split_examples,
)
from tacit.errors import InputError
from tacit.plan.program import Field

IMAGE = (Field("x", (1, 8, 8), "float32", 0),)
ROW = (Field("x", (3,), "float32", 0),)
TOKENS = (Field("x", (2,), "int32", 0, classes=100),)
LABEL = Field("y", (), "int32", 0, classes=10)


def images(count: int = 20) -> dict[str, np.ndarray]:
    return {"x": np.full((count, 1, 8, 8), 0.5, np.float32), "y": np.arange(count) % 10}


def saved(path: Path, **given: Any) -> Path:
    np.savez(path, allow_pickle=True, **given)
    return path


def test_an_npz_is_read_by_the_names_of_the_fields(tmp_path: Path):
    found = read_examples(saved(tmp_path / "a.npz", **images()), IMAGE, LABEL)

    assert len(found) == 20 and found.inputs["x"].shape == (20, 1, 8, 8)
    assert found.labels.dtype == np.int32 and found.labels[13] == 3


def test_a_missing_channel_axis_of_size_one_is_put_in():
    data = images()

    found = check_examples({**data, "x": data["x"][:, 0]}, IMAGE, LABEL, "here")

    assert found.inputs["x"].shape == (20, 1, 8, 8)


def test_an_example_of_another_shape_is_named_with_both_shapes():
    data = images()

    with pytest.raises(ExampleMisshaped, match=r"example 0: x has shape \(8, 9\), this Plan trains on \(1, 8, 8\)"):
        check_examples({**data, "x": np.zeros((20, 8, 9))}, IMAGE, LABEL, "here")


def test_a_label_out_of_range_is_named_with_its_example_and_the_range():
    data = images()
    data["y"][17] = 12

    with pytest.raises(ValueRefused, match=r"label 12 outside 0\.\.9 in example 17"):
        check_examples(data, IMAGE, LABEL, "here")


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_what_is_not_finite_is_named_with_its_example(value: float, word: str):
    data = images()
    data["x"][5, 0, 3, 3] = value
    data["x"][9, 0, 0, 0] = value

    with pytest.raises(ValueRefused, match=f"^{word} in example 5 "):
        check_examples(data, IMAGE, LABEL, "here")


def test_a_missing_array_is_named_with_what_the_plan_trains_on():
    with pytest.raises(FieldMissing, match=r"no array 'y'; this Plan trains on x \(1, 8, 8\), y \(\)"):
        check_examples({"x": images()["x"]}, IMAGE, LABEL, "here")


def test_unequal_counts_are_named():
    data = images()

    with pytest.raises(ExampleMisshaped, match="20 of x, 19 of y"):
        check_examples({**data, "y": data["y"][1:]}, IMAGE, LABEL, "here")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.array([[1.0, 2.0], [3.0, 4.5]]), "4.5 is not a whole number in example 1"),
        (np.array([[1, 2], [3, 100]]), r"label 100 outside 0\.\.99 in example 1"),
        (np.array([[1, 2], [-1, 4]]), r"label -1 outside 0\.\.99 in example 1"),
    ],
)
def test_tokens_that_are_none_are_refused(values: np.ndarray, why: str):
    with pytest.raises(ValueRefused, match=why):
        check_examples({"x": values, "y": np.zeros(2, int)}, TOKENS, LABEL, "here")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.array([[0, 0, 2**24 + 1]]), "16777217 cannot be held exactly by float32 in example 0"),
        (np.array([[0, 0, 2**63 - 1]]), "cannot be held exactly by float32"),
        (np.array([[0, 0, 2**64 - 1]], np.uint64), "cannot be held exactly by float32"),
        (np.array([[0, 0, 2**31 - 1]], np.int32), "cannot be held exactly by float32"),
        (np.array([[0.0, 0.0, 1e39]]), r"1e\+39 does not fit float32 in example 0"),
        (np.array([["a", "b", "c"]]), "holds <U1, and numbers are needed"),
        (np.array([[1j, 0, 0]]), "numbers are needed"),
    ],
)
def test_a_cast_that_would_lose_something_is_refused(values: np.ndarray, why: str):
    with pytest.raises(ValueRefused, match=why):
        check_examples({"x": values, "y": np.zeros(1, int)}, ROW, LABEL, "here")


@given(arrays.arrays(st.sampled_from([np.uint8, np.int16, np.int64, np.uint64, np.bool_]), (4, 3)))
def test_an_integer_is_cast_exactly_or_refused(values: np.ndarray):
    try:
        found = check_examples({"x": values, "y": np.zeros(4, int)}, ROW, LABEL, "here")
    except ValueRefused:
        assert any(int(np.float32(value)) != int(value) for value in values.ravel())
        return

    assert [[int(value) for value in row] for row in found.inputs["x"]] == [
        [int(value) for value in row] for row in values
    ]


def test_no_example_at_all_is_said(tmp_path: Path):
    with pytest.raises(NoExamples, match="holds no example"):
        check_examples({"x": np.zeros((0, 3)), "y": np.zeros(0, int)}, ROW, LABEL, "here")
    with pytest.raises(NoExamples, match="there is nothing at"):
        read_examples(tmp_path / "none.npz", ROW, LABEL)
    with pytest.raises(NoExamples, match=r"holds no \.npz file"):
        read_examples(tmp_path, ROW, LABEL)


def test_a_file_of_another_kind_is_refused_with_the_way_to_write_one(tmp_path: Path):
    file = tmp_path / "a.pickle"
    file.write_bytes(b"")

    with pytest.raises(ExamplesUnreadable, match=r"numpy\.savez\('a', x=\.\.\., y=\.\.\.\)"):
        read_examples(file, ROW, LABEL)


def test_pickled_arrays_are_not_loaded(tmp_path: Path):
    file = saved(tmp_path / "a.npz", x=np.array([{"a": 1}], object), y=np.zeros(1, int))

    with pytest.raises(ExamplesUnreadable, match=r"cannot be read as \.npz"):
        read_examples(file, ROW, LABEL)


@given(st.binary(max_size=200))
def test_a_damaged_archive_is_refused_in_a_sentence(data: bytes):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.npz"
        file.write_bytes(data)
        with pytest.raises(InputError):
            read_examples(file, ROW, LABEL)


def test_a_folder_counts_its_examples_through_all_files(tmp_path: Path):
    saved(tmp_path / "1.npz", **images(5))
    saved(tmp_path / "2.npz", x=np.ones((8, 8), np.float32), y=np.int64(3))  # one example, without the axis
    data = images(4)
    saved(tmp_path / "3.npz", **data)

    found = read_examples(tmp_path, IMAGE, LABEL)
    data["x"][2] = np.nan
    saved(tmp_path / "3.npz", **data)

    assert len(found) == 10 and found.labels[5] == 3
    with pytest.raises(ValueRefused, match=r"NaN in example 8 \(x, .*3\.npz\)"):
        read_examples(tmp_path, IMAGE, LABEL)


def test_a_csv_is_read_with_its_label_column_anywhere(tmp_path: Path):
    file = tmp_path / "a.csv"
    file.write_text("a,y,b,c\n1,2,3,4\n5,6,7,8.5\n\n")

    found = read_examples(file, ROW, LABEL)

    assert found.inputs["x"].tolist() == [[1, 3, 4], [5, 7, 8.5]]
    assert found.labels.tolist() == [2, 6]


@pytest.mark.parametrize(
    ("text", "error", "why"),
    [
        ("a,b,c,d\n1,2,3,4\n", FieldMissing, "no column 'y' for the label"),
        ("", FieldMissing, "no column 'y'"),
        ("a,y\n1,2\n", ExampleMisshaped, "has 1 columns beside 'y', this Plan trains on 3"),
        ("a,b,c,y\n1,2,3,4\n1,2,3\n", ExampleMisshaped, "example 1: line 3 of .* has 3 values"),
        ("a,b,c,y\n1,2,x,4\n", ValueRefused, r"'x' is not a number in example 0 \(column c"),
        ("a,b,c,y\n1,2,nan,4\n", ValueRefused, "NaN in example 0"),
        ("a,b,c,y\n1,2,3,4.5\n", ValueRefused, "4.5 is not a whole number in example 0"),
        ("a,b,c,y\n1,2,3,10\n", ValueRefused, r"label 10 outside 0\.\.9 in example 0"),
        ("a,b,c,y\n", NoExamples, "holds no example"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused(tmp_path: Path, text: str, error: type[Exception], why: str):
    file = tmp_path / "a.csv"
    file.write_text(text)

    with pytest.raises(error, match=why):
        read_examples(file, ROW, LABEL)


def test_a_csv_cannot_hold_images(tmp_path: Path):
    file = tmp_path / "a.csv"
    file.write_text("a,y\n1,2\n")

    with pytest.raises(ExamplesUnreadable, match="one row of numbers an example"):
        read_examples(file, IMAGE, LABEL)


@given(st.integers(0, 200), st.binary(max_size=8), st.floats(0, 1))
def test_a_split_parts_all_examples_and_leaves_one_to_train(count: int, secret: bytes, share: float):
    training, validation = split(count, secret, share)

    assert sorted([*training, *validation]) == list(range(count))
    assert len(training) >= min(count, 1)
    assert abs(len(validation) - count * share) <= 1
    assert split(count, secret, share)[0].tolist() == training.tolist()


def test_the_order_depends_on_the_secret_and_on_the_purpose():
    orders = [shuffled(50, secret, purpose).tolist() for secret in (b"a", b"b") for purpose in (b"1", b"2")]

    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_the_digest_changes_with_any_value():
    data = images(3)
    first = check_examples(data, IMAGE, LABEL, "here").digest()
    again = check_examples(data, IMAGE, LABEL, "here").digest()
    data["x"][2, 0, 7, 7] = 0.25

    assert first == again != check_examples(data, IMAGE, LABEL, "here").digest()


def patients(**changes):
    return {"x": np.ones((4, 2)), "y": np.arange(4) % 3, "patient": np.array([7, 7, 2**40, -1]), **changes}


def test_whose_an_example_is_travels_with_it(tmp_path: Path):
    x, y = Field("x", (2,), "float32", 0), Field("y", (), "int32", 0, classes=3)
    np.savez(tmp_path / "a.npz", **patients())
    (tmp_path / "a.csv").write_text("u,patient,v,y\n1,7,2,0\n3,7,4,1\n5,9,6,2\n")

    read = read_examples(tmp_path / "a.npz", (x,), y, group="patient")
    listed = read_examples(tmp_path / "a.csv", (x,), y, group="patient")
    folder = read_examples(tmp_path, (x,), y, group="patient")

    assert read.groups is not None and read.groups.tolist() == [7, 7, 2**40, -1]
    assert read.take(np.array([3, 0])).groups.tolist() == [-1, 7]
    assert listed.groups.tolist() == [7, 7, 9] and listed.inputs["x"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert folder.groups.tolist() == read.groups.tolist()
    assert read_examples(tmp_path / "a.npz", (x,), y).groups is None


@pytest.mark.parametrize(
    ("groups", "error", "why"),
    [
        (None, FieldMissing, "no array 'patient'"),
        (np.array([1.0, 2.5, 3.0, 4.0]), ValueRefused, "2.5 is not a whole number in example 1"),
        (np.array([1.0, np.nan, 3.0, 4.0]), ValueRefused, "not a whole number in example 1"),
        (np.array(["a", "b", "c", "d"]), ValueRefused, "one whole number an example"),
        (np.ones((4, 2)), ValueRefused, "one whole number an example"),
    ],
)
def test_whose_an_example_is_is_a_whole_number(tmp_path: Path, groups, error, why: str):
    x, y = Field("x", (2,), "float32", 0), Field("y", (), "int32", 0, classes=3)
    arrays = patients(patient=groups)
    np.savez(tmp_path / "a.npz", **{name: array for name, array in arrays.items() if array is not None})

    with pytest.raises(error, match=why):
        read_examples(tmp_path / "a.npz", (x,), y, group="patient")


def test_all_examples_of_one_patient_train_or_all_of_them_validate():
    x, y = Field("x", (1,), "float32", 0), Field("y", (), "int32", 0, classes=3)
    groups = np.random.default_rng(0).integers(0, 30, 200)
    given = check_examples({"x": np.ones((200, 1)), "y": groups % 3, "p": groups}, (x,), y, "here", group="p")

    training, validation = split_examples(given, b"secret", 0.2)

    assert len(training) + len(validation) == 200
    assert not set(training.groups.tolist()) & set(validation.groups.tolist())
    assert len(set(validation.groups.tolist())) == int(0.2 * len(set(groups.tolist())))
