"""Distillation with reverse guidance (DRG of LightSKD): an early auxiliary classifier teaches the network.

    L = ce * CE(z, y) + aux * CE(z_aux, y) + guide * T^2 * KL(softmax(sg z_aux / T) || softmax(z / T))

- z: the network's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- z_aux: logits of the auxiliary classifier, `[B, C]`.
- T: temperature.
- sg: stop-gradient.

KL is summed over the classes and averaged over the batch.

Modules: the auxiliary classifier. It reads the second stage's map x (C channels):

    attention = sigmoid(upsample(ReLU(BN(SepConv(C -> C, stride 2)(x)))))      bilinear, aligned corners
    z_aux     = Linear(pool(SepConv(2C -> 4C, stride 2)(SepConv(C -> 2C, stride 2)(x * attention))))

SepConv is a depthwise 3x3 convolution (with the stride), 1x1 convolution, BN, ReLU, depthwise 3x3, 1x1
(which changes the width), BN, ReLU; the convolutions have no biases. The classifier is trained with the
network and dropped at test time.

LightSKD's full method is the combination `drg+dsr`.

Differences from the original: at b3a3bf9 the released adapter expects 512 channels, which does not fit
ResNet18's 128. Here it takes the number of channels of the stage.

Constants and modules: xucong-parsifal/LightSKD train.py at b3a3bf9 (alpha = 0.2, T = 4).

Paper: Wang, Han, Guo: Lightweight Self-Knowledge Distillation with Multi-source Information Fusion.
arXiv 2305.09183 (citation from memory, unverified; the paper's tables were not available).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param
from benchmark.methods.kd import kd_loss

if TYPE_CHECKING:
    from models import NetInfo


@dataclass(frozen=True, kw_only=True)
class DRGConfig(MethodConfig):
    guide: float = param(
        0.2, "weight alpha of the KL with the auxiliary classifier", "LightSKD train.py, alpha = 0.2"
    )
    aux: float = param(
        1.0, "weight of the auxiliary classifier's cross-entropy", "LightSKD train.py, no factor"
    )
    temperature: float = param(4.0, "temperature T of both softmaxes", "LightSKD train.py, T = 4")

    def __post_init__(self) -> None:
        check_range("drg.temperature", self.temperature, 0.0, above=True)
        check_range("drg.guide", self.guide, 0.0)
        check_range("drg.aux", self.aux, 0.0)


def separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Build a SepConv: `[B, inputs, H, W]` -> `[B, outputs, H / stride, W / stride]`."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.Conv2d(inputs, inputs, 1, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, inputs, 3, 1, 1, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Auxiliary(nn.Module):
    """Auxiliary classifier on a stage's map: `[B, C, H, W]` -> logits `[B, classes]`."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(separable(channels, channels, 2), nn.BatchNorm2d(channels), nn.ReLU())
        self.deeper = nn.Sequential(
            separable(channels, 2 * channels, 2), separable(2 * channels, 4 * channels, 2)
        )
        self.classify = nn.Linear(4 * channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        weight = F.interpolate(self.attention(x), size=x.shape[-2:], mode="bilinear", align_corners=True)
        return self.classify(self.deeper(x * torch.sigmoid(weight)).mean((2, 3)))


class DRG(Method):
    name = "drg"
    title = "DRG"
    formula = "CE(z) + CE(z_aux) + 0.2 T^2 KL(softmax(sg z_aux/T) || softmax(z/T)), z_aux from stage 2, T = 4"
    paper = (
        "Wang et al., Lightweight Self-Knowledge Distillation with Multi-source Information Fusion, "
        "2023 (unverified)"
    )
    bibtex = """@article{wang2023lightweight,
  title   = {Lightweight Self-Knowledge Distillation with Multi-source Information Fusion},
  author  = {Wang, Xucong and Han, Pengchao and Guo, Lei},
  journal = {arXiv preprint arXiv:2305.09183},
  year    = {2023},
  note    = {entry from memory, unverified}
}"""
    Config = DRGConfig

    @classmethod
    def skip(cls, config: DRGConfig, student: NetInfo | None, teacher: NetInfo | None) -> str | None:
        if student is not None and len(student.stage_shapes) < 2:
            return "DRG reads the second stage, but the student has only one stage"
        return None

    @classmethod
    def needs(cls, config: DRGConfig) -> Needs:
        return Needs.of("stages logits")

    def __init__(self, config: DRGConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        if context.student is None:
            raise ValueError("drg needs a student")
        self.auxiliary = Auxiliary(context.student.stage_shapes[1][0], context.num_classes)

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        return {"drg": config.guide, "drg_aux": config.aux}

    def loss(self, step: Step) -> Terms:
        if not self.is_active("drg") and not self.is_active("drg_aux"):
            return {}
        z, z_aux = step.student.logits, self.auxiliary(step.student.stages[1])
        terms: Terms = {}
        if self.is_active("drg"):
            terms["drg"] = kd_loss(z, z_aux.detach(), self.config.temperature)
        if self.is_active("drg_aux"):
            terms["drg_aux"] = F.cross_entropy(z_aux, step.labels)
        return terms
