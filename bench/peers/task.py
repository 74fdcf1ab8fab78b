"""The small Task of `bench/fleet.py`: what a fleet of a million devices trains, or does not."""

import torch
from torch import nn

import tacit


def model() -> nn.Module:
    """84 values, always the same."""
    torch.manual_seed(0)
    return nn.Linear(20, 4)


task = tacit.Task(
    name="small",
    model=model,
    example={"x": tacit.array((20,)), "y": tacit.label(4)},
    subset=["weight", "bias"],
    local=tacit.Local(epochs=4, minibatch=2, optimizer=tacit.sgd(0.1)),
    privacy=tacit.Privacy(noise=1.0, devices=10_000, batch=100, threshold=50, snapshots=1000, participations=4),
)
