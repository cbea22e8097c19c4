"""ImageNet ResNets with a CIFAR stem (He et al., CVPR 2016, table 1; ResNeXt: Xie et al., CVPR 2017).

`ResNet50` is a teacher in the distillation tables. The other networks are those of the self-distillation
papers, with PyTorch's default initialisation. Checkpoints with torchvision's names can be loaded too.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.init import he_fan_out
from models.layered import LayeredNetwork
from models.layers import BatchNorm2d, NormReLU
from models.network import PreactBlock


class Bottleneck(PreactBlock):
    """1x1, 3x3 with the stride, 1x1 to four times `planes`.

    If the shape changes, the shortcut is a 1x1 convolution.

    groups: groups of the 3x3 convolution.
    width: channels of each group per 64 planes.
    """

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, groups: int = 1, width: int = 64) -> None:
        super().__init__()
        middle, outputs = planes * width // 64 * groups, planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = NormReLU(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = NormReLU(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def run(self, x: Tensor, relu: bool) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        out = self.bn3(self.conv3(out), self.shortcut(x), relu)
        return out


class BasicBlock(PreactBlock):
    """Two 3x3 convolutions, the first with the stride. The shortcut is that of `Bottleneck`."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = NormReLU(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = BatchNorm2d(planes)
        self.shortcut = _shortcut(inputs, planes, stride)

    def run(self, x: Tensor, relu: bool) -> Tensor:
        out: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x))), self.shortcut(x), relu)
        return out


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), BatchNorm2d(outputs))


class DeepResNet(LayeredNetwork):
    """A stem (3x3, stride 1, 64 channels) and four stages of strides 1, 2, 2, 2.

    blocks: number of blocks of each stage.
    bottleneck: whether blocks are `Bottleneck`s, with `groups` and `width`, or basic ones.
    he_init: whether to use He's initialisation (fan-out mode) or PyTorch's default.
    """

    num_stages = 4

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        num_classes: int,
        *,
        bottleneck: bool = True,
        groups: int = 1,
        width: int = 64,
        he_init: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = NormReLU(64)
        channels = 64
        stages: list[nn.Sequential] = []
        for planes, count, first_stride in zip((64, 128, 256, 512), blocks, (1, 2, 2, 2), strict=True):
            stage: list[nn.Module] = []
            for stride in (first_stride, *[1] * (count - 1)):
                if bottleneck:
                    stage.append(Bottleneck(channels, planes, stride, groups, width))
                else:
                    stage.append(BasicBlock(channels, planes, stride))
                channels = planes * (Bottleneck.expansion if bottleneck else BasicBlock.expansion)
            stages.append(nn.Sequential(*stage))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.linear = nn.Linear(channels, num_classes)
        if he_init:
            he_fan_out(self)

    def linear_head(self) -> nn.Linear:
        return self.linear

    @classmethod
    def canonical_key(cls, key: str) -> str:
        """Also accept torchvision's names."""
        return f"linear.{key[3:]}" if key.startswith("fc.") else key.replace(".downsample.", ".shortcut.")
