"""The networks for ImageNet compute what the published networks compute, on the same weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import models
from models import efficientnet_lite
from models.inverted_residuals import NormReLU6

TORCHVISION = {
    "resnet18_imagenet": ("resnet18", ("maxpool", "layer1", "layer2", "layer3", "layer4")),
    "resnet34_imagenet": ("resnet34", ("maxpool", "layer1", "layer2", "layer3", "layer4")),
    "resnet50_imagenet": ("resnet50", ("maxpool", "layer1", "layer2", "layer3", "layer4")),
    "mobilenetv2_imagenet": (
        "mobilenet_v2",
        ("features.0", "features.3", "features.6", "features.13", "features.17"),
    ),
    "shufflev2_imagenet": ("shufflenet_v2_x1_0", ("maxpool", "stage2", "stage3", "stage4")),
}
"""torchvision's name, and its modules whose outputs are the maps of stem and stages.

ResNet101 is ResNet50 with more blocks; the sizes below tell them apart.
"""

PRINTED_PARAMETERS = {
    "resnet18_imagenet": 11_689_512,
    "resnet34_imagenet": 21_797_672,
    "resnet50_imagenet": 25_557_032,
    "resnet101_imagenet": 44_549_160,
    "mobilenetv2_imagenet": 3_504_872,
    "shufflev2_imagenet": 2_278_604,
    "mobilenetv1_imagenet": 4_231_976,
    "efficientnet_lite0": 4_652_008,
}
"""Those that torchvision's documentation prints, and the same for MobileNetV1 and EfficientNet-Lite0."""

GMACS = {
    "resnet18_imagenet": "1.81",
    "resnet34_imagenet": "3.66",
    "resnet50_imagenet": "4.09",
    "resnet101_imagenet": "7.80",
    "mobilenetv2_imagenet": "0.30",
    "shufflev2_imagenet": "0.14",
}
"""At 224x224, as torchvision's documentation prints them."""


def _torchvision_models() -> Any:
    try:
        models.import_torchvision()
    except ImportError:
        pytest.skip("torchvision is not installed")
    import torchvision.models

    return torchvision.models


@pytest.fixture
def pictures() -> Tensor:
    """`[2, 3, 64, 64]`."""
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def with_statistics(net: nn.Module) -> nn.Module:
    """Give every batch norm running statistics and weights that differ from their initial values."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.1)
    return net


def same(ours: Tensor, theirs: Tensor) -> None:
    """Compare values up to rounding, in units of the largest one."""
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max())


@pytest.mark.parametrize("name", PRINTED_PARAMETERS)
def test_sizes(name: str) -> None:
    info = models.info(name, 1000, 224)
    assert info.params == PRINTED_PARAMETERS[name]
    if name in GMACS:
        assert abs(info.macs / 1e9 - float(GMACS[name])) < 0.011
    rows = [shape[1] for shape in info.stage_shapes]
    assert rows == ([28, 14, 7] if name == "shufflev2_imagenet" else [56, 28, 14, 7])
    assert all(shape[1] == shape[2] for shape in info.stage_shapes)
    assert info.size == 224 and models.info(name, 1000).size == 32


@pytest.mark.parametrize("name", TORCHVISION)
def test_features_and_logits_are_torchvisions(name: str, pictures: Tensor, tmp_path: Path) -> None:
    function, read = TORCHVISION[name]
    theirs = with_statistics(getattr(_torchvision_models(), function)(num_classes=10)).eval()
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    ours = models.build(name, 10).eval()
    models.load_weights(ours, tmp_path / "net.pth")
    maps: list[Tensor] = []
    for module in read:
        theirs.get_submodule(module).register_forward_hook(lambda _m, _i, out: maps.append(out.clone()))
    with torch.no_grad():
        logits = theirs(pictures)
        features = ours.features(pictures)
        for mine, other in zip(features.maps, maps, strict=True):
            same(mine, other)
        same(features.logits, logits)
        same(ours(pictures), logits)
        same(ours.linear_head()(features.embedding), logits)
        assert [p.shape for p in features.preacts] == [s.shape for s in features.stages]
        if name.startswith("resnet"):
            for preact, stage in zip(features.preacts, features.stages, strict=True):
                assert torch.equal(F.relu(preact), stage) and bool((preact < 0).any())
    assert models.info(name, 10, 64).stage_shapes == tuple(tuple(m.shape[1:]) for m in maps[1:])


def numbered_mobilenet(num_classes: int) -> nn.Module:
    """Return MobileNetV1 as the papers' code builds it: one numbered list of all layers, and `fc`."""
    layers = [nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())]
    shapes = [(32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    for inputs, outputs, stride in [*shapes, *[(512, 512, 1)] * 5, (512, 1024, 2), (1024, 1024, 1)]:
        depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        layers.append(
            nn.Sequential(
                *(depthwise, nn.BatchNorm2d(inputs), nn.ReLU()),
                *(pointwise, nn.BatchNorm2d(outputs), nn.ReLU()),
            )
        )

    class Numbered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(*layers)
            self.fc = nn.Linear(1024, num_classes)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.model(x).mean((2, 3)))
            return out

    return Numbered()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_mobilenetv1_loads_the_papers_checkpoints(prefix: str, pictures: Tensor, tmp_path: Path) -> None:
    theirs = with_statistics(numbered_mobilenet(10)).eval()
    state = {prefix + key: tensor for key, tensor in theirs.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 99}, tmp_path / "net.pth")
    ours = models.build("mobilenetv1_imagenet", 10).eval()
    assert models.load_weights(ours, tmp_path / "net.pth") == {"epoch": 99}
    with torch.no_grad():
        same(ours(pictures), theirs(pictures))


# --- EfficientNet-Lite0 -------------------------------------------------------------------------------------

GROUPS = {  # (expansion, output channels, blocks, stride, kernel size)
    0: (1, 16, 1, 1, 3),
    1: (6, 24, 2, 2, 3),
    2: (6, 40, 2, 2, 5),
    3: (6, 80, 3, 2, 3),
    4: (6, 112, 3, 1, 5),
    5: (6, 192, 4, 2, 5),
    6: (6, 320, 1, 1, 3),
}


def published_file() -> dict[str, Tensor]:
    """Return random weights with the names and shapes of the file of efficientnet-lite-pytorch."""
    state: dict[str, Tensor] = {}

    def conv(name: str, *shape: int) -> None:
        state[f"{name}.weight"] = torch.randn(shape) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = (
            torch.rand(channels) + 0.5,
            torch.randn(channels) / 10,
        )
        state[f"{name}.running_mean"] = torch.randn(channels) / 10
        state[f"{name}.running_var"] = torch.rand(channels) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(1)

    conv("_conv_stem", 32, 3, 3, 3)
    norm("_bn0", 32)
    inputs, index = 32, 0
    for expansion, outputs, blocks, _, kernel in GROUPS.values():
        for _ in range(blocks):
            block, middle = f"_blocks.{index}", inputs * expansion
            if expansion != 1:
                conv(f"{block}._expand_conv", middle, inputs, 1, 1)
                norm(f"{block}._bn0", middle)
            conv(f"{block}._depthwise_conv", middle, 1, kernel, kernel)
            norm(f"{block}._bn1", middle)
            conv(f"{block}._project_conv", outputs, middle, 1, 1)
            norm(f"{block}._bn2", outputs)
            inputs, index = outputs, index + 1
    conv("_conv_head", 1280, 320, 1, 1)
    norm("_bn1", 1280)
    state["_fc.weight"], state["_fc.bias"] = torch.randn(10, 1280) / 30, torch.randn(10)
    return state


def forward_from(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Compute the network from the published tensors, layer by layer: an independent route."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        groups = x.shape[1] // weight.shape[1]
        for axis in (3, 2):  # columns, then rows
            size, kernel = x.shape[axis], weight.shape[axis]
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            before = total // 2
            x = F.pad(x, (before, total - before) if axis == 3 else (0, 0, before, total - before))
        return F.conv2d(x, weight, stride=stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"].view(1, -1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3).sqrt() * weight + bias

    x = norm(conv(x, "_conv_stem", 2), "_bn0").clamp(0, 6)
    index = 0
    for expansion, outputs, blocks, first_stride, _ in GROUPS.values():
        for number in range(blocks):
            block, before, stride = f"_blocks.{index}", x, first_stride if number == 0 else 1
            if expansion != 1:
                x = norm(conv(x, f"{block}._expand_conv"), f"{block}._bn0").clamp(0, 6)
            x = norm(conv(x, f"{block}._depthwise_conv", stride), f"{block}._bn1").clamp(0, 6)
            x = norm(conv(x, f"{block}._project_conv"), f"{block}._bn2")
            if stride == 1 and before.shape[1] == outputs:
                x = x + before
            index += 1
    x = norm(conv(x, "_conv_head"), "_bn1").clamp(0, 6).mean((2, 3))
    return x @ state["_fc.weight"].t() + state["_fc.bias"]


def timm_name(key: str) -> str:
    """Return timm's name of a tensor of the published file."""
    module, _, tensor = key.rpartition(".")
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)", module):
        index, group = int(match[1]), 0
        while index >= GROUPS[group][2]:
            index, group = index - GROUPS[group][2], group + 1
        first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
        others = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
        others |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
        return f"blocks.{group}.{index}.{(others if group else first)[match[2]]}.{tensor}"
    ends = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    return f"{(ends | {'_fc': 'classifier'})[module]}.{tensor}"


@pytest.mark.parametrize("names", ["published", "timm"])
@pytest.mark.parametrize("size", [64, 45])
def test_efficientnet_lite0(names: str, size: int, tmp_path: Path) -> None:
    state = published_file()
    renamed = state if names == "published" else {timm_name(key): tensor for key, tensor in state.items()}
    torch.save(renamed, tmp_path / "net.pth")
    ours = models.build("efficientnet_lite0", 10).eval()
    models.load_weights(ours, tmp_path / "net.pth")
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        same(ours(x), forward_from(state, (imagenet_pixels(x) - 127) / 128))
        assert [m.shape[2] for m in ours.features(x).maps] == [
            -(-size // stride) for stride in (2, 4, 8, 16, 32)
        ]


def imagenet_pixels(x: Tensor) -> Tensor:
    """Return the pixels, in 0..255, of images that are normalised by ImageNet's mean and std."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x * std.view(3, 1, 1) + mean.view(3, 1, 1)) * 255


def test_efficientnet_lite0_has_tensorflows_norms() -> None:
    net = models.build("efficientnet_lite0", 10)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    assert not {"scale", "shift"} & set(net.state_dict())


def test_same_padding_adds_below_and_on_the_right_first() -> None:
    conv = efficientnet_lite.SameConv(1, 1, 3, 2)
    nn.init.ones_(conv.weight)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    corner = x[0, 0, :3, :3].sum(), x[0, 0, :3, 2:].sum(), x[0, 0, 2:, :3].sum(), x[0, 0, 2:, 2:].sum()
    assert conv(x).flatten().tolist() == [float(value) for value in corner]


def test_relu6() -> None:
    norm = NormReLU6(1).eval()
    x = torch.tensor([-1.0, 3.0, 9.0]).view(1, 1, 1, 3).requires_grad_()
    out = norm(x)
    out.sum().backward()
    scale = 1 / (1 + norm.eps) ** 0.5
    torch.testing.assert_close(out.flatten(), torch.tensor([0.0, 3 * scale, 6.0]))
    assert x.grad is not None
    torch.testing.assert_close(x.grad.flatten(), torch.tensor([0.0, scale, 0.0]))


def test_every_timm_name_of_mobilenetv2_is_known() -> None:
    """timm's names, made from those of torchvision by the structure of both."""
    theirs = _torchvision_models().mobilenet_v2(num_classes=10).state_dict()
    ours = models.build("mobilenetv2_imagenet", 10)
    groups = (1, 2, 3, 4, 3, 3, 1)

    def timm(key: str) -> str:
        parts = key.split(".")
        if parts[0] == "classifier":
            return f"classifier.{parts[2]}"
        index, tensor = int(parts[1]), parts[-1]
        if index in (0, 18):
            return f"{('conv_stem', 'bn1', 'conv_head', 'bn2')[int(parts[2]) + (2 if index else 0)]}.{tensor}"
        index, group = index - 1, 0
        while index >= groups[group]:
            index, group = index - groups[group], group + 1
        order = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
        if group == 0:
            order = ["conv_dw", "bn1", "conv_pw", "bn2"]
        inside = ".".join(parts[3:-1])
        position = ["0.0", "0.1", *(["1.0", "1.1", "2", "3"] if group else ["1", "2"])].index(inside)
        return f"blocks.{group}.{index}.{order[position]}.{tensor}"

    assert {ours.canonical_key(timm(key)) for key in theirs} == set(ours.state_dict())
    assert all(ours.canonical_key(timm(key)) == ours.canonical_key(key) for key in theirs)
