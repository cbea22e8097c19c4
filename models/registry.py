"""Names of the networks, and how to build each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from models.crnn import CRNN
from models.densenet import DenseNet
from models.efficientnet_lite import EfficientNetLite0
from models.imagenet_mobilenetv1 import MobileNetV1
from models.imagenet_mobilenetv2 import ImageNetMobileNetV2
from models.imagenet_resnet import ImageNetResNet
from models.imagenet_shufflenet import ImageNetShuffleV2
from models.mobilenetv2 import MobileNetV2
from models.network import Network
from models.resnet import ResNet
from models.resnet50 import DeepResNet
from models.shufflenet import ShuffleV1, ShuffleV2
from models.vgg import VGG
from models.wrn import WideResNet


class UnknownNetwork(ValueError):
    """No network has this name."""


NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
"""Channels of the stem and of the three stages of a CIFAR resnet; WIDE for the names that end in x4."""

NETWORKS: Mapping[str, Callable[[int], Network]] = {
    **{f"resnet{depth}": partial(ResNet, depth, NARROW) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": partial(ResNet, depth, WIDE) for depth in (8, 32)},
    **{f"wrn_{depth}_{widen}": partial(WideResNet, depth, widen) for depth in (16, 40) for widen in (1, 2)},
    **{f"vgg{depth}": partial(VGG, depth) for depth in (8, 11, 13, 16, 19)},
    "ResNet50": partial(DeepResNet, (3, 4, 6, 3), he_init=True),
    "MobileNetV2": MobileNetV2,
    "MobileNetV2_hsakd": partial(MobileNetV2, stem_stride=1),
    "ShuffleV1": ShuffleV1,
    "ShuffleV2": ShuffleV2,
    # Networks of the self-distillation papers, with PyTorch's default initialisation.
    "ResNet18": partial(DeepResNet, (2, 2, 2, 2), bottleneck=False),
    "ResNet50_default": partial(DeepResNet, (3, 4, 6, 3)),
    "ResNet101": partial(DeepResNet, (3, 4, 23, 3)),
    "ResNeXt50": partial(DeepResNet, (3, 4, 6, 3), groups=32, width=4),
    "DenseNet121": partial(DenseNet, (6, 12, 24, 16)),
    # Networks for ImageNet, whose stems are for images of 224x224.
    "resnet18_imagenet": partial(ImageNetResNet, (2, 2, 2, 2), bottleneck=False),
    "resnet34_imagenet": partial(ImageNetResNet, (3, 4, 6, 3), bottleneck=False),
    "resnet50_imagenet": partial(ImageNetResNet, (3, 4, 6, 3), bottleneck=True),
    "resnet101_imagenet": partial(ImageNetResNet, (3, 4, 23, 3), bottleneck=True),
    "mobilenetv1_imagenet": MobileNetV1,
    "mobilenetv2_imagenet": ImageNetMobileNetV2,
    "shufflev2_imagenet": ImageNetShuffleV2,
    "efficientnet_lite0": EfficientNetLite0,
    # Taggers of sound clips; the rows of the image are frames.
    **{f"crnn_{width}": partial(CRNN, width) for width in (64, 16)},
}


def names() -> tuple[str, ...]:
    """Return the names of all networks."""
    return tuple(NETWORKS)


def build(name: str, num_classes: int = 100) -> Network:
    """Build a network in train mode. Its weights are drawn from PyTorch's global generator; seed it first.

    Raises `UnknownNetwork` for a name that is not in `names()`, and `ValueError` for fewer than one class.
    """
    if name not in NETWORKS:
        raise UnknownNetwork(f"unknown network {name!r}; allowed: {', '.join(NETWORKS)}")
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; allowed: 1 or more")
    net = NETWORKS[name](num_classes)
    net.name = name
    return net
