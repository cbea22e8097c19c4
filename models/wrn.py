"""Wide residual networks (Zagoruyko & Komodakis, BMVC 2016) with pre-activation blocks, without dropout."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from models.init import normal_by_width
from models.layers import BatchNorm2d, NormReLU
from models.network import PreActivationNetwork, PreStage

MOMENTUM = 0.1
"""Share of the batch's statistics in an update of a norm's running statistics, as in PyTorch."""


class WideBlock(nn.Module):
    """bn-relu-conv-bn-relu-conv.

    If the width changes, the shortcut is a convolution of the activated input.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = NormReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor, normed_x: Tensor | None = None) -> Tensor:
        """Return the sum of both branches, without an activation.

        normed_x: `bn1(x)`, if the caller has it.
        """
        active = self.bn1(x, relu=True) if normed_x is None else F.relu(normed_x)
        out: Tensor = self.conv2(self.bn2(self.conv1(active)))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class WideStage(PreStage):
    """Blocks of one width. The first block has the stride."""

    def __init__(self, blocks: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        later = [WideBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(WideBlock(inputs, outputs, stride), *later)

    def first_norm(self) -> BatchNorm2d:
        first = self.layer[0]
        assert isinstance(first, WideBlock)
        return first.bn1

    def forward(self, x: Tensor, normed_x: Tensor | None = None) -> Tensor:
        first, *later = self.layer
        x = first(x, normed_x)
        for block in later:
            x = block(x)
        return x


class WideResNet(PreActivationNetwork):
    """Three stages of n blocks; the stem is one convolution, without an activation.

    depth: 6n + 4; `ValueError` for any other.
    widen: factor k; the stages have 16k, 32k and 64k channels.
    """

    def __init__(self, depth: int, widen: int, num_classes: int) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"a wide resnet cannot have depth {depth}; allowed: 6n + 4")
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = WideStage(blocks, 16, 16 * widen, 1)
        self.block2 = WideStage(blocks, 16 * widen, 32 * widen, 2)
        self.block3 = WideStage(blocks, 32 * widen, 64 * widen, 2)
        self.bn1 = BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, num_classes)
        normal_by_width(self)
        nn.init.zeros_(self.fc.bias)

    def run_stem(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return x

    def stages(self) -> Sequence[PreStage]:
        return self.block1, self.block2, self.block3

    def final_norm(self) -> BatchNorm2d:
        return self.bn1

    def set_norm_updates(self, updates: int) -> None:
        """Let the norms whose outputs are pre-activations update their statistics `updates` times a step.

        In other code bases a second call of these norms on the same maps does that. Here one call has the
        momentum of both: each update leaves 0.9 of the old value, so two leave 0.81.
        """
        for norm in (*(stage.first_norm() for stage in self.stages()[1:]), self.bn1):
            norm.momentum = 1 - (1 - MOMENTUM) ** updates

    def linear_head(self) -> nn.Linear:
        return self.fc

    def feature_modules(self) -> list[nn.Module]:
        return [self.conv1, self.block1, self.block2, self.block3]
