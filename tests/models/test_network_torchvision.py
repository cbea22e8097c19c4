"""The networks that torchvision also has compute what torchvision computes, once its stem is exchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models

NAMES = {
    "ResNet18": "resnet18",
    "ResNeXt50": "resnext50_32x4d",
    "DenseNet121": "densenet121",
}


def _torchvision_models() -> Any:
    pytest.importorskip("numpy")
    try:
        models.import_torchvision()
        models.import_torchvision()  # a second call changes nothing
    except ImportError:
        pytest.skip("torchvision is not installed")
    import torchvision.models  # type: ignore[import-untyped]

    return torchvision.models


@pytest.mark.parametrize("name", NAMES)
def test_same_logits(name: str, images: Tensor, tmp_path: Path) -> None:
    theirs = getattr(_torchvision_models(), NAMES[name])(num_classes=10)
    stem = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    if name == "DenseNet121":
        theirs.features.conv0, theirs.features.pool0 = stem, nn.Identity()
    else:
        theirs.conv1, theirs.maxpool = stem, nn.Identity()
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    ours = models.build(name, 10)
    models.load_weights(ours, tmp_path / "net.pth")
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(images), theirs.train(mode)(images), rtol=1e-4, atol=1e-4)


def test_shufflev2_blocks(images: Tensor) -> None:
    """torchvision's ShuffleNetV2 differs in the stem and the last layers; its stages are the same."""
    theirs = _torchvision_models().shufflenet_v2_x1_0()
    ours = models.build("ShuffleV2")
    order = {
        1: "branch1.0 branch1.1 branch1.2 branch1.3",
        2: "branch2.0 branch2.1 branch2.3 branch2.4 branch2.5 branch2.6",
    }
    for stage, layer in (
        (theirs.stage2, ours.get_submodule("layer1")),
        (theirs.stage3, ours.get_submodule("layer2")),
    ):
        for index, (block, mine) in enumerate(zip(stage, layer.children(), strict=True)):
            names = (order[1] + " " + order[2] if index == 0 else order[2]).split()
            own = [f"{kind}{number}" for number in range(1, len(names) // 2 + 1) for kind in ("conv", "bn")]
            for name, key in zip(names, own, strict=True):
                mine.get_submodule(key).load_state_dict(block.get_submodule(name).state_dict())
    x = ours.features(images).stem
    for index, stage in enumerate((theirs.stage2, theirs.stage3)):
        torch.testing.assert_close(ours.run_stage(index, x)[0], stage(x))  # type: ignore[operator]
        x = stage(x)
