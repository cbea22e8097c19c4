"""DenseNet (Huang et al., CVPR 2017), as in torchvision but with a CIFAR stem: 3x3, stride 1, no max-pool."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import BatchNorm2d, NormReLU
from models.network import PreActivationNetwork, PreStage

GROWTH, BOTTLENECK, STEM = 32, 4, 64
"""Channels that a layer adds; channels inside a layer, in multiples of GROWTH; channels of the stem."""


class DenseLayer(nn.Module):
    """bn-relu-1x1-bn-relu-3x3 to `GROWTH` new channels, which are concatenated to the input."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm1 = NormReLU(inputs)
        self.conv1 = nn.Conv2d(inputs, BOTTLENECK * GROWTH, 1, bias=False)
        self.norm2 = NormReLU(BOTTLENECK * GROWTH)
        self.conv2 = nn.Conv2d(BOTTLENECK * GROWTH, GROWTH, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return torch.cat([x, out], 1)


class DenseStage(PreStage):
    """A dense block.

    With `transition`, bn-relu-1x1-pool precedes it, which halves channels, height and width.
    """

    def __init__(self, inputs: int, layers: int, transition: bool) -> None:
        super().__init__()
        self.norm: BatchNorm2d | None = None
        self.conv: nn.Conv2d | None = None
        if transition:
            self.norm = BatchNorm2d(inputs)
            self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)
            inputs //= 2
        self.layers = nn.Sequential(*[DenseLayer(inputs + GROWTH * index) for index in range(layers)])
        self.outputs = inputs + GROWTH * layers

    def first_norm(self) -> BatchNorm2d:
        assert self.norm is not None, "the first stage has no transition"
        return self.norm

    def forward(self, x: Tensor, normed_x: Tensor | None = None) -> Tensor:
        if self.norm is not None and self.conv is not None:
            x = F.avg_pool2d(self.conv(self.norm(x, relu=True) if normed_x is None else F.relu(normed_x)), 2)
        x = self.layers(x)
        return x


class DenseNet(PreActivationNetwork):
    """Four dense blocks with PyTorch's default initialisation, as in the self-distillation papers.

    layers: number of layers of each block.
    """

    def __init__(self, layers: tuple[int, int, int, int], num_classes: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, STEM, 3, 1, 1, bias=False)
        self.norm0 = NormReLU(STEM)
        self.stage1 = DenseStage(STEM, layers[0], transition=False)
        self.stage2 = DenseStage(self.stage1.outputs, layers[1], transition=True)
        self.stage3 = DenseStage(self.stage2.outputs, layers[2], transition=True)
        self.stage4 = DenseStage(self.stage3.outputs, layers[3], transition=True)
        self.norm5 = BatchNorm2d(self.stage4.outputs)
        self.classifier = nn.Linear(self.stage4.outputs, num_classes)

    def run_stem(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm0(self.conv0(x))
        return out

    def stages(self) -> Sequence[PreStage]:
        return self.stage1, self.stage2, self.stage3, self.stage4

    def final_norm(self) -> BatchNorm2d:
        return self.norm5

    def linear_head(self) -> nn.Linear:
        return self.classifier

    def feature_modules(self) -> list[nn.Module]:
        return [self.conv0, self.norm0, self.stage1, self.stage2, self.stage3, self.stage4]

    @classmethod
    def canonical_key(cls, key: str) -> str:
        """Also accept torchvision's names."""
        key = key.removeprefix("features.")
        if layer := re.match(r"denseblock(\d)\.denselayer(\d+)\.(.*)", key):
            return f"stage{layer[1]}.layers.{int(layer[2]) - 1}.{layer[3]}"
        if transition := re.match(r"transition(\d)\.(.*)", key):
            return f"stage{int(transition[1]) + 1}.{transition[2]}"
        return key
