"""Distillation from a stronger teacher (DIST): match predictions by Pearson correlation instead of KL.

    L = ce * CE(z_s, y) + inter * L_inter + intra * L_intra,    p = softmax(z / T)
    L_inter = T^2 * mean over images  of (1 - r(p_s of the image, p_t of the image))      (over the classes)
    L_intra = T^2 * mean over classes of (1 - r(p_s of the class, p_t of the class))      (over the batch)
    r(a, b) = sum (a - mean a)(b - mean b) / (|a - mean a| |b - mean b|)

- z_s, z_t: logits of student and teacher, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- T: temperature.
- r: Pearson correlation; its denominator is at least 1e-8.

Modules: none.

Constants: inter = 2, intra = 2 and T = 4 on CIFAR-100, all three 1 on ImageNet, from section 4 of the paper.
The form of the loss is that of hunto/DIST_KD at 2418f18, losses/dist_kd.py.

Paper: Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher. NeurIPS 2022,
arXiv 2205.10536.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param

EPS = 1e-8


def pearson_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean over the rows of 1 - r: `[n, m]`, `[n, m]` -> scalar."""
    a, b = (x - x.mean(dim=1, keepdim=True) for x in (a, b))
    return 1 - F.cosine_similarity(a, b, dim=1, eps=EPS).mean()


@dataclass(frozen=True, kw_only=True)
class DISTConfig(MethodConfig):
    inter: float = param(2.0, "weight of L_inter (1 on ImageNet)", "DIST, section 4, CIFAR-100: beta = 2")
    intra: float = param(2.0, "weight of L_intra (1 on ImageNet)", "DIST, section 4, CIFAR-100: gamma = 2")
    temperature: float = param(
        4.0,
        "temperature T of both softmaxes (1 on ImageNet)",
        "DIST, section 4, CIFAR-100: tau = 4",
    )

    def __post_init__(self) -> None:
        check_range("dist.temperature", self.temperature, 0.0, above=True)


class DIST(Method):
    name = "dist"
    title = "DIST"
    formula = "CE + 2 T^2 (1 - Pearson over classes) + 2 T^2 (1 - Pearson over the batch), T = 4"
    paper = "Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022"
    bibtex = """@inproceedings{huang2022knowledge,
  title     = {Knowledge Distillation from A Stronger Teacher},
  author    = {Huang, Tao and You, Shan and Wang, Fei and Qian, Chen and Xu, Chang},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022}
}"""
    Config = DISTConfig

    @classmethod
    def needs(cls, config: DISTConfig) -> Needs:
        return Needs.of("logits", "logits")

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        return {"dist_inter": config.inter, "dist_intra": config.intra}

    def loss(self, step: Step) -> Terms:
        terms: Terms = {}
        if not (self.is_active("dist_inter") or self.is_active("dist_intra")):
            return terms
        t = self.config.temperature
        p_s, p_t = (F.softmax(f.logits / t, dim=1) for f in (step.student, step.teacher))
        if self.is_active("dist_inter"):
            terms["dist_inter"] = t**2 * pearson_distance(p_s, p_t)
        if self.is_active("dist_intra"):
            terms["dist_intra"] = t**2 * pearson_distance(p_s.T, p_t.T)
        return terms
