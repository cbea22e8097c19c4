"""KD++ (ND): pull the student's embedding towards its class direction and up to the teacher's norm.

    L = ce * CE(z_s, y) + weight * mean over images of (1 - f . c_y / max(|f|, |f_t|))

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- f = e(f_s): the student's embedding, mapped to the teacher's size, `[B, D]`.
- f_t: the teacher's embedding, `[B, D]`.
- c_y: the teacher's mean embedding of the label's class, scaled to norm 1, `[D]`.

This term (called ND in the paper) is added to other methods: KD++ is `kd+kdpp`, DKD++ is `dkd+kdpp`, DIST++
is `dist+kdpp` and ReviewKD++ is `kdpp+reviewkd`.

Modules: e is batch norm, dropout with probability 0.5 and a linear layer if the two embedding sizes differ,
otherwise the identity (that equal sizes need no e is an assumption). It trains with the student and is
dropped at test time. The buffer `sums`, `[C, D]`, holds the sum of the teacher's embeddings of each class.

Differences from the original: it computes the class means once, over the training images. Here they are
running means over all images that the run has processed so far. The current batch is added before the means
are used, so the class of every label has a mean.

Constants: the authors chose weights for each pair of KD++ and DKD++ (`pair_constants`); KD++ has a warm-up of
the KD term over 20 epochs. They are for their recipe, the protocol `kdpp`. Other pairs and combinations have
weight = 2 (unverified). Source: Knowledge-Distillation-via-ND@fc6f3f9, its scripts.

Paper: Wang, Cheng, Duan, Wang, Feng, Kong: Improving Knowledge Distillation via Regularizing Feature Norm
and Direction. arXiv 2305.17007, 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import one_hot, require_networks
from benchmark.methods._pairs import PairConstants
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

DROPOUT = 0.5
SCRIPTS = "Knowledge-Distillation-via-ND's scripts"
KD = PairConstants(
    settings=("kd.weight", "kdpp.weight", "kd.warmup"),
    pairs={
        "*:*": (None, None, 20),
        "resnet56:resnet20": (1.0, 2.0, 20),
        "resnet32x4:resnet8x4": (3.5, 2.0, 20),
        "wrn_40_2:wrn_40_1": (1.0, 1.5, 20),
        "ResNet50:MobileNetV2": (3.0, 0.5, 20),
        "resnet32x4:ShuffleV1": (2.5, 1.5, 20),
        "resnet32x4:ShuffleV2": (4.0, 0.5, 20),
    },
    source=SCRIPTS,
)
DKD = PairConstants(
    settings=("dkd.alpha", "dkd.beta", "kdpp.weight"),
    pairs={
        "resnet56:resnet20": (2.5, 4.0, 3.5),
        "resnet32x4:resnet8x4": (2.0, 8.0, 0.5),
        "wrn_40_2:wrn_40_1": (1.0, 6.0, 1.0),
        "ResNet50:MobileNetV2": (0.5, 8.0, 1.0),
        "resnet32x4:ShuffleV1": (0.5, 8.0, 4.0),
        "resnet32x4:ShuffleV2": (0.5, 6.0, 0.5),
    },
    source=SCRIPTS,
)
EPS = 1e-12  # smallest squared norm; it keeps the gradient finite at zero


def norm(x: Tensor) -> Tensor:
    """Return the L2 norm of each row, with a finite gradient at zero. `[B, D]` -> `[B]`."""
    return x.square().sum(dim=1).clamp_min(EPS).sqrt()


@dataclass(frozen=True, kw_only=True)
class KDPPConfig(MethodConfig):
    weight: float = param(
        2.0, "weight of the norm and direction term", "unverified; KD++ and DKD++ have one for each pair"
    )


class KDPP(Method):
    name = "kdpp"
    title = "++ (ND)"
    formula = (
        "CE + weight mean(1 - e(f_s) . c_y / max(|e(f_s)|, |f_t|)), c_y the teacher's class mean; "
        "KD++ is kd+kdpp"
    )
    paper = "Wang et al., Improving Knowledge Distillation via Regularizing Feature Norm and Direction, 2023"
    bibtex = """@article{wang2023improving,
  title   = {Improving Knowledge Distillation via Regularizing Feature Norm and Direction},
  author  = {Wang, Yuzhu and Cheng, Lechao and Duan, Manni and Wang, Yongheng and Feng, Zunlei and Kong, Shu},
  journal = {arXiv preprint arXiv:2305.17007},
  year    = {2023}
}"""
    revision = 2
    Config = KDPPConfig
    pair_constants = (KD, DKD)
    sums: Tensor

    @classmethod
    def needs(cls, config: KDPPConfig) -> Needs:
        return Needs.of("embedding logits", "embedding")

    def __init__(self, config: KDPPConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = require_networks(context.student, context.teacher)
        d_s, d_t = student.embedding_dim, teacher.embedding_dim
        self.batch_norm = nn.BatchNorm1d(d_s) if d_s != d_t else None
        self.linear = nn.Linear(d_s, d_t) if d_s != d_t else None
        # Sums are enough: a class mean and a class sum have the same direction.
        self.register_buffer("sums", torch.zeros(context.num_classes, d_t))

    def embed(self, f_s: Tensor, generator: torch.Generator) -> Tensor:
        """Return e(f_s), `[B, D_s]` -> `[B, D]`."""
        if self.batch_norm is None or self.linear is None:
            return f_s
        x: Tensor = self.batch_norm(f_s)
        if self.training:  # nn.Dropout would not draw from the generator
            kept = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) >= DROPOUT
            x = x * kept / (1 - DROPOUT)
        embedded: Tensor = self.linear(x)
        return embedded

    def loss(self, step: Step) -> Terms:
        if not self.is_active("kdpp"):
            return {}
        f_t = step.teacher.embedding
        with torch.no_grad():
            # A matrix product adds in a fixed order on every device; an indexed sum does not.
            labels_one_hot = one_hot(step.labels, len(self.sums), f_t.dtype)
            self.sums += labels_one_hot.T @ f_t
            direction = F.normalize(labels_one_hot @ self.sums, dim=1)
        f_s = self.embed(step.student.embedding, step.generator)
        cosine = (f_s * direction).sum(dim=1) / torch.maximum(norm(f_s), norm(f_t))
        return {"kdpp": (1 - cosine).mean()}
