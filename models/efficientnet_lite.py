"""EfficientNet-Lite0 for ImageNet (Tan and Le, ICML 2019, in the form of TensorFlow's EfficientNet-Lite).

It is EfficientNet-B0 without squeeze-and-excitation, with ReLU6, and with stem and head of fixed width. As in
TensorFlow, a convolution of stride 2 pads only as much as it needs, first at the bottom and the right, and
batch norms have eps = 1e-3 and momentum 0.01. Checkpoints are loaded with the names of
efficientnet-lite-pytorch (`_conv_stem`, `_blocks.3._expand_conv`) and of timm's `tf_efficientnet_lite0`.

The published weights expect pixels as (x - 127) / 128, x in 0..255. Here a network reads what all networks of
a pack read, images normalised by ImageNet's mean and std, so this one converts them first.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.init import normal_by_width
from models.inverted_residuals import STEM, InvertedResidualNetwork, located, renamed, timm_key
from models.layers import BatchNorm2d

GROUPS = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)

EPS, MOMENTUM = 1e-3, 0.01
"""Of the batch norms."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of pixels in 0..1, by which the network's input is normalised."""


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: the output has ceil(size / stride) rows and columns.

    If the number of padded rows is odd, one more is padded below than above; so with columns, on the right.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, outputs, ceil(H / stride), ceil(W / stride)]`."""
        (top, bottom), (left, right) = (self._padding(size) for size in x.shape[2:])
        if (top, left) == (bottom, right):
            return F.conv2d(x, self.weight, None, self.stride, (top, left), 1, self.groups)
        return super().forward(F.pad(x, (left, right, top, bottom)))

    def _padding(self, size: int) -> tuple[int, int]:
        """Return how many rows are padded before and after `size` rows."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2


def _depthwise(channels: int, kernel: int, stride: int) -> SameConv:
    return SameConv(channels, channels, kernel, stride, groups=channels)


class EfficientNetLite0(InvertedResidualNetwork):
    """The network; its convolutions are initialised as TensorFlow's are, N(0, sqrt(2 / fan-out))."""

    scale: Tensor
    shift: Tensor
    """The network reads x * scale + shift."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(SameConv(3, STEM, 3, 2), GROUPS, _depthwise, num_classes)
        for module in self.modules():
            if isinstance(module, BatchNorm2d):
                module.eps, module.momentum = EPS, MOMENTUM
        normal_by_width(self)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        self.register_buffer("scale", std * 255 / 128, persistent=False)
        self.register_buffer("shift", (mean * 255 - 127) / 128, persistent=False)

    def run_stem(self, x: Tensor) -> Tensor:
        return super().run_stem(x * self.scale + self.shift)

    @classmethod
    def canonical_key(cls, key: str) -> str:
        """Also accept the names of efficientnet-lite-pytorch and of timm."""
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+\.\w+)", key):
            try:
                group, block = located(int(match[1]), GROUPS)
            except IndexError:
                return key
            return f"groups.{group}.{block}.{renamed(match[2], _LAYERS)}"
        ours = renamed(key, _ENDS)
        return ours if ours != key else timm_key(key)


_ENDS = {
    "_conv_stem": "stem.0",
    "_bn0": "stem.1",
    "_conv_head": "head.0",
    "_bn1": "head.1",
    "_fc": "classifier",
}
_LAYERS = {
    "_expand_conv": "expand.0",
    "_bn0": "expand.1",
    "_depthwise_conv": "depthwise.0",
    "_bn1": "depthwise.1",
    "_project_conv": "project",
    "_bn2": "norm",
}
