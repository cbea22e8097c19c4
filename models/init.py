"""The initial distributions of the networks; what is not named here keeps PyTorch's default.

On the meta device, where there are no values to draw, these do nothing (PyTorch would import its compiler to do so).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn


def he_fan_out(net: nn.Module) -> None:
    """He et al. (ICCV 2015) by fan out: the CIFAR resnets and ResNet50."""
    for convolution in _convolutions(net):
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")


def normal_by_width(net: nn.Module) -> None:
    """Convolutions N(0, sqrt(2 / (k * k * out))), where a depthwise one counts all its outputs; their biases 0."""
    for convolution in _convolutions(net):
        height, width = convolution.kernel_size
        nn.init.normal_(convolution.weight, 0.0, math.sqrt(2.0 / (height * width * convolution.out_channels)))
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)


def small_linear(linear: nn.Linear) -> None:
    """Weights N(0, 0.01), bias 0: the vggs and MobileNetV2."""
    if not linear.weight.is_meta:
        nn.init.normal_(linear.weight, 0.0, 0.01)
        nn.init.zeros_(linear.bias)


def _convolutions(net: nn.Module) -> Iterator[nn.Conv2d]:
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            yield module
