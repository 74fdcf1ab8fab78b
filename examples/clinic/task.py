"""Hearts: four hospitals learn together when vessels are narrowed, and each patient of theirs is protected."""

from data import FEATURES
from torch import nn

import tacit


def start() -> nn.Linear:
    """A logistic regression that knows nothing yet."""
    model = nn.Linear(FEATURES, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


task = tacit.Task(
    name="hearts",
    model=start,
    example={"x": tacit.array((FEATURES,)), "y": tacit.target((1,)), "patient": tacit.group()},
    loss="binary_cross_entropy",
    subset=["weight", "bias"],
    local=tacit.Local(epochs=1, minibatch=300, microbatch=3, optimizer=tacit.sgd(4.0)),
    privacy=tacit.Silo(epsilon=4, sites=4, rounds=20, clip=1.0, people=200),
    purpose="tell from a visit whether the vessels of a heart are narrowed",
    data_sources=["visits of patients to a hospital, with what was found"],
)
