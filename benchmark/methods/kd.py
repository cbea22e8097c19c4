"""Knowledge distillation (KD): match the teacher's softened class probabilities.

    L = ce * CE(z_s, y) + warm * weight * T^2 * KL(softmax(z_t / T) || softmax(z_s / T))

- z_s, z_t: logits of the student and the teacher, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- T: temperature (`temperature`).
- warm: 1, or min(epoch / warmup, 1) if `warmup` is set (KD++).

ce, weight and T are hyper-parameters. CE and KL are summed over the classes and averaged over the batch.

Modules: none. The method reads only logits.

Constants: T = 4. The KD row of the CRD benchmark has ce = 0.1 and weight = 0.9 (RepDistiller
distiller_zoo/KD.py, scripts/run_cifar_distill.sh: `-r 0.1 -a 0.9 -b 0`). In a combination `x+kd` both are
1, as in that benchmark's CRD+KD row (`-a 1`; gamma stays 1).

Paper: Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network. NeurIPS 2014 Deep Learning
Workshop, arXiv 1503.02531.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import WarmUp, check_range
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return `T^2 * KL(softmax(teacher / T) || softmax(student / T))`, averaged over the batch.

    student, teacher: logits, float32 `[B, C]`. The result is a scalar.
    """
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


@dataclass(frozen=True, kw_only=True)
class KDConfig(MethodConfig):
    """Hyper-parameters. `ce` is a field of every method; here it gets another default."""

    ce: float = param(
        0.1, "weight of the cross-entropy (1.0 in a combination)", "RepDistiller run_cifar_distill.sh -r 0.1"
    )
    weight: float = param(
        0.9, "weight of the KD term (1.0 in a combination)", "RepDistiller run_cifar_distill.sh -a 0.9"
    )
    temperature: float = param(
        4.0, "temperature T of both softmaxes", "RepDistiller train_student.py --kd_T 4"
    )
    warmup: int = param(
        0, "epochs (of 240) over which the weight rises linearly", "RepDistiller: none", keep_keys=True
    )

    def __post_init__(self) -> None:
        check_range("kd.temperature", self.temperature, 0.0, above=True)
        check_range("kd.warmup", self.warmup, 0)


class KD(Method):
    """Hinton's knowledge distillation."""

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
    combined_defaults = {"ce": 1.0, "weight": 1.0}  # defaults in a combination such as `at+kd`
    Config = KDConfig

    @classmethod
    def needs(cls, config: KDConfig) -> Needs:
        """Return what the loss reads: the logits of the student and of the teacher."""
        return Needs.of("logits", "logits")

    def __init__(self, config: KDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        self.warm = WarmUp(config.warmup, context.epochs)

    def start_epoch(self, epoch: int) -> None:
        """Set the epoch of the warm-up."""
        self.warm.epoch = epoch

    def weight_factor(self) -> float:
        """Return the factor of the weight in this epoch; 1 without a warm-up."""
        return self.warm.factor

    def loss(self, step: Step) -> Terms:
        """Return the unweighted KD term. The trainer multiplies it by `weight` and adds the cross-entropy."""
        if not self.is_active("kd"):
            return {}
        return {"kd": kd_loss(step.student.logits, step.teacher.logits, self.config.temperature)}
