"""Sizes and shapes of a network, found without drawing or storing its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from models.registry import build

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class NetInfo:
    """What is known of a network before it is built.

    params: trainable numbers. macs: multiply-accumulates of the convolutions, linear layers and GRUs in one forward pass
    of one 3x32x32 image. convolutions: how many there are; map_numbers: how many numbers they make of that image.
    stem_shape, stage_shapes: (C, H, W) for that image. embedding_dim: length of the vector before the classifier.
    """

    name: str
    params: int
    macs: int
    convolutions: int
    map_numbers: int
    stem_shape: Shape
    stage_shapes: tuple[Shape, ...]
    embedding_dim: int


@cache
def info(name: str, num_classes: int = 100) -> NetInfo:
    """Sizes and shapes of the network that `build` would make. Raises `UnknownNetwork`. Cached; draws no random number."""
    with torch.device("meta"):
        net = build(name, num_classes).eval()
    # A batch of no image on memory that is never touched: as quick as the meta device, whose operators would import
    # PyTorch's compiler first (2 s).
    net.to_empty(device="cpu")
    no_image = torch.empty(0, 3, 32, 32, device="cpu")
    macs = convolutions = map_numbers = 0

    def count(layer: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal macs, convolutions, map_numbers
        if isinstance(layer, nn.Conv2d):
            height, width = layer.kernel_size
            convolutions += 1
            map_numbers += math.prod(output.shape[1:])
            macs += math.prod(output.shape[1:]) * layer.in_channels // layer.groups * height * width
        elif isinstance(layer, nn.Linear):
            macs += layer.out_features * layer.in_features
        elif isinstance(layer, nn.GRU):
            frames = output[0].shape[1]  # every matrix is multiplied once a frame
            macs += frames * sum(
                p.numel() for name, p in layer.named_parameters() if name.startswith("weight")
            )

    for module in net.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        features = net.features(no_image)
    stem, *stages = ((m.shape[1], m.shape[2], m.shape[3]) for m in features.maps)
    params = sum(parameter.numel() for parameter in net.parameters())
    return NetInfo(
        name, params, macs, convolutions, map_numbers, stem, tuple(stages), features.embedding.shape[1]
    )
