"""Decoupled knowledge distillation (DKD): distil the target class and the other classes with separate terms.

    L = ce * CE(z_s, y) + warm * (alpha * TCKD + beta * NCKD)
    TCKD = T^2 * KL(b_t || b_s),    b = (p_y, 1 - p_y),    p = softmax(z / T)
    NCKD = T^2 * KL(q_t || q_s),    q = softmax of z / T over the classes other than y

- z_s, z_t: logits of student and teacher, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- b: probabilities of "target class" and "any other class", `[B, 2]`.
- q: probabilities among the other classes, `[B, C - 1]`.
- T: temperature.
- warm: min(epoch / 20, 1), a linear rise to 1 over the first 20 of 240 epochs, in proportion for other
  schedules.

Both terms are averaged over the batch. KD is the same loss with alpha = 1 and, for each image,
beta = 1 - p_t,y.

Modules: none.

Constants: mdistiller configs/cifar100/dkd, distillers/DKD.py. alpha = 1; beta is the authors' choice for
each pair: 2, 6 or 8 (`pair_constants`). wrn_40_2 with ShuffleV1 has 8, although the other pairs of this
teacher have 6. Pairs without a configuration have the value of the teacher's other pairs (assumed). On
ImageNet T = 1, beta = 0.5 or 2, and there is no warm-up.

Paper: Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation. CVPR 2022, arXiv 2203.08679.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import WarmUp, check_range, one_hot
from benchmark.methods._pairs import PairConstants
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

BETA = PairConstants(
    settings=("dkd.beta",),
    pairs={
        "wrn_40_2:wrn_16_2": (6.0,),
        "wrn_40_2:wrn_40_1": (6.0,),
        "resnet56:resnet20": (2.0,),
        "resnet110:resnet32": (2.0,),
        "resnet32x4:resnet8x4": (8.0,),
        "vgg13:vgg8": (6.0,),
        "vgg13:MobileNetV2": (6.0,),
        "ResNet50:MobileNetV2": (8.0,),
        "resnet32x4:ShuffleV1": (8.0,),
        "resnet32x4:ShuffleV2": (8.0,),
        "wrn_40_2:ShuffleV1": (8.0,),
    },
    source="mdistiller configs/cifar100/dkd/TEACHER_STUDENT.yaml, DKD.BETA",
)
IMAGENET = PairConstants(
    settings=("dkd.beta", "dkd.temperature", "dkd.warmup"),
    pairs={
        "resnet34_imagenet:resnet18_imagenet": (0.5, 1.0, 1),
        "resnet50_imagenet:mobilenetv1_imagenet": (2.0, 1.0, 1),
    },
    source="mdistiller configs/imagenet/{r34_r18,r50_mv1}/dkd.yaml (alpha 1; the paper's text has 0.5)",
)
OTHER_BETA = PairConstants(
    settings=("dkd.beta",),
    pairs={"resnet56:*": (2.0,), "resnet110:*": (2.0,), "wrn_40_2:*": (6.0,), "vgg13:*": (6.0,)},
    source="assumed for pairs without a configuration: as the teacher's other pairs",
)


def target_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """TCKD: logits `[B, C]`, `[B, C]` and labels int64 `[B]` -> scalar."""
    log_b_s, log_b_t = (_target_or_not(z / temperature, labels) for z in (student, teacher))
    return F.kl_div(log_b_s, log_b_t, reduction="batchmean", log_target=True) * temperature**2


def other_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """NCKD: logits `[B, C]`, `[B, C]` and labels int64 `[B]` -> scalar."""
    log_q_s, log_q_t = (
        F.log_softmax(_without_target(z / temperature, labels), dim=1) for z in (student, teacher)
    )
    return F.kl_div(log_q_s, log_q_t, reduction="batchmean", log_target=True) * temperature**2


def _without_target(z: Tensor, labels: Tensor) -> Tensor:
    """Lower the label's logit so far that its probability is 0: `[B, C]`, int64 `[B]` -> `[B, C]`.

    It stays finite, because the KL of -inf is NaN.
    """
    return z - 1000.0 * one_hot(labels, z.shape[1], z.dtype)


def _target_or_not(z: Tensor, labels: Tensor) -> Tensor:
    """Return log(p_y) and log(1 - p_y): logits `[B, C]`, labels int64 `[B]` -> `[B, 2]`."""
    target = z.gather(1, labels[:, None])[:, 0]
    both = torch.stack([target, _without_target(z, labels).logsumexp(dim=1)], dim=1)
    return F.log_softmax(both, dim=1)


@dataclass(frozen=True, kw_only=True)
class DKDConfig(MethodConfig):
    alpha: float = param(1.0, "weight of TCKD, the target class", "mdistiller configs/cifar100/dkd ALPHA 1")
    beta: float = param(
        8.0,
        "weight of NCKD, the other classes (2 or 6 for some pairs)",
        "mdistiller configs/cifar100/dkd BETA",
    )
    temperature: float = param(4.0, "temperature T of both softmaxes", "mdistiller configs/cifar100/dkd T 4")
    warmup: int = param(
        20,
        "epochs (of 240) over which both weights rise linearly",
        "mdistiller configs/cifar100/dkd WARMUP 20",
    )

    def __post_init__(self) -> None:
        check_range("dkd.temperature", self.temperature, 0.0, above=True)
        check_range("dkd.warmup", self.warmup, 0)


class DKD(Method):
    name = "dkd"
    title = "DKD"
    formula = (
        "CE + alpha T^2 KL(target or not) + beta T^2 KL(among the others), "
        "alpha = 1, beta = 2, 6 or 8 by pair, T = 4"
    )
    paper = "Zhao et al., Decoupled Knowledge Distillation, CVPR 2022"
    bibtex = """@inproceedings{zhao2022decoupled,
  title     = {Decoupled Knowledge Distillation},
  author    = {Zhao, Borui and Cui, Quan and Song, Renjie and Qiu, Yiyu and Liang, Jiajun},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {11953--11962},
  year      = {2022}
}"""
    Config = DKDConfig
    pair_constants = (OTHER_BETA, BETA, IMAGENET)

    @classmethod
    def needs(cls, config: DKDConfig) -> Needs:
        return Needs.of("logits", "logits")

    def __init__(self, config: DKDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        self.warm = WarmUp(config.warmup, context.epochs)

    def start_epoch(self, epoch: int) -> None:
        self.warm.epoch = epoch

    def weight_factor(self) -> float:
        return self.warm.factor

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        return {"dkd_target": config.alpha, "dkd_other": config.beta}

    def loss(self, step: Step) -> Terms:
        functions = {"dkd_target": target_loss, "dkd_other": other_loss}
        return {
            term: function(step.student.logits, step.teacher.logits, step.labels, self.config.temperature)
            for term, function in functions.items()
            if self.is_active(term)
        }
