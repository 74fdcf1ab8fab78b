"""Photos: a network that has seen things in a studio learns them as they look at home, where the photos are."""

from pathlib import Path

import numpy as np
import torch
from data import CLASSES, HOME, photos
from net import PhotoNet

import tacit


def pretrained() -> PhotoNet:
    """As `train.py` left it: it knows the studio, and not the evening light of homes."""
    net = PhotoNet(len(CLASSES))
    with np.load(Path(__file__).with_name("weights.npz")) as tensors:
        # The norms' counts of batches are not shipped, and not used.
        net.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()}, strict=False)
    return net


def public() -> dict[str, np.ndarray]:
    """Photos that colleagues took in their own homes and show to anybody: no training has seen them."""
    shown = photos(400, seed=5, manner=HOME)
    return {"x": shown.x, "y": shown.y}


task = tacit.Task(
    name="photos",
    model=pretrained,
    example={"x": tacit.array((3, 32, 32)), "y": tacit.label(len(CLASSES))},
    local=tacit.Local(epochs=4, minibatch=16, microbatch=4, balance=True, optimizer=tacit.sgd(0.02, momentum=0.9)),
    budget=tacit.Budget(memory="2 MiB", upload="32 KiB"),
    # A dozen devices: this exercises the protocol and protects little. Noise that did would drown what they learn.
    privacy=tacit.Privacy(
        noise=0.005, clip=0.5, devices=12, batch=4, threshold=4, snapshots=60, participations=40, max_age=8
    ),
    public=public,
    purpose="tell what is on photos taken at home",
    data_sources=["photos that the owner of a device has named"],
)
