"""CIFAR vggs with batch norm (Simonyan & Zisserman, ICLR 2015): five blocks, one linear layer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from models.init import normal_by_width, small_linear
from models.layers import BatchNorm2d, Conv3x3, NormReLU, run_layers
from models.network import PostActivationNetwork, global_pool

CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Number of 3x3 convolutions in each block, by depth."""

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of each block."""


class VGG(PostActivationNetwork):
    """Five blocks of 3x3 convolutions with bias. Block 0 is the stem, blocks 1 to 4 are the stages.

    A 2x2 max-pool follows blocks 0, 1 and 2, and for 64x64 images also block 3.

    depth: a key of `CONVOLUTIONS`.
    """

    num_stages = 4

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        inputs = (3, *WIDTHS[:-1])
        blocks = [_block(*shape) for shape in zip(CONVOLUTIONS[depth], inputs, WIDTHS, strict=True)]
        self.block0, self.block1, self.block2, self.block3, self.block4 = blocks
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        normal_by_width(self)
        small_linear(self.classifier)

    def run_stem(self, x: Tensor) -> Tensor:
        return run_layers(self.block0, x, relu=True)

    def run_stage(self, index: int, x: Tensor, keep_preact: bool = False) -> tuple[Tensor, Tensor | None]:
        # The fourth pool gives images of 64x64 the same last map as images of 32x32.
        if index < 3 or x.shape[-1] == 8:
            x = F.max_pool2d(x, 2)
        block = (self.block1, self.block2, self.block3, self.block4)[index]
        if not keep_preact:
            return run_layers(block, x, relu=True), None
        preact = block(x)
        return F.relu(preact), preact

    def head_from_last_stage(self, x_last_map: Tensor) -> tuple[Tensor, Tensor]:
        embedding = global_pool(x_last_map)
        return embedding, self.classifier(embedding)

    def linear_head(self) -> nn.Linear:
        return self.classifier

    def feature_modules(self) -> list[nn.Module]:
        return [self.block0, self.block1, self.block2, self.block3, self.block4]


def _block(convolutions: int, inputs: int, outputs: int) -> nn.Sequential:
    """Return conv-bn-relu-...-conv-bn.

    The caller applies the last ReLU, because the value before it may be kept.
    """
    layers: list[nn.Module] = []
    for _ in range(convolutions - 1):
        # The identity keeps the numbering of the published checkpoints.
        layers += [Conv3x3(inputs, outputs), NormReLU(outputs), nn.Identity()]
        inputs = outputs
    return nn.Sequential(*layers, Conv3x3(inputs, outputs), BatchNorm2d(outputs))
