"""Where local training starts: a backbone of the public images, one of those of every other class, or nothing.

A backbone is trained once and kept in a file, named by the hash of the sources that it depends on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from choice.data import Data, Examples
from torch import Tensor, nn

BUILD = Path(__file__).parents[2] / "build" / "choice"
ALL, HALF, SCRATCH = "backbone, all classes", "backbone, half of the classes", "scratch"
STARTS = (ALL, HALF, SCRATCH)


def weights(data: Data, start: str, public: Examples, say: Callable[[str], None]) -> Mapping[str, Tensor]:
    """The state dict to start from. From scratch it is as PyTorch draws it."""
    torch.manual_seed(0)
    if start == SCRATCH:
        return data.make().state_dict()
    here = Path(__file__)
    sources = here.read_bytes() + here.with_name("data.py").read_bytes() + torch.__version__.encode()
    sign = hashlib.sha256(sources + f"{data.name}, {start}".encode()).hexdigest()[:16]
    path = BUILD / f"backbone-{sign}.pt"
    if not path.exists():
        say(f"{data.name}: training the {start} …")
        seen = public[public.y % 2 == 0] if start == HALF else public
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(_trained(data, seen).state_dict(), path)
    return torch.load(path, weights_only=True)


def _trained(data: Data, public: Examples) -> nn.Module:
    """By SGD with momentum, decay of weights and a rate that rises and falls: weights as backbones have them.

    What Adam had trained was so sure of itself that 512 small steps could not move it.
    """
    torch.manual_seed(0)
    module = data.make().train()
    x, y = torch.from_numpy(public.x), torch.from_numpy(public.y).long()
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, data.epochs * (len(y) // 64))
    for _ in range(data.epochs):
        order = torch.randperm(len(y))
        for start in range(0, len(y) - 63, 64):
            batch = order[start : start + 64]
            images = x[batch]
            if data.mirrored:
                images = torch.where(torch.rand(64, 1, 1, 1) < 0.5, images.flip(3), images)
            optimizer.zero_grad()
            F.cross_entropy(module(images), y[batch]).backward()
            optimizer.step()
            schedule.step()
    return module
