"""The developer's public examples: what anybody may see. They show directions and errors; nobody trains on them."""

import numpy as np
from numpy.typing import NDArray

from tacit.task import Array, Group, Label, Target, Task, TaskInvalid, Weight

_LABEL = {Label: "int32", Target: "float32", Weight: "float32"}


def public_examples(task: Task) -> dict[str, NDArray[np.generic]] | None:
    """What `task.public()` returns, by field and checked; None if the Task has none. The label may be absent.

    >>> from tacit.task import Task, array, label
    >>> made = Task("t", dict, {"x": array((2,)), "y": label(3)}, public=lambda: {"x": np.ones((5, 2))})
    >>> public_examples(made)["x"].dtype, len(public_examples(made)["x"])
    (dtype('float32'), 5)
    """
    if task.public is None:
        return None
    given = {name: np.asarray(values) for name, values in task.public().items()}
    found: dict[str, NDArray[np.generic]] = {}
    for name, part in task.example.items():
        if isinstance(part, Group):
            continue  # public examples are nobody's
        if name not in given:
            if isinstance(part, Array):
                raise TaskInvalid("public", sorted(given), f"it has no array {name!r}", f"return {{{name!r}: ...}}")
            continue
        values = given[name]
        shape = () if isinstance(part, Weight) else part.shape
        if values.shape[1:] != shape or not len(values):
            raise TaskInvalid(
                f"public {name}",
                values.shape,
                f"an example's {name} has the shape {shape}",
                "the first axis counts examples",
            )
        if not np.isfinite(values).all():
            bad = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))
            raise TaskInvalid(f"public {name}", "NaN or infinity", f"example {bad} holds it", "leave that example out")
        found[name] = values.astype(part.dtype if isinstance(part, Array) else _LABEL[type(part)])
    if len({len(values) for values in found.values()}) > 1:
        counts = {name: len(values) for name, values in found.items()}
        raise TaskInvalid("public", counts, "one of each is needed for every example", "give as many of each")
    return found
