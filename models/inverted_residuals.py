"""The base of MobileNetV2 and EfficientNet-Lite for ImageNet: groups of inverted residual blocks with ReLU6.

Dropout before the classifier is left out, as in all networks here: its draws would depend on what else is
trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from models.init import small_linear
from models.layers import BatchNorm2d
from models.network import PostActivationNetwork, global_pool

STAGES = ((0, 1), (2,), (3, 4), (5, 6))
"""The groups of each stage."""

STEM, LAST = 32, 1280
"""Channels of the stem and of the last convolution."""

Depthwise = Callable[[int, int, int], nn.Conv2d]
"""`(channels, kernel size, stride)` -> a depthwise convolution without bias."""

Group = tuple[int, int, int, int, int]
"""(expansion, channels, blocks, stride of the first block, kernel size) of a group of blocks."""


class NormReLU6(BatchNorm2d):
    """A batch norm followed by min(ReLU, 6)."""

    def forward(self, x: Tensor, shortcut: Tensor | None = None, relu: bool = True) -> Tensor:
        out = super().forward(x, shortcut, False)
        return F.relu6(out) if relu else out


class InvertedResidual(nn.Module):
    """1x1 expansion (none where it is 1), depthwise, 1x1 without activation; plus the input if it fits."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, depthwise: nn.Conv2d) -> None:
        super().__init__()
        middle = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expand: nn.Sequential | None = None
        if expansion != 1:
            self.expand = nn.Sequential(nn.Conv2d(inputs, middle, 1, bias=False), NormReLU6(middle))
        self.depthwise = nn.Sequential(depthwise, NormReLU6(middle))
        self.project = nn.Conv2d(middle, outputs, 1, bias=False)
        self.norm = BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = x if self.expand is None else self.expand(x)
        out = self.norm(self.project(self.depthwise(out)), x if self.residual else None)
        return out


class InvertedResidualNetwork(PostActivationNetwork):
    """A stem of stride 2, seven groups of blocks, a last 1x1 convolution and a classifier.

    The stages end with groups 1, 2, 4 and 6; a stage's pre-activation is its map.

    stem: the stem's convolution.
    """

    num_stages = len(STAGES)

    def __init__(
        self, stem: nn.Conv2d, groups: Sequence[Group], depthwise: Depthwise, num_classes: int
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(stem, NormReLU6(STEM))
        channels, built = STEM, []
        for expansion, outputs, count, first_stride, kernel in groups:
            group: list[nn.Module] = []
            for stride in (first_stride, *[1] * (count - 1)):
                middle = depthwise(channels * expansion, kernel, stride)
                group.append(InvertedResidual(channels, outputs, stride, expansion, middle))
                channels = outputs
            built.append(nn.Sequential(*group))
        self.groups = nn.ModuleList(built)
        self.head = nn.Sequential(nn.Conv2d(channels, LAST, 1, bias=False), NormReLU6(LAST))
        self.classifier = nn.Linear(LAST, num_classes)
        small_linear(self.classifier)

    def run_stem(self, x: Tensor) -> Tensor:
        out: Tensor = self.stem(x)
        return out

    def run_stage(self, index: int, x: Tensor, keep_preact: bool = False) -> tuple[Tensor, Tensor | None]:
        for group in STAGES[index]:
            x = self.groups[group](x)
        return x, x if keep_preact else None

    def head_from_last_stage(self, x_last_map: Tensor) -> tuple[Tensor, Tensor]:
        embedding = global_pool(self.head(x_last_map))
        return embedding, self.classifier(embedding)

    def linear_head(self) -> nn.Linear:
        return self.classifier

    def feature_modules(self) -> list[nn.Module]:
        return [self.stem, self.groups]


# --- names in checkpoints -----------------------------------------------------------------------------------

_TIMM_ENDS = {"conv_stem": "stem.0", "bn1": "stem.1", "conv_head": "head.0", "bn2": "head.1"}
_TIMM_FIRST = {"conv_dw": "depthwise.0", "bn1": "depthwise.1", "conv_pw": "project", "bn2": "norm"}
_TIMM_OTHERS = {
    "conv_pw": "expand.0",
    "bn1": "expand.1",
    "conv_dw": "depthwise.0",
    "bn2": "depthwise.1",
    "conv_pwl": "project",
    "bn3": "norm",
}


def timm_key(key: str) -> str:
    """Return our name of a tensor of timm's MobileNetV2 or EfficientNet-Lite; other names stay."""
    if match := re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(.*)", key):
        names = _TIMM_FIRST if match[1] == "0" else _TIMM_OTHERS
        return f"groups.{match[1]}.{match[2]}.{renamed(match[3], names)}"
    return renamed(key, _TIMM_ENDS)


def located(index: int, groups: Sequence[Group]) -> tuple[int, int]:
    """Return (group, block within it) of the block of this index among all; `IndexError` if there is none."""
    for number, (_, _, count, _, _) in enumerate(groups):
        if index < count:
            return number, index
        index -= count
    raise IndexError(index)


def renamed(key: str, names: dict[str, str]) -> str:
    """Return the key with the name of its module replaced, if `names` has it."""
    module, dot, tensor = key.rpartition(".")
    return f"{names[module]}{dot}{tensor}" if module in names else key
