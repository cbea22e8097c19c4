"""Fresh weights have the distributions of the papers' code and use only PyTorch's global generator."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import models


def _convolutions(net: nn.Module) -> Iterator[nn.Conv2d]:
    yield from (module for module in net.modules() if isinstance(module, nn.Conv2d))


def _assert_spread(tensor: Tensor, expected: float) -> None:
    """The standard deviation within five standard errors (of a normal; smaller for a uniform)."""
    assert abs(float(tensor.std()) / expected - 1) < 5 / math.sqrt(2 * (tensor.numel() - 1))


def _assert_default(layer: nn.Conv2d | nn.Linear) -> None:
    """PyTorch's own: uniform within 1 / sqrt(fan in)."""
    bound = 1 / math.sqrt(layer.weight[0].numel())
    assert float(layer.weight.detach().abs().max()) <= bound
    _assert_spread(layer.weight.detach(), bound / math.sqrt(3))


@pytest.mark.parametrize(
    "name", ["resnet20", "resnet8x4", "ResNet50", "wrn_40_1", "vgg8", "MobileNetV2", "crnn_64"]
)
def test_convolutions_by_fan_out(name: str) -> None:
    net = models.build(name)
    for layer in _convolutions(net):
        height, width = layer.kernel_size
        _assert_spread(layer.weight.detach(), math.sqrt(2 / (height * width * layer.out_channels)))
        assert (layer.bias is not None) == name.startswith("vgg")
        assert layer.bias is None or not layer.bias.any()
    if name in ("vgg8", "MobileNetV2"):
        _assert_spread(net.linear_head().weight.detach(), 0.01)
    else:
        _assert_default(net.linear_head())
    if name in ("vgg8", "MobileNetV2", "wrn_40_1"):
        assert not net.linear_head().bias.any()
    else:
        assert net.linear_head().bias.any()


@pytest.mark.parametrize("name", ["ShuffleV1", "ShuffleV2", "ResNet18", "ResNeXt50", "DenseNet121"])
def test_default_initialisation(name: str) -> None:
    net = models.build(name)
    _assert_default(net.linear_head())
    for layer in _convolutions(net):
        _assert_default(layer)
    assert net.linear_head().bias.any()


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV2"])
def test_batch_norms_start_neutral(name: str) -> None:
    for norm in models.build(name).modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert bool((norm.weight == 1).all()) and not norm.bias.any()


def test_the_global_seed_decides() -> None:
    hashes = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        hashes.append(models.weights_hash(models.build("vgg8")))
    assert hashes[0] == hashes[1] != hashes[2]
