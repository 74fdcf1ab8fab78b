"""Gestures: six readings of a sensor, five gestures, a network small enough for a watch."""

import torch
from torch import nn

import tacit


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 5))


task = tacit.Task(
    name="gestures",
    model=network,
    example={"x": tacit.array((6,)), "y": tacit.label(5), "weight": tacit.weight()},
    subset=["0", "3"],
    local=tacit.Local(epochs=4, minibatch=16, microbatch=8, dropout=True, optimizer=tacit.sgd(0.2, momentum=0.9)),
    privacy=tacit.Privacy(noise=0.1, devices=3, batch=2, threshold=2),
)
