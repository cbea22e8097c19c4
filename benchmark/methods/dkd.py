"""DKD: decoupled distillation of the target class and of the others.

    L = ce * CE + warm * (alpha * TCKD + beta * NCKD)
    TCKD = T^2 * KL(b_t || b_s),    b = (p_y, 1 - p_y),  p = softmax(z / T), y the label
    NCKD = T^2 * KL(q_t || q_s),    q = softmax of z / T over the classes other than y

each a mean over the batch. (KD is the same with beta = 1 - p_t,y, image by image.) warm rises linearly, epoch / 20 up to 1, in an
epoch count in proportion where the schedule has another length than 240. Logits only; no modules.

beta is the paper's choice for each teacher: 2 for resnet56 and resnet110, 6 for wrn_40_2 and vgg13, 8 for the others (for
wrn_40_2 with a ShuffleNet and vgg13 with MobileNetV2 the same is assumed: unverified).

Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation. CVPR 2022, arXiv 2203.08679.
Constants: mdistiller configs/cifar100/dkd, mdistiller distillers/DKD.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import WarmUp, check_range, one_hot
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

BETA = {"resnet56": 2.0, "resnet110": 2.0, "wrn_40_2": 6.0, "vgg13": 6.0}


def target_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """TCKD of logits `[B, C]`, int64 `[B]` -> scalar."""
    log_q, log_p = (_target_or_not(z / temperature, labels) for z in (student, teacher))
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def other_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """NCKD of logits `[B, C]`, int64 `[B]` -> scalar."""
    log_q, log_p = (
        F.log_softmax(_without_target(z / temperature, labels), dim=1) for z in (student, teacher)
    )
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def _without_target(z: Tensor, labels: Tensor) -> Tensor:
    """The logits with the label's so low that its softmax is zero, but finite (a KL of -inf would be NaN)."""
    return z - 1000.0 * one_hot(labels, z)


def _target_or_not(z: Tensor, labels: Tensor) -> Tensor:
    """`[B, 2]`: the logarithms of p_y and of 1 - p_y."""
    target = z.gather(1, labels[:, None])[:, 0]
    both = torch.stack([target, _without_target(z, labels).logsumexp(dim=1)], dim=1)
    return F.log_softmax(both, dim=1)


@dataclass(frozen=True, kw_only=True)
class DKDConfig(MethodConfig):
    alpha: float = param(1.0, "weight of TCKD, the target class", "mdistiller configs/cifar100/dkd ALPHA 1")
    beta: float = param(
        8.0,
        "weight of NCKD, the other classes (2 or 6 for some teachers)",
        "mdistiller configs/cifar100/dkd BETA",
    )
    temperature: float = param(4.0, "temperature T of both softmaxes", "mdistiller configs/cifar100/dkd T 4")
    warmup: int = param(
        20, "epochs (of 240) in which both weights rise linearly", "mdistiller configs/cifar100/dkd WARMUP 20"
    )

    def __post_init__(self) -> None:
        check_range("dkd.temperature", self.temperature, 0.0, above=True)
        check_range("dkd.warmup", self.warmup, 0)


class DKD(Method):
    name = "dkd"
    title = "DKD"
    formula = "CE + alpha T^2 KL(target or not) + beta T^2 KL(among the others), alpha = 1, beta = 2, 6 or 8 by teacher, T = 4"
    paper = "Zhao et al., Decoupled Knowledge Distillation, CVPR 2022"
    bibtex = """@inproceedings{zhao2022decoupled,
  title     = {Decoupled Knowledge Distillation},
  author    = {Zhao, Borui and Cui, Quan and Song, Renjie and Qiu, Yiyu and Liang, Jiajun},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {11953--11962},
  year      = {2022}
}"""
    Config = DKDConfig

    @classmethod
    def for_pair(cls, teacher: str, student: str) -> Mapping[str, Any]:
        return {"beta": BETA[teacher]} if teacher in BETA else {}

    @classmethod
    def needs(cls, config: DKDConfig) -> Needs:
        return Needs.of("logits", "logits")

    def __init__(self, config: DKDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        self.warm = WarmUp(config.warmup, context.epochs)

    def start_epoch(self, epoch: int) -> None:
        self.warm.epoch = epoch

    def factor(self) -> float:
        return self.warm.factor

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        return {"dkd_target": config.alpha, "dkd_other": config.beta}

    def loss(self, step: Step) -> Terms:
        parts = {"dkd_target": target_loss, "dkd_other": other_loss}
        return {
            term: part(step.student.logits, step.teacher.logits, step.labels, self.config.temperature)
            for term, part in parts.items()
            if self.active(term)
        }
