"""ShuffleNet V1 (Zhang et al., CVPR 2018) and V2 (Ma et al., ECCV 2018) for CIFAR: 1x1 stem, no max-pool."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import BatchNorm2d, Depthwise, NormReLU, Pointwise, concat_channels
from models.network import PostActivationNetwork, PreactBlock, global_pool, run_blocks

STEM = 24
"""Channels of the stem."""


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Shuffle the channels of `[B, C, H, W]`: as a matrix of `groups` rows, they are transposed.

    Keeps channels_last.
    """
    batch, channels, height, width = x.shape
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        x_BHWC = x.permute(0, 2, 3, 1).view(batch, height, width, groups, channels // groups)
        return x_BHWC.transpose(3, 4).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
    return x.reshape(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


class V1Block(PreactBlock):
    """Grouped 1x1, shuffle, depthwise 3x3, 1x1 in 3 groups.

    With stride 1 the input is added; with stride 2 it is pooled and concatenated.

    outputs: output channels, including those of the pooled input.
    first_groups: groups of the first 1x1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, first_groups: int) -> None:
        super().__init__()
        self.stride, self.groups = stride, first_groups
        added = outputs - inputs if stride == 2 else outputs
        middle = added // 4
        self.conv1 = Pointwise(inputs, middle, first_groups)
        self.bn1 = NormReLU(middle)
        self.conv2 = Depthwise(middle, stride)
        self.bn2 = NormReLU(middle)
        self.conv3 = Pointwise(middle, added, 3)
        self.bn3 = BatchNorm2d(added)

    def run(self, x: Tensor, relu: bool) -> Tensor:
        out = self.bn1(self.conv1(x))
        if self.groups > 1:
            out = shuffle(out, self.groups)
        out = self.conv3(self.bn2(self.conv2(out)))
        if self.stride == 1:
            out = self.bn3(out, x, relu)
            return out
        # The pooled input has been through a ReLU already.
        return concat_channels(self.bn3(out, None, relu), F.avg_pool2d(x, 3, 2, 1))


class V2Block(PreactBlock):
    """A block of ShuffleV2: its two halves are shuffled after its last ReLU."""

    def activate(self, preact: Tensor) -> Tensor:
        return shuffle(F.relu(preact), 2)

    def forward(self, x: Tensor) -> Tensor:
        return shuffle(self.run(x, True), 2)


class V2Basic(V2Block):
    """Half of the channels pass unchanged; the others go through 1x1, depthwise 3x3, 1x1.

    Then all are shuffled.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = Pointwise(half, half)
        self.bn1 = NormReLU(half)
        self.conv2 = Depthwise(half)
        self.bn2 = BatchNorm2d(half)
        self.conv3 = Pointwise(half, half)
        self.bn3 = BatchNorm2d(half)

    def run(self, x: Tensor, relu: bool) -> Tensor:
        passing, out = x.chunk(2, 1)
        out = self.bn2(self.conv2(self.bn1(self.conv1(out))))
        # The passing half has been through a ReLU already; a second one changes neither its value nor its
        # gradient.
        return concat_channels(passing, self.bn3(self.conv3(out), None, relu))


class V2Down(V2Block):
    """A block of stride 2. Both halves of its output are computed from all input channels.

    Left: depthwise 3x3, 1x1. Right: 1x1, depthwise 3x3, 1x1.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = Depthwise(inputs, 2)
        self.bn1 = BatchNorm2d(inputs)
        self.conv2 = Pointwise(inputs, half)
        self.bn2 = BatchNorm2d(half)
        self.conv3 = Pointwise(inputs, half)
        self.bn3 = NormReLU(half)
        self.conv4 = Depthwise(half, 2)
        self.bn4 = BatchNorm2d(half)
        self.conv5 = Pointwise(half, half)
        self.bn5 = BatchNorm2d(half)

    def run(self, x: Tensor, relu: bool) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))), None, relu)
        right = self.bn4(self.conv4(self.bn3(self.conv3(x))))
        return concat_channels(left, self.bn5(self.conv5(right), None, relu))


class ShuffleNet(PostActivationNetwork):
    """Base of both versions: a stem and three stages, which begin with a block of stride 2.

    The initialisation is PyTorch's default.

    widths: output channels of the stages.
    embedding: input size of the classifier.
    """

    def __init__(self, widths: tuple[int, int, int], embedding: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = NormReLU(STEM)
        inputs = (STEM, *widths[:-1])
        stages = [self.stage(*shape) for shape in zip(inputs, widths, (4, 8, 4), strict=True)]
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(embedding, num_classes)

    @staticmethod
    @abstractmethod
    def stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
        """Return a stage of `blocks` blocks."""

    def run_stem(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn1(self.conv1(x))
        return out

    def run_stage(self, index: int, x: Tensor, keep_preact: bool = False) -> tuple[Tensor, Tensor | None]:
        return run_blocks((self.layer1, self.layer2, self.layer3)[index], x, keep_preact)

    def linear_head(self) -> nn.Linear:
        return self.linear

    def feature_modules(self) -> list[nn.Module]:
        return [self.conv1, self.bn1, self.layer1, self.layer2, self.layer3]


class ShuffleV1(ShuffleNet):
    """3 groups, widths 240, 480, 960.

    The first convolution of the first block reads 24 channels in 1 group.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__((240, 480, 960), 960, num_classes)

    @staticmethod
    def stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
        first = V1Block(inputs, outputs, 2, 1 if inputs == STEM else 3)
        return nn.Sequential(first, *[V1Block(outputs, outputs, 1, 3) for _ in range(blocks - 1)])

    def head_from_last_stage(self, x_last_map: Tensor) -> tuple[Tensor, Tensor]:
        embedding = global_pool(x_last_map)
        return embedding, self.linear(embedding)


class ShuffleV2(ShuffleNet):
    """Version x1: widths 116, 232, 464, then a 1x1 convolution to 1024.

    The pre-activation of a stage is its map before ReLU and shuffle.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__((116, 232, 464), 1024, num_classes)
        self.conv2 = nn.Conv2d(464, 1024, 1, bias=False)
        self.bn2 = NormReLU(1024)

    @staticmethod
    def stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
        return nn.Sequential(V2Down(inputs, outputs), *[V2Basic(outputs) for _ in range(blocks - 1)])

    def head_from_last_stage(self, x_last_map: Tensor) -> tuple[Tensor, Tensor]:
        embedding = global_pool(self.bn2(self.conv2(x_last_map)))
        return embedding, self.linear(embedding)
