"""Correlation congruence (CCKD): match the matrix of kernel values between the images of a batch.

    L = ce * CE(z_s, y) + kd * T^2 * KL(softmax(z_t / T) || softmax(z_s / T))
        + congruence / B^2 * |C_s - C_t|_F^2
    C_ij = k(f_i, f_j)

- z_s, z_t: logits of student and teacher, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- f: L2-normalised embeddings of the student (for C_s) or the teacher (for C_t), `[B, D]`.
- C_s, C_t: kernel matrices, `[B, B]`.

The kernel k is one of

    gaussian   exp(-gamma |x - y|^2), for unit vectors approximated by the first terms of its Taylor series,
               exp(-2 gamma) * sum_{p=0}^{P} (2 gamma)^p / p! * (x . y)^p    with P = 2
    bilinear   x . y

Batches: several images of a class in each batch. The sampler `GROUPS` makes groups of four, as the paper's
class-uniform sampling.

Modules: none.

Not to be confused with `cc`, which cites the same paper in the CRD benchmark's tables but is another method
(RepDistiller's): it takes products of neighbouring differences of two trained linear embeddings, on
shuffled batches and without KD. A row of one must not be read as the other.

Constants: gamma = 0.4, P = 2 and congruence = 100 as in AberHu/Knowledge-Distillation-Zoo at 65470c8
(train_kd.py and, for CIFAR-10, example_train_script.sh), which has no KD term and shuffled batches. The size
of the groups is unverified; ce and kd are those of the KD row (unverified), and 1 and 0 in a combination. It
is not known whether the paper normalises the embeddings before the bilinear kernel.

Paper: Peng, Jin, Liu, Li, Wu, Liu, Zhou, Zhang: Correlation Congruence for Knowledge Distillation. ICCV
2019, arXiv 1904.01802.
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
        0.1, "weight of the cross-entropy (1.0 in a combination)", "as in the benchmark's KD row (unverified)"
    )
    kd: float = param(
        0.9, "weight of the KD term (0.0 in a combination)", "as in the benchmark's KD row (unverified)"
    )
    congruence: float = param(
        100.0,
        "weight of the distance between the kernel matrices",
        "AberHu example_train_script.sh --kd_mode cc --lambda_kd 100",
    )
    kernel: str = param("gaussian", "kernel k", "Peng et al. section 3.4", allowed=("gaussian", "bilinear"))
    gamma: float = param(0.4, "width gamma of the Gaussian kernel", "AberHu train_kd.py --gamma 0.4")
    order: int = param(
        2, "order P of the Taylor series", "Peng et al., P = 2; AberHu train_kd.py --P_order 2"
    )
    temperature: float = param(
        4.0, "temperature T of the KD term", "as in the benchmark's KD row (unverified)"
    )

    def __post_init__(self) -> None:
        check_range("cckd.kd", self.kd, 0.0)
        check_range("cckd.congruence", self.congruence, 0.0)
        check_range("cckd.gamma", self.gamma, 0.0, above=True)
        check_range("cckd.order", self.order, 1)
        check_range("cckd.temperature", self.temperature, 0.0, above=True)


class CCKD(Method):
    name = "cckd"
    title = "CCKD"
    formula = (
        "0.1 CE + 0.9 KD + 100/B^2 |C_s - C_t|^2, "
        "C_ij = Gaussian kernel of the embeddings by its Taylor series of order 2"
    )
    paper = "Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019"
    bibtex = """@inproceedings{peng2019correlation,
  title     = {Correlation Congruence for Knowledge Distillation},
  author    = {Peng, Baoyun and Jin, Xiao and Liu, Jiaheng and Li, Dongsheng and Wu, Yichao and Liu, Yu and
               Zhou, Shunfeng and Zhang, Zhaoning},
  booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
  year      = {2019}
}"""
    combined_defaults: ClassVar[Mapping[str, Any]] = {"ce": 1.0, "kd": 0.0}
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
        if self.is_active("cckd_kd"):
            terms["cckd_kd"] = kd_loss(step.student.logits, step.teacher.logits, self.config.temperature)
        if self.is_active("cckd"):
            terms["cckd"] = F.mse_loss(
                self.matrix(step.student.embedding), self.matrix(step.teacher.embedding)
            )
        return terms

    def matrix(self, embedding: Tensor) -> Tensor:
        """Return the kernel matrix: embeddings `[B, D]` -> `[B, B]`."""
        f = F.normalize(embedding, dim=1)
        cosines = f @ f.t()
        if self.config.kernel == "bilinear":
            return cosines
        g = 2 * self.config.gamma  # |x - y|^2 = 2 - 2 x . y for unit vectors
        total = torch.ones_like(cosines)
        for p in range(1, self.config.order + 1):
            total = total + g**p / math.factorial(p) * cosines**p
        return math.exp(-g) * total
