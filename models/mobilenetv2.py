"""MobileNetV2 (Sandler et al., CVPR 2018) as in the distillation papers.

It has width 0.5, ReLUs, and a stem of stride 2. HSAKD's has a stem of stride 1, so that all maps are twice as
large; it is another network, `MobileNetV2_hsakd`.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.init import normal_by_width, small_linear
from models.layers import BatchNorm2d, Depthwise, NormReLU, run_layers
from models.network import PostActivationNetwork, global_pool

GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""(expansion, channels at width 1, blocks, stride) of each group of blocks."""

STAGES = ((0, 1), (2,), (3, 4), (5, 6))
"""The groups of each stage."""

WIDTH, STEM, LAST = 0.5, 32, 1280
"""Width multiplier; channels of the stem at width 1; channels of the last convolution, at any width."""


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, 1x1 without activation; plus the input if the shapes agree.

    expansion: channels inside the block, in multiples of `inputs`.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, middle, 1, bias=False),
            NormReLU(middle),
            nn.Identity(),  # keeps the numbering of the published checkpoints
            Depthwise(middle, stride),
            NormReLU(middle),
            nn.Identity(),  # keeps the numbering of the published checkpoints
            nn.Conv2d(middle, outputs, 1, bias=False),
            BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return run_layers(self.conv, x, x if self.residual else None)


class MobileNetV2(PostActivationNetwork):
    """Seven groups of blocks.

    The stages end with groups 1, 2, 4 and 6; a stage's pre-activation is its map.
    """

    num_stages = len(STAGES)

    def __init__(self, num_classes: int, stem_stride: int = 2) -> None:
        super().__init__()
        channels = int(STEM * WIDTH)
        self.conv1 = nn.Sequential(nn.Conv2d(3, channels, 3, stem_stride, 1, bias=False), NormReLU(channels))
        groups: list[nn.Module] = []
        for expansion, full_width, count, first_stride in GROUPS:
            group: list[nn.Module] = []
            for stride in (first_stride, *[1] * (count - 1)):
                outputs = int(full_width * WIDTH)
                group.append(InvertedResidual(channels, outputs, stride, expansion))
                channels = outputs
            groups.append(nn.Sequential(*group))
        self.blocks = nn.Sequential(*groups)
        self.conv2 = nn.Sequential(nn.Conv2d(channels, LAST, 1, bias=False), NormReLU(LAST))
        linear = nn.Linear(LAST, num_classes)
        self.classifier = nn.Sequential(linear)
        normal_by_width(self)
        small_linear(linear)

    def run_stem(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return x

    def run_stage(self, index: int, x: Tensor, keep_preact: bool = False) -> tuple[Tensor, Tensor | None]:
        for group in STAGES[index]:
            x = self.blocks[group](x)
        return x, x if keep_preact else None

    def head_from_last_stage(self, x_last_map: Tensor) -> tuple[Tensor, Tensor]:
        embedding = global_pool(self.conv2(x_last_map))
        return embedding, self.classifier(embedding)

    def linear_head(self) -> nn.Linear:
        head = self.classifier[0]
        assert isinstance(head, nn.Linear)
        return head

    def feature_modules(self) -> list[nn.Module]:
        return [self.conv1, self.blocks]

    @classmethod
    def canonical_key(cls, key: str) -> str:
        """Also accept SSKD's names, which lack the `0` of the classifier."""
        return f"classifier.0.{key[11:]}" if key in ("classifier.weight", "classifier.bias") else key
