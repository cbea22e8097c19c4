"""Curriculum temperature (CTKD): KD whose temperature is trained to make the task gradually harder.

    L = ce * CE(z_s, y) + weight * T^2 * KL(softmax(z_t / T) || softmax(z_s / T))
    T = low + span * sigmoid(theta)

- z_s, z_t: logits of student and teacher, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- T: temperature.
- theta: a trained scalar, initially 1.
- low, span: lowest temperature, 1, and highest minus lowest temperature, 20.

KL is summed over the classes and averaged over the batch.

theta is trained with the student but *against* the loss: its gradient is multiplied by -lambda (gradient
reversal). Curriculum: lambda = (1 - cos(pi * epoch / 10)) / 2 rises from 0 to 1 over the first 10 of 240
epochs, and stays 1. In a schedule of another length these 10 epochs are scaled in proportion.

Modules: theta. It is dropped at test time.

Variants: this is the global temperature, the version of the published table. The paper also has a temperature
that is computed from each image's logits. The papers call this method KD+CTKD; its loss contains the KD term.

Constants: zhengli97/CTKD at 7d52522: scripts/run_cifar_distill.sh (`-r 0.1 -a 0.9 --decay_max 0
--decay_min -1 --decay_loops 10`), defaults of train_student.py (`--t_start 1 --t_end 20`; the code adds
t_end times the sigmoid, so 20 is the span and 21 the upper limit), models/temp_global.py (theta = 1).

Paper: Li, Li, Yang, Zhao, Song, Luo, Li, Yang: Curriculum Temperature for Knowledge Distillation.
AAAI 2023, arXiv 2211.16231.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param
from benchmark.settings import scaled


class _ReversedGradient(torch.autograd.Function):
    """Gradient reversal: the identity, whose gradient is multiplied by -scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * grads[0], None


@dataclass(frozen=True, kw_only=True)
class CTKDConfig(MethodConfig):
    ce: float = param(
        0.1, "weight of the cross-entropy (1.0 in a combination)", "CTKD run_cifar_distill.sh -r 0.1"
    )
    weight: float = param(
        0.9, "weight of the KD term (1.0 in a combination)", "CTKD run_cifar_distill.sh -a 0.9"
    )
    low: float = param(1.0, "lowest temperature", "CTKD train_student.py --t_start 1")
    span: float = param(20.0, "highest minus lowest temperature", "CTKD train_student.py --t_end 20")
    start: float = param(1.0, "initial value of theta", "CTKD models/temp_global.py, ones")
    rise: int = param(
        10, "epochs (of 240) over which lambda rises to 1", "CTKD run_cifar_distill.sh --decay_loops 10"
    )

    def __post_init__(self) -> None:
        check_range("ctkd.low", self.low, 0.0, above=True)
        check_range("ctkd.span", self.span, 0.0)
        check_range("ctkd.rise", self.rise, 1)


class CTKD(Method):
    name = "ctkd"
    title = "CTKD"
    formula = (
        "0.1 CE + 0.9 T^2 KL(softmax(z_t/T) || softmax(z_s/T)), T = 1 + 20 sigmoid(theta), "
        "theta trained against the loss"
    )
    paper = "Li et al., Curriculum Temperature for Knowledge Distillation, AAAI 2023"
    bibtex = """@inproceedings{li2023curriculum,
  title     = {Curriculum Temperature for Knowledge Distillation},
  author    = {Li, Zheng and Li, Xiang and Yang, Lingfeng and Zhao, Borui and Song, Renjie and Luo, Lei and
               Li, Jun and Yang, Jian},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  pages     = {1504--1512},
  year      = {2023}
}"""
    combined_defaults = {"ce": 1.0, "weight": 1.0}
    Config = CTKDConfig

    @classmethod
    def needs(cls, config: CTKDConfig) -> Needs:
        return Needs.of("logits", "logits")

    def __init__(self, config: CTKDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        self.theta = nn.Parameter(torch.tensor(config.start))
        self.rise = scaled(config.rise, context.epochs, 240)
        self.reversal = 1.0  # lambda

    def start_epoch(self, epoch: int) -> None:
        self.reversal = (1 - math.cos(math.pi * min(epoch / self.rise, 1.0))) / 2

    def temperature(self) -> Tensor:
        """Return T (scalar), with the gradient of theta reversed."""
        theta: Tensor = _ReversedGradient.apply(self.theta, self.reversal)
        return self.config.low + self.config.span * torch.sigmoid(theta)

    def loss(self, step: Step) -> Terms:
        if not self.is_active("ctkd"):
            return {}
        t = self.temperature()
        log_p, log_q = (F.log_softmax(f.logits / t, dim=1) for f in (step.student, step.teacher))
        return {"ctkd": F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * t**2}
