"""ReviewKD: fuse the student's stages from deep to shallow and match each fused map to the teacher's stage.

    L = ce * CE(z_s, y) + warm * weight * sum over levels l of HCL(ABF(F_s^l), F_t^l)

    X = BN(conv1x1(F_s^l))
    R_l = X * a_1 + up(R_{l+1}) * a_2,   [a_1, a_2] = sigmoid(conv1x1([X; up(R_{l+1})]))    (deepest: R = X)
    ABF(F_s^l) = BN(conv3x3(R_l)), after R_l has been resized to the size of F_t^l

    HCL(a, b) = [mean((a - b)^2) + sum over k = 1, 2, ... of 2^-k mean((pool_m a - pool_m b)^2)] / W
    W = 1 + sum over k of 2^-k

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- F_s^l, F_t^l: maps of student and teacher at level l, `[B, channels, H, W]`. The deepest level is the
  embedding as a 1x1 map. The others are the stages' maps: the student's after their last ReLU (a WRN's
  stages have none: its maps as they are), the teacher's before it.
- ABF: attention-based fusion. It works from the deepest level up and passes on a residual map R of min(512,
  size of the student's embedding) channels (`mid`). up() and the resizing use the nearest neighbour.
- HCL: hierarchical context loss. pool_m averages a map to m x m; m runs over those of 4, 2, 1 that are
  smaller than the map.
- warm: rises linearly to 1 over the first 20 of 240 epochs, in proportion for other schedules.

Modules: all convolutions and batch norms of ABF. They train with the student and are dropped at test time.

That the student's maps are read after the ReLU and the teacher's before it is the authors' code.

Differences from the original: its CIFAR script trains with batch size 128 and learning rate 0.1; mdistiller
uses the benchmark's recipe, as here. Networks with different numbers of stages are paired from the deepest
level (unverified).

Constants: the weight is the authors' for each pair (`pair_constants`), 5 where they have no other;
on ImageNet the three of mdistiller's configuration.
Sources: ReviewKD@cede6ea; mdistiller configs/cifar100/reviewkd, distillers/ReviewKD.py.

Paper: Chen, Liu, Zhao, Jia: Distilling Knowledge via Knowledge Review. CVPR 2021, arXiv 2104.09044.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import WarmUp, check_range, require_networks
from benchmark.methods._pairs import PairConstants
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param
from models import Features, NetInfo

Shape = tuple[int, int, int]
SIZES = (4, 2, 1)  # sizes m that HCL pools maps to


WEIGHTS = PairConstants(
    settings=("reviewkd.weight",),
    pairs={
        "*:*": (5.0,),
        "resnet56:resnet20": (0.6,),
        "resnet110:resnet32": (1.0,),
        "resnet32x4:ShuffleV2": (8.0,),
    },
    source="ReviewKD's released CIFAR scripts",
)
IMAGENET = PairConstants(
    settings=("reviewkd.weight", "reviewkd.warmup", "reviewkd.mid"),
    pairs={
        "resnet34_imagenet:resnet18_imagenet": (1.0, 1, 512),
        "resnet50_imagenet:mobilenetv1_imagenet": (8.0, 1, 256),
    },
    source="mdistiller configs/imagenet/{r34_r18,r50_mv1}/reviewkd.yaml",
)


def levels_of(net: NetInfo) -> list[Shape]:
    """Return (channels, H, W) of each level, from the deepest (the embedding) up."""
    return [(net.embedding_dim, 1, 1), *reversed(net.stage_shapes)]


def levels(features: Features, maps: Sequence[Tensor]) -> list[Tensor]:
    """Return the map of each level, `[B, channels, H, W]`, from the deepest up. maps: those of the stages."""
    return [features.embedding[:, :, None, None], *reversed(maps)]


class Fusion(nn.Module):
    """ABF of one level.

    c_s, mid, c_t: channels of the student's, the residual and the teacher's map.
    size: (H, W) of the teacher's map.
    fuse: whether there is a deeper level to fuse with.
    """

    def __init__(self, c_s: int, mid: int, c_t: int, size: tuple[int, int], *, fuse: bool) -> None:
        super().__init__()
        self.size = size
        self.reduce = nn.Sequential(nn.Conv2d(c_s, mid, 1, bias=False), nn.BatchNorm2d(mid))
        self.out = nn.Sequential(nn.Conv2d(mid, c_t, 3, padding=1, bias=False), nn.BatchNorm2d(c_t))
        self.attention = nn.Sequential(nn.Conv2d(2 * mid, 2, 1), nn.Sigmoid()) if fuse else None
        for block in (self.reduce, self.out):
            conv = block[0]
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_uniform_(conv.weight, a=1)

    def forward(self, f_s: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return (the map to compare with the teacher's, the residual map R_l).

        f_s: the student's map, `[B, c_s, H, W]`.
        deeper: R_{l+1}, `[B, mid, h, w]`; None at the deepest.
        """
        x: Tensor = self.reduce(f_s)
        if self.attention is not None:
            assert deeper is not None
            up = F.interpolate(deeper, x.shape[-2:], mode="nearest")
            attention = self.attention(torch.cat([x, up], dim=1))
            x = x * attention[:, :1] + up * attention[:, 1:]
        if tuple(x.shape[-2:]) != self.size:
            x = F.interpolate(x, self.size, mode="nearest")
        return self.out(x), x


def hierarchical_loss(a: Tensor, b: Tensor) -> Tensor:
    """Return HCL of two maps `[B, channels, H, W]`, a scalar."""
    total, weight, weights = F.mse_loss(a, b), 1.0, 1.0
    for size in SIZES:
        if size < a.shape[-2]:
            weight /= 2
            weights += weight
            total = total + weight * F.mse_loss(
                F.adaptive_avg_pool2d(a, size), F.adaptive_avg_pool2d(b, size)
            )
    return total / weights


@dataclass(frozen=True, kw_only=True)
class ReviewKDConfig(MethodConfig):
    weight: float = param(
        5.0, "weight of the sum over levels; some pairs have another", "mdistiller configs/cifar100/reviewkd"
    )
    warmup: int = param(
        20, "epochs (of 240) over which the weight rises linearly", "mdistiller WARMUP_EPOCHS 20"
    )
    mid: int = param(512, "maximum number of channels of the residual map", "mdistiller MAX_MID_CHANNEL 512")

    def __post_init__(self) -> None:
        check_range("reviewkd.warmup", self.warmup, 0)
        check_range("reviewkd.mid", self.mid, 1)


class ReviewKD(Method):
    name = "reviewkd"
    title = "ReviewKD"
    formula = (
        "CE + weight sum_l HCL(ABF(F_s^l), F_t^l), weight 5 for most pairs, "
        "stages fused from deep to shallow (ABF), pooled at several sizes (HCL)"
    )
    paper = "Chen et al., Distilling Knowledge via Knowledge Review, CVPR 2021"
    bibtex = """@inproceedings{chen2021distilling,
  title     = {Distilling Knowledge via Knowledge Review},
  author    = {Chen, Pengguang and Liu, Shu and Zhao, Hengshuang and Jia, Jiaya},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {5008--5017},
  year      = {2021}
}"""
    revision = 2
    Config = ReviewKDConfig
    pair_constants = (WEIGHTS, IMAGENET)

    @classmethod
    def needs(cls, config: ReviewKDConfig) -> Needs:
        return Needs.of("stages embedding logits", "preacts embedding")

    def __init__(self, config: ReviewKDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = require_networks(context.student, context.teacher)
        mid = min(config.mid, student.embedding_dim)
        shapes = zip(levels_of(student), levels_of(teacher), strict=False)
        self.fusions = nn.ModuleList(
            Fusion(s[0], mid, t[0], (t[1], t[2]), fuse=i > 0) for i, (s, t) in enumerate(shapes)
        )
        self.warm = WarmUp(config.warmup, context.epochs)

    def start_epoch(self, epoch: int) -> None:
        self.warm.epoch = epoch

    def weight_factor(self) -> float:
        return self.warm.factor

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        return {"reviewkd": config.weight}

    def loss(self, step: Step) -> Terms:
        if not self.is_active("reviewkd"):
            return {}
        parts, residual = [], None
        student, teacher = step.student, step.teacher
        pairs = zip(levels(student, student.stages), levels(teacher, teacher.preacts), strict=False)
        for fusion, (f_s, f_t) in zip(self.fusions, pairs, strict=True):
            out, residual = fusion(f_s, residual)
            parts.append(hierarchical_loss(out, f_t))
        return {"reviewkd": torch.stack(parts).sum()}
