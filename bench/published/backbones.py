"""Where training starts: a backbone that public images have trained, or nothing. All strategies start from the same.

A backbone is trained by SGD with momentum and a rate that rises and falls; of CIFAR-10 every image is mirrored by
chance and moved by up to three pixels, for as long as that still helps on the holdout. It is kept in a file that is
named by the hash of what it depends on; whoever changes how it is trained counts `FORM` up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from published.images import HERE, SHARES, parts, seen_by_half
from torch import Tensor, nn

FORM = 1
SCRATCH, PUBLIC, HALF = "scratch", "public", "half"
STARTS = {
    SCRATCH: "from scratch",
    PUBLIC: "from a backbone of the public part",
    HALF: "from a backbone of the public images of half of the classes",
}
MOST_MOVED = 3  # pixels
MINIBATCH = 64


@dataclass(frozen=True)
class Schooling:
    """How a backbone is trained."""

    epochs: int
    rate: float
    decay: float
    smoothing: float
    moved: bool


SCHOOLING = {
    "small CNN": Schooling(8, 0.05, 5e-4, 0.0, moved=False),
    "ResNet-8": Schooling(50, 0.1, 1e-3, 0.05, moved=True),
    "MobileNetV2": Schooling(60, 0.1, 1e-3, 0.05, moved=True),
}


def weights(
    name: str, model: str, make: Callable[[], nn.Module], start: str, say: Callable[[str], None]
) -> Mapping[str, Tensor]:
    """The state dict that training starts from. From scratch it is as PyTorch draws it."""
    torch.manual_seed(0)
    if start == SCRATCH:
        return make().state_dict()
    schooling = SCHOOLING[model]
    shares = SHARES[name]
    told = f"{FORM}, {name}, {shares.public}, {model}, {start}, {schooling!r}"
    sign = hashlib.sha256(told.encode()).hexdigest()[:12]
    path = HERE / "backbones" / f"{model.replace(' ', '-')}-{start}-{sign}.pt"
    if not path.exists():
        say(f"{name}: training a {model} {STARTS[start]}, {schooling.epochs} epochs …")
        public = parts(name).public
        seen = seen_by_half(public) if start == HALF else public
        path.parent.mkdir(parents=True, exist_ok=True)
        module = trained(make, torch.from_numpy(seen.x), torch.from_numpy(seen.y).long(), schooling)
        torch.save(module.state_dict(), path)
    return torch.load(path, weights_only=True)


def trained(make: Callable[[], nn.Module], x: Tensor, y: Tensor, schooling: Schooling) -> nn.Module:
    """A module that these images have trained."""
    torch.manual_seed(0)
    module = make().to(memory_format=torch.channels_last).train()
    steps = schooling.epochs * (len(y) // MINIBATCH)
    optimizer = torch.optim.SGD(
        module.parameters(), schooling.rate, momentum=0.9, weight_decay=schooling.decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, schooling.rate, steps, pct_start=0.2)
    for _ in range(schooling.epochs):
        order = torch.randperm(len(y))
        for start in range(0, len(y) - MINIBATCH + 1, MINIBATCH):
            batch = order[start : start + MINIBATCH]
            images = changed(x[batch]) if schooling.moved else x[batch]
            optimizer.zero_grad()
            outputs = module(images.to(memory_format=torch.channels_last))
            F.cross_entropy(outputs, y[batch], label_smoothing=schooling.smoothing).backward()
            optimizer.step()
            schedule.step()
    return module.eval()


def changed(images: Tensor) -> Tensor:
    """Mirrored by chance and moved by a few pixels; what comes in at an edge is what was there, mirrored.

    >>> changed(torch.ones(2, 3, 32, 32)).shape
    torch.Size([2, 3, 32, 32])
    """
    count, channels, high, wide = images.shape
    images = torch.where(torch.rand(count, 1, 1, 1) < 0.5, images.flip(3), images)
    padded = F.pad(images, (MOST_MOVED,) * 4, mode="reflect")
    moved = torch.randint(0, 2 * MOST_MOVED + 1, (count, 2))
    rows = (moved[:, :1] + torch.arange(high))[:, None, :, None]
    columns = (moved[:, 1:] + torch.arange(wide))[:, None, None, :]
    return padded[torch.arange(count)[:, None, None, None], torch.arange(channels)[None, :, None, None], rows, columns]
