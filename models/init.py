"""Initialisation of the networks' weights. All other weights keep PyTorch's default.

On the meta device these functions do nothing: there are no values to draw, and PyTorch would import its
compiler.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn


def he_fan_out(net: nn.Module) -> None:
    """Initialise convolutions by He et al. (ICCV 2015), fan-out mode: the CIFAR resnets and ResNet50."""
    for convolution in _convolutions(net):
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")


def normal_by_width(net: nn.Module) -> None:
    """Draw the convolutions' weights with standard deviation sqrt(2 / (k * k * out)); set their biases to 0.

    The distribution is normal with mean 0. k: kernel size. out: output channels; a depthwise convolution
    counts all of them.
    """
    for convolution in _convolutions(net):
        height, width = convolution.kernel_size
        nn.init.normal_(convolution.weight, 0.0, math.sqrt(2.0 / (height * width * convolution.out_channels)))
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)


def small_linear(linear: nn.Linear) -> None:
    """Draw normal weights of standard deviation 0.01 and set the bias to 0: the vggs and MobileNetV2."""
    if not linear.weight.is_meta:
        nn.init.normal_(linear.weight, 0.0, 0.01)
        nn.init.zeros_(linear.bias)


def _convolutions(net: nn.Module) -> Iterator[nn.Conv2d]:
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            yield module
