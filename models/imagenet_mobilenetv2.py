"""MobileNetV2 for ImageNet (Sandler et al., CVPR 2018), as torchvision has it, but without dropout.

Checkpoints are loaded with the names of torchvision and of timm's `mobilenetv2_100`.
"""

from __future__ import annotations

import re

from torch import nn

from models.init import he_fan_out, small_linear
from models.inverted_residuals import STEM, InvertedResidualNetwork, located, renamed, timm_key
from models.layers import Depthwise

GROUPS = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)


class ImageNetMobileNetV2(InvertedResidualNetwork):
    """MobileNetV2 of width 1, initialised as torchvision does."""

    def __init__(self, num_classes: int) -> None:
        stem = nn.Conv2d(3, STEM, 3, 2, 1, bias=False)
        super().__init__(stem, GROUPS, lambda channels, _, stride: Depthwise(channels, stride), num_classes)
        he_fan_out(self)
        small_linear(self.classifier)

    @classmethod
    def canonical_key(cls, key: str) -> str:
        """Also accept torchvision's names (`features.*`) and timm's (`blocks.*`)."""
        if match := re.fullmatch(r"features\.(\d+)\.(.*)", key):
            return _torchvision_key(int(match[1]), match[2])
        if key.startswith("classifier.1."):
            return f"classifier.{key[13:]}"
        return timm_key(key)


def _torchvision_key(index: int, rest: str) -> str:
    """Return our name of `features.INDEX.REST`."""
    if index == 0:
        return f"stem.{rest}"
    try:
        group, block = located(index - 1, GROUPS)
    except IndexError:
        return f"head.{rest}"
    inside = ("depthwise",) if GROUPS[group][0] == 1 else ("expand", "depthwise")
    names = {f"conv.{i}.{part}": f"{name}.{part}" for i, name in enumerate(inside) for part in (0, 1)}
    names |= {f"conv.{len(inside)}": "project", f"conv.{len(inside) + 1}": "norm"}
    return f"groups.{group}.{block}.{renamed(rest, names)}"
