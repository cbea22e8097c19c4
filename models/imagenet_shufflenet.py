"""ShuffleNetV2 x1.0 for ImageNet (Ma et al., ECCV 2018), as torchvision has it.

Stages and head are those of the CIFAR network; the stem is for images of 224x224. Checkpoints with
torchvision's names are loaded.
"""

from __future__ import annotations

import re

from torch import Tensor, nn
from torch.nn import functional as F

from models.shufflenet import STEM, ShuffleV2

_BRANCHES = {
    "branch1": {"0": "conv1", "1": "bn1", "2": "conv2", "3": "bn2"},
    "branch2": {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "5": "conv3", "6": "bn3"},
    "branch2 of the first block": {
        "0": "conv3",
        "1": "bn3",
        "3": "conv4",
        "4": "bn4",
        "5": "conv5",
        "6": "bn5",
    },
}
"""Our names of the layers of torchvision's blocks, by their positions in a branch."""

_BLOCK = re.compile(r"stage([234])\.(\d+)\.(branch[12])\.([0-6])\.(.*)")
_ENDS = {"conv1.0.": "conv1.", "conv1.1.": "bn1.", "conv5.0.": "conv2.", "conv5.1.": "bn2.", "fc.": "linear."}


class ImageNetShuffleV2(ShuffleV2):
    """A 3x3 stem and a max-pool, each of stride 2, before the stages. PyTorch's default initialisation.

    The stem's map is that after the max-pool.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.conv1 = nn.Conv2d(3, STEM, 3, 2, 1, bias=False)

    def run_stem(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.bn1(self.conv1(x)), 3, 2, 1)

    @classmethod
    def canonical_key(cls, key: str) -> str:
        """Also accept torchvision's names."""
        if match := _BLOCK.fullmatch(key):
            stage, block, branch, position, rest = match.groups()
            names = _BRANCHES[
                f"{branch} of the first block" if (block, branch) == ("0", "branch2") else branch
            ]
            return f"layer{int(stage) - 1}.{block}.{names.get(position, position)}.{rest}"
        for theirs, ours in _ENDS.items():
            if key.startswith(theirs):
                return ours + key[len(theirs) :]
        return key
