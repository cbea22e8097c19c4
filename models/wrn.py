"""Wide residual networks (Zagoruyko & Komodakis, BMVC 2016): pre-activation blocks, without dropout."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from models.init import normal_by_width
from models.layers import BatchNorm2d, NormReLU
from models.network import PreActivationNetwork, PreStage


class WideBlock(nn.Module):
    """bn-relu-conv-bn-relu-conv. Where the width changes, the shortcut convolution reads the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = NormReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor, opened: Tensor | None = None) -> Tensor:
        """The raw sum. opened: `bn1(x)` where the caller has it."""
        active = self.bn1(x, relu=True) if opened is None else F.relu(opened)
        out: Tensor = self.conv2(self.bn2(self.conv1(active)))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class WideStage(PreStage):
    """Blocks of one width, the first with the stride."""

    def __init__(self, blocks: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        later = [WideBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(WideBlock(inputs, outputs, stride), *later)

    def opening(self) -> BatchNorm2d:
        first = self.layer[0]
        assert isinstance(first, WideBlock)
        return first.bn1

    def forward(self, x: Tensor, opened: Tensor | None = None) -> Tensor:
        first, *later = self.layer
        x = first(x, opened)
        for block in later:
            x = block(x)
        return x


class WideResNet(PreActivationNetwork):
    """Three stages of (depth - 4) / 6 blocks and widths 16k, 32k, 64k (k = widen).

    The stem is the raw first convolution. Raises `ValueError` for a depth that is not 6n + 4.
    """

    def __init__(self, depth: int, widen: int, num_classes: int) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth {depth} of a wide resnet; allowed: 6n + 4")
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

    def linear_head(self) -> nn.Linear:
        return self.fc

    def feature_modules(self) -> list[nn.Module]:
        return [self.conv1, self.block1, self.block2, self.block3]
