"""TF-KD with a virtual teacher ("TF-KD reg"): a hand-made distribution that is right with probability 0.99.

    L = ce * CE(z, y) + weight * multiplier * KL(softmax(p / T) || softmax(z))
    p_c = correct if c = y else (1 - correct) / (C - 1)

summed over classes, divided by the batch. As the released code has it, and not the paper's text: the *probabilities* p are put
through a softmax at temperature T once more (so at T = 20 the target is nearly uniform), and the student's outputs
are not softened; no factor T^2. ce = 1 - alpha and weight = alpha are set apart here. The code's KL is the mean over all B x C
elements times a multiplier for each network; 100 of those on CIFAR-100 are the 1 of here.

TF-KD with a network of its own kind as teacher is `tfkd_self`.

Yuan, Tay, Li, Wang, Feng: Revisiting Knowledge Distillation via Label Smoothing Regularization. CVPR 2020, arXiv 1909.11723.
Constants: correct = 0.99 from the paper; alpha 0.1 and T 20 stand for a params.json that differs by network (unverified).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import check_range
from benchmark.methods._targets import one_hot
from benchmark.methods.base import Method, MethodConfig, Step, Terms, param


@dataclass(frozen=True, kw_only=True)
class TFKDConfig(MethodConfig):
    ce: float = param(
        0.9, "weight of the cross-entropy, 1 - alpha (1.0 in a combination)", "as --reg_alpha 0.1; unverified"
    )
    weight: float = param(
        0.1, "weight of the virtual teacher's KL, alpha", "TF-KD params.json, reg_alpha; unverified"
    )
    temperature: float = param(
        20.0, "temperature T of the virtual teacher", "TF-KD params.json, reg_temperature; unverified"
    )
    correct: float = param(
        0.99, "the virtual teacher's probability of the true class", "TF-KD loss_kd_regularization"
    )
    multiplier: float = param(1.0, "factor of the KL", "TF-KD --multiplier, per network; unverified")

    def __post_init__(self) -> None:
        check_range("tfkd.temperature", self.temperature, 0.0, above=True)
        check_range("tfkd.correct", self.correct, 0.0, 1.0)


class TFKD(Method):
    name = "tfkd"
    title = "TF-KD (virtual)"
    formula = "0.9 CE + 0.1 KL(softmax(p/T) || softmax(z)), p = 0.99 on the true class, T = 20"
    paper = "Yuan et al., Revisiting Knowledge Distillation via Label Smoothing Regularization, CVPR 2020"
    bibtex = """@inproceedings{yuan2020revisiting,
  title     = {Revisiting Knowledge Distillation via Label Smoothing Regularization},
  author    = {Yuan, Li and Tay, Francis E. H. and Li, Guilin and Wang, Tao and Feng, Jiashi},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2020}
}"""
    combined = {"ce": 1.0}
    Config = TFKDConfig

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        return {"tfkd": config.weight * config.multiplier}

    def loss(self, step: Step) -> Terms:
        if not self.active("tfkd"):
            return {}
        z = step.student.logits
        target = virtual_teacher(z, step.labels, self.config.correct, self.config.temperature)
        return {"tfkd": F.kl_div(F.log_softmax(z, dim=1), target, reduction="batchmean")}


def virtual_teacher(logits: Tensor, labels: Tensor, correct: float, temperature: float) -> Tensor:
    """`[B, C]`: softmax(p / T) of the probabilities p that are `correct` on the label and equal elsewhere."""
    classes = logits.shape[1]
    right = one_hot(labels, classes, logits.dtype)
    p = right * correct + (1 - right) * ((1 - correct) / (classes - 1))
    return torch.softmax(p / temperature, dim=1)
