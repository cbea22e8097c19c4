"""KD++ (ND): pull the student's embedding towards its class direction and up to the teacher's norm.

    L = ce * CE(z_s, y) + weight * mean over images of (1 - f . c_y / max(|f|, |f_t|))

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- f = e(f_s): the student's embedding, mapped to the teacher's size, `[B, D]`.
- f_t: the teacher's embedding, `[B, D]`.
- c_y: the teacher's mean embedding of the label's class, scaled to norm 1, `[D]`.

This term (called ND in the paper) is added to other methods: KD++ is `kd+kdpp`, DKD++ is `dkd+kdpp`, DIST++
is `dist+kdpp` and ReviewKD++ is `kdpp+reviewkd`.

Modules: e is a linear layer and batch norm if the two embedding sizes differ, otherwise the identity. It
trains with the student and is dropped at test time. The buffer `sums`, `[C, D]`, holds the sum of the
teacher's embeddings of each class.

Differences from the original: it computes the class means once, over the training images. Here they are
running means over all images that the run has processed so far. The current batch is added before the means
are used, so the class of every label has a mean.

Constants: weight = 2 (unverified: the paper tunes it per pair). The form of the loss follows
Knowledge-Distillation-via-ND@fc6f3f9 (unverified).

Paper: Wang, Cheng, Duan, Wang, Feng, Kong: Improving Knowledge Distillation via Regularizing Feature Norm
and Direction. arXiv 2305.17007, 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import one_hot, require_networks
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

EPS = 1e-12  # smallest squared norm; it keeps the gradient finite at zero


def norm(x: Tensor) -> Tensor:
    """Return the L2 norm of each row, with a finite gradient at zero. `[B, D]` -> `[B]`."""
    return x.square().sum(dim=1).clamp_min(EPS).sqrt()


@dataclass(frozen=True, kw_only=True)
class KDPPConfig(MethodConfig):
    weight: float = param(
        2.0, "weight of the norm and direction term", "KD++ paper, CIFAR-100 (unverified; tuned per pair)"
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
        student, teacher = require_networks(context.student, context.teacher)
        d_s, d_t = student.embedding_dim, teacher.embedding_dim
        self.embed: nn.Module = nn.Identity()
        if d_s != d_t:
            self.embed = nn.Sequential(nn.Linear(d_s, d_t), nn.BatchNorm1d(d_t))
        # Sums are enough: a class mean and a class sum have the same direction.
        self.register_buffer("sums", torch.zeros(context.num_classes, d_t))

    def loss(self, step: Step) -> Terms:
        if not self.is_active("kdpp"):
            return {}
        f_t = step.teacher.embedding
        with torch.no_grad():
            # A matrix product adds in a fixed order on every device; an indexed sum does not.
            labels_one_hot = one_hot(step.labels, len(self.sums), f_t.dtype)
            self.sums += labels_one_hot.T @ f_t
            direction = F.normalize(labels_one_hot @ self.sums, dim=1)
        f_s = self.embed(step.student.embedding)
        cosine = (f_s * direction).sum(dim=1) / torch.maximum(norm(f_s), norm(f_t))
        return {"kdpp": (1 - cosine).mean()}
