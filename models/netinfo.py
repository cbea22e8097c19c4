"""Sizes and shapes of a network, computed without creating its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from models.registry import build

Shape = tuple[int, int, int]
"""(channels, height, width) of a map."""


@dataclass(frozen=True)
class NetInfo:
    """Sizes and shapes of a network. Those that depend on the input are for one image of 3 x size x size."""

    name: str
    """Name of the network, as in `models.build`."""

    params: int
    """Number of trainable parameters."""

    macs: int
    """Multiply-accumulate operations of the convolutions, linear layers and GRUs in one forward pass."""

    convolutions: int
    """Number of convolutions."""

    map_elements: int
    """Total number of elements of the convolutions' outputs."""

    stem_shape: Shape
    """Shape of the stem's map."""

    stage_shapes: tuple[Shape, ...]
    """Shape of each stage's map."""

    embedding_dim: int
    """Length of the vector that the classifier reads."""

    size: int = 32
    """Rows and columns of the image."""


@cache
def info(name: str, num_classes: int = 100, size: int = 32) -> NetInfo:
    """Return sizes and shapes of the network that `build` would make. Cached; draws no random number.

    size: rows and columns of an image.

    Raises `UnknownNetwork` for an unknown name.
    """
    with torch.device("meta"):
        net = build(name, num_classes).eval()
    # A batch without images, on memory that is never touched. It is as fast as the meta device, whose
    # operators would import PyTorch's compiler first (2 s); `to_empty` would import sympy (0.4 s, 40 MB).
    net._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu"))
    no_image = torch.empty(0, 3, size, size, device="cpu")
    macs = convolutions = map_elements = 0

    def count(layer: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal macs, convolutions, map_elements
        if isinstance(layer, nn.Conv2d):
            height, width = layer.kernel_size
            convolutions += 1
            map_elements += math.prod(output.shape[1:])
            macs += math.prod(output.shape[1:]) * layer.in_channels // layer.groups * height * width
        elif isinstance(layer, nn.Linear):
            macs += layer.out_features * layer.in_features
        elif isinstance(layer, nn.GRU):
            frames = output[0].shape[1]  # every matrix is multiplied once per frame
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
        name=name,
        params=params,
        macs=macs,
        convolutions=convolutions,
        map_elements=map_elements,
        stem_shape=stem,
        stage_shapes=tuple(stages),
        embedding_dim=features.embedding.shape[1],
        size=size,
    )
