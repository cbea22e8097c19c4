"""ND, the loss of KD++: a student's embedding in the direction of its class in the teacher, and with a norm not below it.

    L = ce * CE + weight * mean over images of 1 - f . c_y / max(|f|, |f_t|)

f = e(f_s): the student's embedding (e = Linear and batch norm where the sizes differ, else the identity); f_t: the teacher's; c_y: the
teacher's mean embedding of the label's class, of norm 1. It is a term to add: KD++ is `kd+kdpp`, DKD++ `dkd+kdpp`, DIST++ `dist+kdpp`, ReviewKD++
`kdpp+reviewkd`.

The original computes the class means once, on the training images; here they are running means over all images that the run has seen
(a class that has not been seen has no mean yet, and the batch itself is counted first, so a label's class always has one).

Wang, Cheng, Duan, Wang, Feng, Kong: Improving Knowledge Distillation via Regularizing Feature Norm and Direction. arXiv 2305.17007, 2023.
Constants: the weight is 2 (unverified: the paper tunes it by pair); form of the loss: Knowledge-Distillation-via-ND@fc6f3f9 (unverified).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import known, one_hot
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

EPS = 1e-12


def norm(x: Tensor) -> Tensor:
    """L2 norms of rows `[B]`; a finite gradient at zero."""
    return x.square().sum(dim=1).clamp_min(EPS).sqrt()


@dataclass(frozen=True, kw_only=True)
class KDPPConfig(MethodConfig):
    weight: float = param(
        2.0, "weight of the norm and direction term", "KD++ paper, CIFAR-100 (unverified; tuned by pair)"
    )


class KDPP(Method):
    name = "kdpp"
    title = "++ (ND)"
    formula = (
        "CE + 2 mean(1 - e(f_s) . c_y / max(|e(f_s)|, |f_t|)), c_y the teacher's class mean; KD++ is kd+kdpp"
    )
    paper = "Wang et al., Improving Knowledge Distillation via Regularizing Feature Norm and Direction, 2023"
    bibtex = """@article{wang2023improving,
  title   = {Improving Knowledge Distillation via Regularizing Feature Norm and Direction},
  author  = {Wang, Yuzhu and Cheng, Lechao and Duan, Manni and Wang, Yongheng and Feng, Zunlei and Kong, Shu},
  journal = {arXiv preprint arXiv:2305.17007},
  year    = {2023}
}"""
    Config = KDPPConfig
    sums: Tensor

    @classmethod
    def needs(cls, config: KDPPConfig) -> Needs:
        return Needs.of("embedding logits", "embedding")

    def __init__(self, config: KDPPConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = known(context.student, context.teacher)
        d_s, d_t = student.embedding_dim, teacher.embedding_dim
        self.embed: nn.Module = nn.Identity()
        if d_s != d_t:
            self.embed = nn.Sequential(nn.Linear(d_s, d_t), nn.BatchNorm1d(d_t))
        self.register_buffer(
            "sums", torch.zeros(context.num_classes, d_t)
        )  # a mean's direction is that of the sum

    def loss(self, step: Step) -> Terms:
        if not self.active("kdpp"):
            return {}
        f_t = step.teacher.embedding
        with torch.no_grad():
            # by a product, whose order of addition is fixed on every device
            member = one_hot(step.labels, f_t.new_empty(len(f_t), len(self.sums)))
            self.sums += member.T @ f_t
            direction = F.normalize(member @ self.sums, dim=1)
        f_s = self.embed(step.student.embedding)
        cosine = (f_s * direction).sum(dim=1) / torch.maximum(norm(f_s), norm(f_t))
        return {"kdpp": (1 - cosine).mean()}
