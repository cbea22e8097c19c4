"""CAT-KD: match the class activation maps of student and teacher, pooled to a few regions.

    L = ce * CE(z_s, y) + weight * mean((A_s - A_t)^2)
    A = pool(W F), `[B, C, r, r]`: how much each region of the last map speaks for each class

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- F: the map that the network's pooling reads, after its last ReLU, `[B, D, H, W]`.
- W: the network's own classifier, `[C, D]`, without its bias, applied to each position of F. The teacher's is
  frozen, the student's is trained by both terms.
- pool: adaptive average pooling to r x r, which also brings maps of two sizes together.

With `normalise`, each class's map (r * r values) is divided by its l2 norm in both networks. The mean runs
over all B * C * r * r elements.

Modules: none.

Differences from the original: its student has no bias in its classifier, and draws the classifier's weights
by the rule of its convolutions. Here the student is the table's own network: its classifier has its usual
initial weights, and its bias, which is no part of A. Pooling and W commute, so F is pooled first.

Not for a student or teacher that has a layer between its last stage and the pooling (MobileNetV2, ShuffleV2):
the map after this layer is no part of its features. Nor for CRNNs, whose embedding is no mean of a map.

Constants: GzyAftermath/CAT-KD at 4467073, configs (`pair_constants`). Pairs without a configuration there
have its framework's default (400, 2 x 2, normalised).

Paper: Guo, Yan, Li, Lin: Class Attention Transfer Based Knowledge Distillation. CVPR 2023, arXiv 2304.12777.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import FrozenHead, check_range, require_networks
from benchmark.methods._pairs import PairConstants
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

if TYPE_CHECKING:
    from models import NetInfo

CONFIGS = PairConstants(
    settings=("catkd.weight", "catkd.size", "catkd.normalise"),
    pairs={
        "wrn_40_2:wrn_16_2": (12.0, 2, False),
        "wrn_40_2:wrn_40_1": (1.5, 2, False),
        "resnet56:resnet20": (0.7, 2, False),
        "resnet110:resnet32": (1.8, 2, False),
        "resnet32x4:resnet8x4": (15.0, 2, False),
        "vgg13:vgg8": (4.5, 2, False),
        "vgg13:MobileNetV2": (15.0, 2, True),
        "ResNet50:MobileNetV2": (40.0, 2, True),
        "resnet32x4:ShuffleV1": (600.0, 4, True),
        "resnet32x4:ShuffleV2": (600.0, 4, True),
        "wrn_40_2:ShuffleV1": (80.0, 4, True),
        "resnet34_imagenet:resnet18_imagenet": (0.5, 4, False),
    },
    source="CAT-KD configs/cifar100 and configs/imagenet, CAT_KD.LOSS",
)
ASSUMED = PairConstants(
    settings=CONFIGS.settings,
    pairs={
        "resnet110:resnet20": (1.8, 2, False),
        "resnet50_imagenet:mobilenetv1_imagenet": (0.5, 4, False),
    },
    source="assumed for pairs without a configuration: as the nearest one that has one",
)


def class_maps(feature_map: Tensor, weight: Tensor, size: int, normalise: bool) -> Tensor:
    """Return A: a map `[B, D, H, W]` and a classifier `[C, D]` -> `[B, C, size * size]`."""
    maps = weight.to(feature_map) @ F.adaptive_avg_pool2d(feature_map, size).flatten(2)
    return F.normalize(maps, dim=2) if normalise else maps


@dataclass(frozen=True, kw_only=True)
class CATKDConfig(MethodConfig):
    weight: float = param(
        400.0, "weight of the distance between the class maps (by pair)", "CAT-KD framework default"
    )
    size: int = param(2, "r, the regions in a row and in a column", "CAT-KD framework default")
    normalise: bool = param(
        True, "whether each class's map is divided by its l2 norm", "CAT-KD framework default"
    )

    def __post_init__(self) -> None:
        check_range("catkd.size", self.size, 1)


class CATKD(Method):
    name = "catkd"
    title = "CAT-KD"
    formula = (
        "CE + weight mean((A_s - A_t)^2), A = each network's classifier (without bias) on the regions of its "
        "last map"
    )
    paper = "Guo et al., Class Attention Transfer Based Knowledge Distillation, CVPR 2023"
    bibtex = """@inproceedings{guo2023class,
  title     = {Class Attention Transfer Based Knowledge Distillation},
  author    = {Guo, Ziyao and Yan, Haonan and Li, Hui and Lin, Xiaodong},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {11868--11877},
  year      = {2023}
}"""
    Config = CATKDConfig
    pair_constants = (ASSUMED, CONFIGS)

    @classmethod
    def skip(cls, config: CATKDConfig, student: NetInfo | None, teacher: NetInfo | None) -> str | None:
        for net in (student, teacher):
            if net is None:
                continue
            if net.stage_shapes[-1][0] != net.embedding_dim or net.name.startswith("crnn"):
                return f"the classifiers must read the last stage's map; {net.name} has a layer in between"
        return None

    @classmethod
    def needs(cls, config: CATKDConfig) -> Needs:
        return Needs.of("preacts logits", "preacts")

    def __init__(self, config: CATKDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        require_networks(context.student, context.teacher)
        self.head_t = FrozenHead(context.teacher_net)
        assert context.student_net is not None
        # a function, so that the student's classifier does not become a part of the method
        self.head_of_student: Callable[[], nn.Linear] = context.student_net.linear_head

    def loss(self, step: Step) -> Terms:
        if not self.is_active("catkd"):
            return {}
        # The classifier of every network reads the ReLU of the last pre-activations. That is not always
        # `stages[-1]`: in a WRN, it precedes the final batch norm and ReLU.
        a_s, a_t = (
            class_maps(F.relu(features.preacts[-1]), weight, self.config.size, self.config.normalise)
            for features, weight in (
                (step.student, self.head_of_student().weight),
                (step.teacher, self.head_t.weight),
            )
        )
        return {"catkd": F.mse_loss(a_s, a_t)}
