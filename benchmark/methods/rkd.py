"""RKD: relational knowledge distillation. Distances and angles between the images' vectors are those of the teacher.

    L = ce * CE + weight * (distance * L_dist + angle * L_angle)
    L_dist  = smooth_l1(d_s / mean(d_s), d_t / mean(d_t)),  d_ij = ||f_i - f_j||, all B^2 pairs
    L_angle = smooth_l1(cos_s, cos_t),  cos_ijk = <(f_j - f_i) / d_ij, (f_k - f_i) / d_ik>, all B^3 triples

f is the pooled vector. Squared distances are clamped to 1e-12 from below, those of an image to itself are 0; the means run over
the strictly positive distances, hence over all i != j, and the student's is differentiated through. No modules.

Park, Kim, Lu, Cho: Relational Knowledge Distillation. CVPR 2019, arXiv 1904.05068, eq. 5 to 9.
Constants: RepDistiller distiller_zoo/RKD.py (25 and 50), scripts/run_cifar_distill.sh (`-a 0 -b 1`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param

EPS = 1e-12  # least squared distance, as in RepDistiller distiller_zoo/RKD.py


@dataclass(frozen=True, kw_only=True)
class RKDConfig(MethodConfig):
    weight: float = param(1.0, "weight of the whole", "RepDistiller run_cifar_distill.sh --distill rkd -b 1")
    distance: float = param(
        25.0, "weight of the distances within it", "RepDistiller distiller_zoo/RKD.py w_d"
    )
    angle: float = param(50.0, "weight of the angles within it", "RepDistiller distiller_zoo/RKD.py w_a")


def products(vectors: Tensor) -> Tensor:
    """`[B, D]` -> inner products `[B, B]`, float64, of the vectors less their mean.

    All that follows is made of them, and no `[B, B, D]` of differences. They are of few numbers, so float64 costs little; in float32 short distances
    would be lost to cancellation.
    """
    centred = (vectors - vectors.detach().mean(0)).double()
    return centred @ centred.t()


def distances(products: Tensor) -> Tensor:
    """`[B, B]` inner products -> distances, of which none is below 1e-6."""
    squares = products.diagonal()
    return (squares[:, None] + squares[None, :] - 2 * products).clamp_min(EPS).sqrt()


def relative_distances(lengths: Tensor) -> Tensor:
    """`[B, B]` distances -> those divided by the mean over i != j, with a zero diagonal."""
    batch = lengths.shape[0]
    distances = lengths * (1 - torch.eye(batch, dtype=lengths.dtype, device=lengths.device))
    return distances / (distances.sum() / (batch * (batch - 1)))


def angles(products: Tensor, lengths: Tensor) -> Tensor:
    """`[B, B]`, `[B, B]` -> `[B, B, B]`: the cosine at image i between the directions to j and to k."""
    # <f_j - f_i, f_k - f_i>, by the inner products of the four
    spread = products - products.t()[:, :, None] - products[:, None, :] + products.diagonal()[:, None, None]
    return spread / lengths[:, :, None] / lengths[:, None, :]


class RKD(Method):
    name = "rkd"
    title = "RKD"
    formula = (
        "CE + 25 smooth_l1(relative distances) + 50 smooth_l1(cosines of all triples), of the pooled vectors"
    )
    paper = "Park et al., Relational Knowledge Distillation, CVPR 2019"
    bibtex = """@inproceedings{park2019relational,
  title     = {Relational Knowledge Distillation},
  author    = {Park, Wonpyo and Kim, Dongju and Lu, Yan and Cho, Minsu},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {3967--3976},
  year      = {2019}
}"""
    Config = RKDConfig

    @classmethod
    def needs(cls, config: RKDConfig) -> Needs:
        return Needs.of("embedding logits", "embedding")

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        c = config
        return {"rkd_distance": c.weight * c.distance, "rkd_angle": c.weight * c.angle}

    def loss(self, step: Step) -> Terms:
        if not any(self.active(term) for term in self.weights(self.config)):
            return {}
        of_s, of_t = products(step.student.embedding), products(step.teacher.embedding)
        d_s, d_t = distances(of_s), distances(of_t)
        terms: Terms = {}
        if self.active("rkd_distance"):
            terms["rkd_distance"] = F.smooth_l1_loss(relative_distances(d_s), relative_distances(d_t))
        if self.active("rkd_angle"):
            terms["rkd_angle"] = F.smooth_l1_loss(angles(of_s, d_s), angles(of_t, d_t))
        return {name: value.to(step.student.embedding.dtype) for name, value in terms.items()}
