"""Train models on everyday devices without the data ever leaving them."""

from tacit.task import Array, Budget, Label, Local, Privacy, Sgd, Task, array, label, sgd

__all__ = ["Array", "Budget", "Label", "Local", "Privacy", "Sgd", "Task", "array", "label", "sgd"]
__version__ = "0.1.0"
