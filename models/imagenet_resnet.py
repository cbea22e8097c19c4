"""ResNets for ImageNet (He et al., CVPR 2016, table 1), as torchvision has them.

They are the networks of `models.resnet50` with a stem for images of 224x224: a 7x7 convolution of stride 2
and a max-pool of stride 2. Checkpoints with torchvision's names are loaded; timm's ResNets have the same.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from models.init import he_fan_out
from models.resnet50 import DeepResNet


class ImageNetResNet(DeepResNet):
    """A stem of 64 channels and stride 4, and four stages of strides 1, 2, 2, 2. He's initialisation.

    The stem's map is that after the max-pool.
    """

    def __init__(self, blocks: tuple[int, int, int, int], num_classes: int, *, bottleneck: bool) -> None:
        super().__init__(blocks, num_classes, bottleneck=bottleneck)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        he_fan_out(self)

    def run_stem(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.bn1(self.conv1(x)), 3, 2, 1)
