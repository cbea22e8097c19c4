"""KD: knowledge distillation of softened outputs.

    L = ce * CE(z_s, y) + weight * T^2 * KL(softmax(z_t / T) || softmax(z_s / T))

summed over classes, divided by the batch. Logits only; no modules. Alone (the KD row of the CRD benchmark) ce = 0.1 and
weight = 0.9; in a combination `x+kd` both are 1, as in that benchmark's CRD+KD row (`-a 1`, gamma stays 1).

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network. NeurIPS 2014 Deep Learning Workshop, arXiv 1503.02531.
Constants: RepDistiller distiller_zoo/KD.py, scripts/run_cifar_distill.sh (`-r 0.1 -a 0.9 -b 0`), T = 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`T^2 * KL(softmax(teacher / T) || softmax(student / T))`, mean over rows. Logits float32 `[B, C]` -> scalar."""
    log_p = F.log_softmax(student / temperature, dim=1)
    log_q = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


@dataclass(frozen=True, kw_only=True)
class KDConfig(MethodConfig):
    ce: float = param(
        0.1, "weight of the cross-entropy (1.0 in a combination)", "RepDistiller run_cifar_distill.sh -r 0.1"
    )
    weight: float = param(
        0.9, "weight of the KD term (1.0 in a combination)", "RepDistiller run_cifar_distill.sh -a 0.9"
    )
    temperature: float = param(
        4.0, "temperature T of both softmaxes", "RepDistiller train_student.py --kd_T 4"
    )

    def __post_init__(self) -> None:
        check_range("kd.temperature", self.temperature, 0.0, above=True)


class KD(Method):
    name = "kd"
    title = "KD"
    formula = "0.1 CE + 0.9 T^2 KL(softmax(z_t/T) || softmax(z_s/T)), T = 4"
    paper = "Hinton et al., Distilling the Knowledge in a Neural Network, 2014"
    bibtex = """@article{hinton2015distilling,
  title   = {Distilling the Knowledge in a Neural Network},
  author  = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  journal = {arXiv preprint arXiv:1503.02531},
  year    = {2015}
}"""
    combined = {"ce": 1.0, "weight": 1.0}
    Config = KDConfig

    @classmethod
    def needs(cls, config: KDConfig) -> Needs:
        return Needs.of("logits", "logits")

    def loss(self, step: Step) -> Terms:
        if not self.active("kd"):
            return {}
        return {"kd": kd_loss(step.student.logits, step.teacher.logits, self.config.temperature)}
