"""The initial distributions of the networks; what is not named here keeps PyTorch's default."""

from __future__ import annotations

import math

from torch import nn


def he_fan_out(net: nn.Module) -> None:
    """He et al. (ICCV 2015) by fan out, batch norms 1 and 0: the CIFAR resnets and ResNet50."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def normal_by_width(net: nn.Module) -> None:
    """Convolutions N(0, sqrt(2 / (k * k * out))), where a depthwise one counts all its outputs; their biases 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / (height * width * module.out_channels)))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def small_linear(linear: nn.Linear) -> None:
    """Weights N(0, 0.01), bias 0: the vggs and MobileNetV2."""
    nn.init.normal_(linear.weight, 0.0, 0.01)
    nn.init.zeros_(linear.bias)
