"""An owner's examples, read and checked against what a Plan trains on. They never leave this process.

Three forms are read, and the names are those of the Plan's fields (`x` and `y` unless the developer
chose others):

    examples.npz   one array a field, the first axis counts examples
    examples.csv   a header; label and weight have columns of their names, all others are x in their order
    a folder       of .npz files, each with many examples or exactly one, in the order of their names

Values are cast to the field's type where nothing is lost: an integer must keep its value exactly, a
float64 is rounded to float32 as usual but must not overflow. The first example that does not fit is named.
"""

import csv
import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import InputError
from tacit.plan.program import Field

Values = NDArray[Any]


class ExamplesRefused(InputError):
    """The data given to a device does not fit its Plan. Nothing was trained."""


class NoExamples(ExamplesRefused):
    """There is nothing at this path, or nothing in it."""


class ExamplesUnreadable(ExamplesRefused):
    """The file is damaged or of another kind."""


class FieldMissing(ExamplesRefused):
    """An array or a column that the Plan needs is not there."""


class ExampleMisshaped(ExamplesRefused):
    """An example has another shape than the Plan's."""


class ValueRefused(ExamplesRefused):
    """A value is not finite, not in range, or does not survive its cast."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Checked examples: every array has the Plan's shape and type, every value is finite and in range."""

    inputs: Mapping[str, Values]  # by field, [n, *shape]
    labels: Values  # [n, *shape of the label], int32 for classes and float32 for numbers
    weights: NDArray[np.float32]  # [n], how much each counts
    groups: NDArray[np.int64] | None = None  # [n], whose each is; None where each record is for itself

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> "Examples":
        """These examples alone, in this order."""
        inputs = {name: values[indices] for name, values in self.inputs.items()}
        groups = None if self.groups is None else self.groups[indices]
        return Examples(inputs, self.labels[indices], self.weights[indices], groups)

    def counted(self) -> "Examples":
        """Those that count: their weight is above 0."""
        return self if self.weights.all() else self.take(np.flatnonzero(self.weights))

    def digest(self) -> bytes:
        """SHA-256 over all values: what was computed from these examples is found again by it."""
        sha = hashlib.sha256()
        for name in sorted(self.inputs):
            values = np.ascontiguousarray(self.inputs[name])
            sha.update(f"{name}|{values.dtype.str}|{values.shape}|".encode())
            sha.update(values.data)
        sha.update(np.ascontiguousarray(self.labels).data)
        return sha.digest()


def read_examples(
    path: Path, inputs: Sequence[Field], label: Field, weight: str | None = None, group: str | None = None
) -> Examples:
    """The examples at `path`, checked against the fields of a Plan; without a `weight` each counts 1.

    `group` names the whole numbers that say whose each is, a patient's for example.
    """
    beside = [name for name in (weight, group) if name is not None]
    if not path.exists():
        raise NoExamples(f"there is nothing at {path}; --data names an .npz file, a .csv file or a folder of .npz")
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise NoExamples(f"the folder {path} holds no .npz file")
    elif path.suffix == ".csv":
        arrays = _from_csv(path, inputs, label, beside)
        return check_examples(arrays, inputs, label, str(path), weight=weight, group=group)
    elif path.suffix == ".npz":
        files = [path]
    else:
        arrays = ", ".join(f"{name}=..." for name in _names(inputs, label, beside))
        raise ExamplesUnreadable(
            f"{path} is neither .npz nor .csv nor a folder of .npz; numpy.savez({path.stem!r}, {arrays}) writes one"
        )
    parts = [_from_npz(file, _names(inputs, label, beside)) for file in files]
    if len(files) == 1 and not path.is_dir():
        return check_examples(parts[0], inputs, label, str(path), weight=weight, group=group)
    checked: list[Examples] = []
    first = 0
    for file, part in zip(files, parts, strict=True):
        checked.append(check_examples(_with_first_axis(part, label), inputs, label, str(file), first, weight, group))
        first += len(checked[-1])
    return Examples(
        {field.name: np.concatenate([part.inputs[field.name] for part in checked]) for field in inputs},
        np.concatenate([part.labels for part in checked]),
        np.concatenate([part.weights for part in checked]),
        None if group is None else np.concatenate([part.groups for part in checked if part.groups is not None]),
    )


def check_examples(
    arrays: Mapping[str, Values],
    inputs: Sequence[Field],
    label: Field,
    source: str,
    first: int = 0,
    weight: str | None = None,
    group: str | None = None,
) -> Examples:
    """Arrays by field as checked examples; `first` is the number of the first one, for the messages.

    >>> x, y = Field("x", (2,), "float32", 0), Field("y", (), "int32", 0, classes=3)
    >>> examples = check_examples({"x": np.ones((4, 2)), "y": np.arange(4) % 3}, (x,), y, "here")
    >>> len(examples), examples.inputs["x"].dtype, examples.labels.tolist()
    (4, dtype('float32'), [0, 1, 2, 0])
    """
    beside = [name for name in (weight, group) if name is not None]
    names = _names(inputs, label, beside)
    for name in names:
        if name not in arrays:
            raise FieldMissing(
                f"{source} has no array {name!r}; this Plan trains on {_described(inputs, label, beside)}"
            )
    counts = {name: len(arrays[name]) if arrays[name].ndim else 0 for name in names}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise ExampleMisshaped(f"{source} holds {listed}: one of each is needed for every example")
    if not counts[label.name]:
        raise NoExamples(f"{source} holds no example")
    checked = {field.name: _checked(arrays[field.name], field, source, first) for field in inputs}
    weights = np.ones(counts[label.name], np.float32)
    if weight is not None:
        weights = _checked(arrays[weight], Field(weight, (), "float32", 0), source, first)
        if (weights < 0).any():
            bad = int(np.argmax(weights < 0))
            raise ValueRefused(f"a weight of {weights[bad]:g} in example {first + bad} ({weight}, {source})")
        if not weights.any():
            raise ValueRefused(f"every weight is 0, so no example counts ({weight}, {source})")
    groups = None if group is None else _numbers_of_groups(arrays[group], group, source, first)
    return Examples(checked, _checked(arrays[label.name], label, source, first), weights, groups)


def _numbers_of_groups(values: Values, group: str, source: str, first: int) -> NDArray[np.int64]:
    """Whose each example is. Whole numbers up to 2^53, which every file format keeps exactly."""
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise ValueRefused(f"{group} in {source} holds {values.dtype} {values.shape[1:]}; one whole number an example")
    bad = ~(np.isfinite(values) & (np.floor(values) == values) & (np.abs(values.astype(np.float64)) <= 2.0**53))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueRefused(f"{values[row]:g} is not a whole number in example {first + row} ({group}, {source})")
    return values.astype(np.int64)


def split(count: int, secret: bytes, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which examples train and which validate: the same ones every time for one secret.

    At least one example always trains.

    >>> training, validation = split(10, b"device", 0.2)
    >>> len(training), len(validation), sorted([*training, *validation]) == list(range(10))
    (8, 2, True)
    >>> split(1, b"device", 0.5)[0].tolist()
    [0]
    """
    order = shuffled(count, secret, b"split")
    held = min(int(count * share), max(count - 1, 0))
    return np.sort(order[held:]), np.sort(order[:held])


def shuffled(count: int, secret: bytes, purpose: bytes) -> NDArray[np.int64]:
    """The numbers below `count` in an order that depends on the secret and the purpose alone.

    It makes a visit repeatable; it protects nobody. Sorting by 64 hashed bits is even enough for that.

    >>> shuffled(5, b"a", b"order").tolist() == shuffled(5, b"a", b"order").tolist()
    True
    """
    # SHAKE gives all keys of a permutation in one call, from the standard library.
    drawn = hashlib.shake_256(len(secret).to_bytes(4, "big") + secret + purpose).digest(8 * count)
    return np.argsort(np.frombuffer(drawn, "<u8"), kind="stable").astype(np.int64)


def split_examples(examples: Examples, secret: bytes, share: float) -> tuple[Examples, Examples]:
    """The examples that train and those that validate; all of one group are on the same side."""
    if examples.groups is None:
        training, validation = split(len(examples), secret, share)
        return examples.take(training), examples.take(validation)
    numbers = np.unique(examples.groups)
    _, held = split(len(numbers), secret, share)
    validates = np.isin(examples.groups, numbers[held])
    return examples.take(np.flatnonzero(~validates)), examples.take(np.flatnonzero(validates))


def _names(inputs: Sequence[Field], label: Field, beside: Sequence[str]) -> list[str]:
    return [*(field.name for field in inputs), label.name, *beside]


def _described(inputs: Sequence[Field], label: Field, beside: Sequence[str]) -> str:
    listed = [f"{field.name} {field.shape or '()'}" for field in (*inputs, label)]
    return ", ".join([*listed, *(f"{name} ()" for name in beside)])


def _checked(values: Values, field: Field, source: str, first: int) -> Values:
    shape = tuple(values.shape[1:])
    if shape != field.shape:
        # An image without its single channel (a number without its single axis) is the commonest near miss, and
        # there is one way to read it.
        if field.shape[:1] == (1,) and shape == field.shape[1:]:
            values = values[:, None]
        else:
            raise ExampleMisshaped(
                f"example {first}: {field.name} has shape {shape}, this Plan trains on {field.shape} ({source})"
            )
    if values.dtype.kind not in "fiub":
        raise ValueRefused(f"{field.name} in {source} holds {values.dtype}, and numbers are needed")
    target = np.dtype(field.dtype)

    def refuse(bad: NDArray[np.bool_], what: Callable[[Any], str]) -> None:
        if bad.any():
            flat = bad.reshape(len(bad), -1)
            row = int(np.argmax(flat.any(axis=1)))
            value = values[row].reshape(-1)[int(np.argmax(flat[row]))]
            raise ValueRefused(f"{what(value.item())} in example {first + row} ({field.name}, {source})")

    if values.dtype.kind == "f":
        refuse(~np.isfinite(values), lambda value: "NaN" if value != value else f"{value}")
    if field.classes is not None:
        classes = field.classes
        outside = (values < 0) | (values >= classes)
        if field.ignored is not None:
            outside &= values != field.ignored
        refuse(outside, lambda value: f"label {value:g} outside 0..{classes - 1}")
    if field.probability:
        refuse((values < 0) | (values > 1), lambda value: f"{value:g}, where a probability from 0 to 1 is needed,")
    if values.dtype == target:
        return np.ascontiguousarray(values)
    if target.kind == "i":
        limits = np.iinfo(target)
        refuse((values < limits.min) | (values > limits.max), lambda value: f"{value:g} does not fit {target}")
        cast = values.astype(target)
        refuse(cast != values, lambda value: f"{value:g} is not a whole number")
        return cast
    with np.errstate(over="ignore"):
        cast = values.astype(target)
    if values.dtype.kind == "f":
        refuse(~np.isfinite(cast), lambda value: f"{value:g} does not fit {target}")
    elif values.dtype.kind in "iu":
        # Compared as integers: as floats both sides would be rounded alike and always agree.
        inside = cast < np.float64(np.iinfo(values.dtype).max) + 1
        back = np.where(inside, cast, 0).astype(values.dtype)
        refuse(back != values, lambda value: f"{value} cannot be held exactly by {target}")
    return cast


def _from_npz(path: Path, names: Sequence[str]) -> dict[str, Values]:
    try:
        # Pickled arrays could run code while they are read, so they are not.
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names if name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ExamplesUnreadable(f"{path} cannot be read as .npz: {error}") from error


def _with_first_axis(arrays: Mapping[str, Values], label: Field) -> Mapping[str, Values]:
    """A file of a folder may hold one example without the counting axis."""
    values = arrays.get(label.name)
    if values is None or values.ndim != len(label.shape):
        return arrays
    return {name: values[None] for name, values in arrays.items()}


def _from_csv(path: Path, inputs: Sequence[Field], label: Field, beside: Sequence[str]) -> dict[str, Values]:
    if len(inputs) != 1 or len(inputs[0].shape) != 1 or label.shape not in ((), (1,)):
        raise ExamplesUnreadable(
            f"{path}: a .csv holds one row of numbers an example, and this Plan trains on "
            f"{_described(inputs, label, beside)}; give an .npz with these arrays"
        )
    width = inputs[0].shape[0]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = [name.strip() for name in next(rows, list[str]())]
            named = [label.name, *beside]
            for name in named:
                if header.count(name) != 1:
                    what = " for the label" if name == label.name else ""
                    raise FieldMissing(f"{path} has no column {name!r}{what}; its first line names {header}")
            at = [header.index(name) for name in named]
            if len(header) - len(at) != width:
                listed = " and ".join(map(repr, named))
                raise ExampleMisshaped(
                    f"{path} has {len(header) - len(at)} columns beside {listed}, this Plan trains on {width}"
                )
            features: list[list[float]] = []
            apart: list[list[float]] = []
            for row in rows:
                if not row:
                    continue  # an empty line, usually the last
                if len(row) != len(header):
                    raise ExampleMisshaped(
                        f"example {len(apart)}: line {rows.line_num} of {path} has {len(row)} values and "
                        f"its header names {len(header)}"
                    )
                numbers = _numbers(row, header, len(apart), path)
                apart.append([numbers[column] for column in at])
                features.append([number for column, number in enumerate(numbers) if column not in at])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ExamplesUnreadable(f"{path} cannot be read as .csv: {error}") from error
    return {
        inputs[0].name: np.array(features, np.float64).reshape(len(features), width),
        **{name: np.array([row[i] for row in apart], np.float64) for i, name in enumerate(named)},
    }


def _numbers(row: Sequence[str], header: Sequence[str], example: int, path: Path) -> list[float]:
    numbers: list[float] = []
    for name, text in zip(header, row, strict=True):
        try:
            numbers.append(float(text))
        except ValueError:
            raise ValueRefused(f"{text!r} is not a number in example {example} (column {name}, {path})") from None
    return numbers
