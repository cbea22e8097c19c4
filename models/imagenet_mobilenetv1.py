"""MobileNetV1 for ImageNet (Howard et al., 2017), the student of ResNet50 in the distillation papers.

Checkpoints are loaded with the names of the code of ReviewKD and mdistiller.
"""

from __future__ import annotations

import re

from torch import Tensor, nn

from models.layered import LayeredNetwork
from models.layers import BatchNorm2d, Depthwise, NormReLU
from models.network import PreactBlock

STAGES = (
    ((32, 64, 1), (64, 128, 2), (128, 128, 1)),
    ((128, 256, 2), (256, 256, 1)),
    ((256, 512, 2), *((512, 512, 1),) * 5),
    ((512, 1024, 2), (1024, 1024, 1)),
)
"""(input channels, output channels, stride) of each block, by stage."""


class SeparableBlock(PreactBlock):
    """A depthwise 3x3 convolution with the stride and a 1x1 convolution, each with norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Depthwise(inputs, stride)
        self.bn1 = NormReLU(inputs)
        self.conv2 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = BatchNorm2d(outputs)

    def run(self, x: Tensor, relu: bool) -> Tensor:
        out: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x))), None, relu)
        return out


class MobileNetV1(LayeredNetwork):
    """A stem of stride 2 and 13 separable blocks; PyTorch's default initialisation.

    The stages end before the blocks of stride 2, as ReviewKD's code reads them (128, 256, 512, 1024
    channels).
    """

    num_stages = len(STAGES)

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self.bn1 = NormReLU(32)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(*[SeparableBlock(*shape) for shape in stage]) for stage in STAGES
        )
        self.fc = nn.Linear(1024, num_classes)

    def linear_head(self) -> nn.Linear:
        return self.fc

    @classmethod
    def canonical_key(cls, key: str) -> str:
        """Also accept the names of the papers' code, which numbers all layers: `model.BLOCK.LAYER.*`."""
        match = re.fullmatch(r"model\.(\d+)\.(\d)\.(.*)", key)
        if match is None:
            return key
        block, layer, rest = int(match[1]), match[2], match[3]
        names = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2"}
        if block == 0 or layer not in names:
            return f"{names.get(layer, layer)}.{rest}"
        block -= 1
        for stage, blocks in enumerate(STAGES, start=1):
            if block < len(blocks):
                return f"layer{stage}.{block}.{names[layer]}.{rest}"
            block -= len(blocks)
        return key
