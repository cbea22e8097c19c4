"""CCKD, correlation congruence as its paper has it: the batch's matrix of kernel values is handed on.

    L = ce * CE + kd * T^2 * KL(softmax(z_t / T) || softmax(z_s / T)) + congruence / B^2 * |C_s - C_t|_F^2,    C_ij = k(f_i, f_j)

f: the embedding, L2-normalised; k is one of

    gaussian   exp(-gamma |x - y|^2) for unit vectors, its Taylor series cut off: exp(-2 gamma) sum_{p=0}^{P} (2 gamma)^p / p! (x . y)^p, P = 2
    bilinear   x . y

on batches with several images of a class (the sampler `GROUPS`: groups of four, the paper's class-uniform sampling). No modules.

The `cc` of the benchmark's tables cites the same paper and is something else: products of neighbouring differences of two trained linear
embeddings (RepDistiller's), on shuffled batches and without KD. A row of one must not be read as the other.

Peng, Jin, Liu, Li, Wu, Liu, Zhou, Zhang: Correlation Congruence for Knowledge Distillation. ICCV 2019, arXiv 1904.01802.
Constants: gamma = 0.4 and P = 2 as in the paper and AberHu/Knowledge-Distillation-Zoo (unverified); the weights and the group's size are
unverified (ce and kd are the KD row's, in a combination 1 and 0). Whether the paper normalises before the bilinear kernel is not known to me.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.data.samplers import GROUPS
from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param
from benchmark.methods.kd import kd_loss


@dataclass(frozen=True, kw_only=True)
class CCKDConfig(MethodConfig):
    ce: float = param(
        0.1, "weight of the cross-entropy (1.0 in a combination)", "as the benchmark's KD row; unverified"
    )
    kd: float = param(0.9, "weight of KD (0.0 in a combination)", "as the benchmark's KD row; unverified")
    congruence: float = param(
        100.0, "weight of the kernel matrices' distance", "AberHu train.py --lambda_kd 100; unverified"
    )
    kernel: str = param(
        "gaussian", "the kernel k", "Peng et al. section 3.4", allowed=("gaussian", "bilinear")
    )
    gamma: float = param(
        0.4, "width gamma of the Gaussian kernel", "Peng et al.; AberHu --gamma 0.4; unverified"
    )
    order: int = param(
        2, "order P of the Taylor series", "Peng et al., P = 2; AberHu --P_order 2; unverified"
    )
    temperature: float = param(4.0, "temperature T of KD", "as the benchmark's KD row; unverified")

    def __post_init__(self) -> None:
        check_range("cckd.kd", self.kd, 0.0)
        check_range("cckd.congruence", self.congruence, 0.0)
        check_range("cckd.gamma", self.gamma, 0.0, above=True)
        check_range("cckd.order", self.order, 1)
        check_range("cckd.temperature", self.temperature, 0.0, above=True)


class CCKD(Method):
    name = "cckd"
    title = "CCKD"
    formula = "0.1 CE + 0.9 KD + 100/B^2 |C_s - C_t|^2, C_ij = Gaussian kernel of the embeddings by its Taylor series of order 2"
    paper = "Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019"
    bibtex = """@inproceedings{peng2019correlation,
  title     = {Correlation Congruence for Knowledge Distillation},
  author    = {Peng, Baoyun and Jin, Xiao and Liu, Jiaheng and Li, Dongsheng and Wu, Yichao and Liu, Yu and
               Zhou, Shunfeng and Zhang, Zhaoning},
  booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
  year      = {2019}
}"""
    combined: ClassVar[Mapping[str, Any]] = {"ce": 1.0, "kd": 0.0}
    sampler = GROUPS
    Config = CCKDConfig

    @classmethod
    def needs(cls, config: CCKDConfig) -> Needs:
        teacher = ("logits " if config.kd else "") + ("embedding" if config.congruence else "")
        return Needs.of("embedding logits" if config.congruence else "logits", teacher)

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        return {"cckd_kd": config.kd, "cckd": config.congruence}

    def loss(self, step: Step) -> Terms:
        terms: Terms = {}
        if self.active("cckd_kd"):
            terms["cckd_kd"] = kd_loss(step.student.logits, step.teacher.logits, self.config.temperature)
        if self.active("cckd"):
            terms["cckd"] = F.mse_loss(
                self.matrix(step.student.embedding), self.matrix(step.teacher.embedding)
            )
        return terms

    def matrix(self, embedding: Tensor) -> Tensor:
        """`[B, d]` -> the kernel's values `[B, B]`."""
        f = F.normalize(embedding, dim=1)
        cosines = f @ f.t()
        if self.config.kernel == "bilinear":
            return cosines
        g = 2 * self.config.gamma
        total = torch.ones_like(cosines)
        for p in range(1, self.config.order + 1):
            total = total + g**p / math.factorial(p) * cosines**p
        return math.exp(-g) * total
