"""CIFAR vggs with batch norm (Simonyan & Zisserman, ICLR 2015): five blocks, one linear layer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from models.init import normal_by_width, small_linear
from models.layers import BatchNorm2d, Conv3x3, NormReLU, normed
from models.network import PostActivationNetwork, global_pool

CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
WIDTHS = (64, 128, 256, 512, 512)


class VGG(PostActivationNetwork):
    """Block 0 is the stem, blocks 1 to 4 the stages; 2x2 max-pools after blocks 0, 1 and 2, and for 64x64 images after 3.

    depth: a key of `CONVOLUTIONS`, which says how many 3x3 convolutions (with bias) each block has.
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
        return normed(self.block0, x, relu=True)

    def run_stage(self, index: int, x: Tensor, keep: bool = False) -> tuple[Tensor, Tensor | None]:
        # The fourth pool is there to bring 64x64 images to the same last map as 32x32 ones.
        if index < 3 or x.shape[-1] == 8:
            x = F.max_pool2d(x, 2)
        block = (self.block1, self.block2, self.block3, self.block4)[index]
        if not keep:
            return normed(block, x, relu=True), None
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
    """conv-bn-relu-conv-bn ...: the last ReLU is left to the caller, who hands out the value before it."""
    layers: list[nn.Module] = []
    for _ in range(convolutions - 1):
        layers += [
            Conv3x3(inputs, outputs),
            NormReLU(outputs),
            nn.Identity(),
        ]  # numbered as in the papers' files
        inputs = outputs
    return nn.Sequential(*layers, Conv3x3(inputs, outputs), BatchNorm2d(outputs))
