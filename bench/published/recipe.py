"""What is trained where: the models, and the Task of each, as a developer would write it.

ResNet-8 has a layer that nothing but a projected head looks at: what its blocks show, side by side, in 4 x 4 places.
Frozen features of one depth know less: of the holdout of CIFAR-10, where the backbone has seen half of the classes, a
ridge regression on 512 features of all devices' images is right in 51.5 % behind the first block, 57.1 behind the
second, 56.1 behind the third, 57.9 behind the last two, 58.8 behind all three. Who trains the whole model does not play
that layer.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from choice.data import CIFAR, CLASSES, FASHION, strided_cnn
from models import ResNet8
from published.backbones import PUBLIC, SCRATCH, weights
from published.images import parts
from torch import Tensor, nn

import tacit

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "photos"))
from net import PhotoNet  # pyright: ignore[reportMissingImports]  # the line above says where it is

PLACES = 4  # a depth is seen in so many places each way


class Depths(nn.Module):
    """What several blocks show of an image, side by side: [N, channels of all, 4, 4]. `gains` make them as loud."""

    gains: Tensor

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.register_buffer("gains", torch.ones(blocks))

    def forward(self, *blocks: Tensor) -> Tensor:
        seen = [F.avg_pool2d(x, x.shape[2] // PLACES) * gain for x, gain in zip(blocks, self.gains, strict=True)]
        return torch.cat(seen, 1)


class SeveralDepths(ResNet8):
    """ResNet-8, of which all blocks can be seen together."""

    def __init__(self) -> None:
        super().__init__()
        self.depths = Depths(3)

    def forward(self, x: Tensor) -> Tensor:
        blocks = self.blocks(x)
        self.depths(*blocks)
        return self.head(blocks[-1].mean((2, 3)))

    def blocks(self, x: Tensor) -> list[Tensor]:
        """What each of them makes of what the one before makes."""
        found = [self.block1(F.relu(self.norm(self.stem(x))))]
        for block in (self.block2, self.block3):
            found.append(block(found[-1]))
        return found

    def even(self, x: Tensor) -> None:
        """Makes all depths as loud on these images."""
        with torch.no_grad():
            self.depths.gains.copy_(torch.stack([block.std() for block in self.blocks(x)]) ** -1)


@dataclass(frozen=True)
class Model:
    """A model of a data set. `cut` and `features` are of its projected head, from a backbone; `memory` is a Task's."""

    data: str
    make: Callable[[], nn.Module]
    cut: str
    features: int
    memory: str


MODELS: Mapping[str, Model] = {
    "small CNN": Model(FASHION.name, strided_cnn, "relu3", 256, "233 KiB"),
    "ResNet-8": Model(CIFAR.name, SeveralDepths, "depths", 512, "1105 KiB"),
    "MobileNetV2": Model(CIFAR.name, PhotoNet, "blocks", 256, "3510 KiB"),
}


@cache
def started(model: str, start: str, say: Callable[[str], None]) -> nn.Module:
    """The model with the weights that everybody starts from."""
    kind = MODELS[model]
    module = kind.make()
    module.load_state_dict(weights(kind.data, model, kind.make, start, say))
    if isinstance(module, SeveralDepths):
        module.even(torch.from_numpy(parts(kind.data).shown.x))
    return module.eval()


MINIBATCH = 16
EPOCHS = 2  # of a visit, before a strategy changes it: eight steps for 60 images


def task_of(model: str, start: str, microbatch: int, frozen: str, say: Callable[[str], None]) -> tacit.Task:
    """As the developer would write it: from a backbone a projected head, from nothing what the planner finds.

    A backbone that has seen all classes knows the task, so the head is added to what it answers.

    The memory is a fifth of what training the whole model takes at a micro-batch of 8: what FTTE reports to need. The
    noise is next to none; runs with noise say so.
    """
    kind = MODELS[model]
    own, shown = parts(kind.data), parts(kind.data).shown
    begins = "model" if start == PUBLIC else "zero"
    return tacit.Task(
        name=f"{kind.data} {model}",
        model=lambda: copy.deepcopy(started(model, start, say)),
        example={"x": tacit.array(own.own.x.shape[1:]), "y": tacit.label(CLASSES)},
        local=tacit.Local(epochs=EPOCHS, minibatch=MINIBATCH, microbatch=microbatch, optimizer=tacit.sgd(0.1)),
        budget=tacit.Budget(memory=kind.memory, upload="1 MiB", storage="64 MiB"),
        privacy=tacit.Privacy(noise=0.001, devices=100, batch=10, threshold=10),
        precision=tacit.Precision(frozen=frozen),
        subset=None if start == SCRATCH else [tacit.projected(kind.cut, kind.features, begins)],
        public=lambda: {"x": shown.x, "y": shown.y},
    )
