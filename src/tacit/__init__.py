"""Train models on everyday devices without the data ever leaving them."""

from tacit.task import (
    Array,
    Budget,
    Label,
    Local,
    Loss,
    LowRank,
    Precision,
    Privacy,
    Sgd,
    Slices,
    Task,
    array,
    label,
    lowrank,
    sgd,
    slices,
)

__all__ = [
    "Array",
    "Budget",
    "Label",
    "Local",
    "Loss",
    "LowRank",
    "Precision",
    "Privacy",
    "Sgd",
    "Slices",
    "Task",
    "array",
    "label",
    "lowrank",
    "sgd",
    "slices",
]
__version__ = "0.1.0"
