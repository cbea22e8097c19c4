"""Weighted soft labels (WSLD): weight KD image by image, by how much better the teacher fits the label.

    L = ce * CE(z_s, y) + weight * T^2 * mean over images of w * H(softmax(z_t / T), softmax(z_s / T))
    w = 1 - exp(-CE(z_s, y) / (CE(z_t, y) + 1e-7))

- z_s, z_t: logits of student and teacher, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- w: weight of each image, in 0..1, `[B]`. It uses the logits without a temperature and carries no gradient.
- T: temperature.
- H: cross-entropy of two distributions. For a given w it has the same gradient with respect to the student
  as the KL divergence.

Modules: none. The method reads only logits.

Constants: weight (the paper's alpha) = 2.25 and T = 4, from the paper's CIFAR-100 experiments with 5 runs.
The released code, which is for ImageNet, has 2.5 and 2 (bellymonster/Weighted-Soft-Label-Distillation at
67820dd, knowledge_distiller.py).

Paper: Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang: Rethinking Soft Labels for Knowledge Distillation: A
Bias-Variance Tradeoff Perspective. ICLR 2021, arXiv 2102.00650.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param

EPS = 1e-7  # added to the teacher's cross-entropy


@torch.no_grad()
def image_weights(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the weights w, `[B]`. student, teacher: logits `[B, C]`. labels: int64 `[B]`."""
    ce_s, ce_t = (F.cross_entropy(z, labels, reduction="none") for z in (student, teacher))
    return 1 - torch.exp(-ce_s / (ce_t + EPS))


@dataclass(frozen=True, kw_only=True)
class WSLDConfig(MethodConfig):
    weight: float = param(2.25, "weight alpha of the soft-label term", "WSLD paper, CIFAR-100: alpha = 2.25")
    temperature: float = param(4.0, "temperature T of both softmaxes", "WSLD paper, CIFAR-100: T = 4")

    def __post_init__(self) -> None:
        check_range("wsld.temperature", self.temperature, 0.0, above=True)


class WSLD(Method):
    name = "wsld"
    title = "WSLD"
    formula = "CE + 2.25 T^2 mean(w H(softmax(z_t/T), softmax(z_s/T))), w = 1 - exp(-CE_s / CE_t), T = 4"
    paper = "Zhou et al., Rethinking Soft Labels for Knowledge Distillation, ICLR 2021"
    bibtex = """@inproceedings{zhou2021rethinking,
  title     = {Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective},
  author    = {Zhou, Helong and Song, Liangchen and Chen, Jiajie and Zhou, Ye and Wang, Guoli and
               Yuan, Junsong and Zhang, Qian},
  booktitle = {International Conference on Learning Representations},
  year      = {2021}
}"""
    Config = WSLDConfig

    @classmethod
    def needs(cls, config: WSLDConfig) -> Needs:
        return Needs.of("logits", "logits")

    def loss(self, step: Step) -> Terms:
        if not self.is_active("wsld"):
            return {}
        z_s, z_t, t = step.student.logits, step.teacher.logits, self.config.temperature
        soft = -(F.softmax(z_t / t, dim=1) * F.log_softmax(z_s / t, dim=1)).sum(dim=1)
        return {"wsld": t**2 * (image_weights(z_s, z_t, step.labels) * soft).mean()}
