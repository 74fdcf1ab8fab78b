"""A small MobileNetV2: inverted residuals with depthwise convolutions, for photos of 32 x 32."""

import torch
from torch import Tensor, nn

STAGES = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 2), (4, 64, 2, 2))  # expansion, channels, blocks, stride


def unit(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, norm, activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """Widen, look around in each channel, narrow; what came in is added where it fits."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.adds = stride == 1 and inputs == outputs
        self.expand = unit(inputs, wide, 1) if expand > 1 else nn.Identity()
        self.depthwise = unit(wide, wide, 3, stride, groups=wide)
        self.project = nn.Sequential(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


class PhotoNet(nn.Module):
    """84 thousand values. The statistics of its norms are the studio's, and stay so on devices."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = 16
        for expand, outputs, count, stride in STAGES:
            for i in range(count):
                blocks.append(InvertedResidual(channels, outputs, stride if i == 0 else 1, expand))
                channels = outputs
        self.stem = unit(3, 16, 3)
        self.blocks = nn.Sequential(*blocks)
        self.last = unit(channels, 128, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.blocks(self.stem(2 * x - 1)))
        return self.head(torch.flatten(self.pool(x), 1))
