"""CIFAR resnets of depth 6n + 2 with projection shortcuts.

He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.init import he_fan_out
from models.layered import LayeredNetwork
from models.layers import BatchNorm2d, NormReLU
from models.network import PreactBlock


class BasicBlock(PreactBlock):
    """Two 3x3 convolutions.

    If the shape changes, the shortcut is a 1x1 convolution with batch norm (option B).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = NormReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), BatchNorm2d(outputs)
            )

    def run(self, x: Tensor, relu: bool) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x))), shortcut, relu)
        return out


class ResNet(LayeredNetwork):
    """Three stages of n basic blocks.

    depth: 6n + 2; `ValueError` for any other.
    widths: channels of the stem and of the three stages.
    """

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"a CIFAR resnet cannot have depth {depth}; allowed: 6n + 2")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = NormReLU(widths[0])
        self.layer1 = basic_stage(blocks, widths[0], widths[1], 1)
        self.layer2 = basic_stage(blocks, widths[1], widths[2], 2)
        self.layer3 = basic_stage(blocks, widths[2], widths[3], 2)
        self.fc = nn.Linear(widths[3], num_classes)
        he_fan_out(self)

    def linear_head(self) -> nn.Linear:
        return self.fc


def basic_stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return a stage of basic blocks. The first block has the stride."""
    later = [BasicBlock(outputs, outputs) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *later)
