"""Relational knowledge distillation (RKD): match the distances and angles between the images of a batch.

    L = ce * CE(z_s, y) + weight * (distance * L_dist + angle * L_angle)
    L_dist  = smooth_l1(d_s / mean(d_s), d_t / mean(d_t))          over all B^2 pairs
    L_angle = smooth_l1(cos_s, cos_t)                              over all B^3 triples
    d_ij = ||f_i - f_j||,   cos_ijk = <(f_j - f_i) / d_ij, (f_k - f_i) / d_ik>

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- f: embeddings (pooled features) of student (s) or teacher (t), `[B, D]`.
- d: distances, `[B, B]`. Squared distances are clamped to at least 1e-12, then the distance of an image to
  itself is set to 0.
- mean(d): runs over the strictly positive distances, that is over all i != j. The gradient also flows
  through the student's mean.

Modules: none.

Constants: distance = 25 and angle = 50 (RepDistiller distiller_zoo/RKD.py), weight = 1
(scripts/run_cifar_distill.sh, `-a 0 -b 1`).

Paper: Park, Kim, Lu, Cho: Relational Knowledge Distillation. CVPR 2019, arXiv 1904.05068, eq. 5 to 9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param

EPS = 1e-12  # smallest squared distance, as in RepDistiller distiller_zoo/RKD.py


@dataclass(frozen=True, kw_only=True)
class RKDConfig(MethodConfig):
    weight: float = param(1.0, "weight of both terms", "RepDistiller run_cifar_distill.sh --distill rkd -b 1")
    distance: float = param(
        25.0, "weight of the distance term, multiplied by `weight`", "RepDistiller distiller_zoo/RKD.py w_d"
    )
    angle: float = param(
        50.0, "weight of the angle term, multiplied by `weight`", "RepDistiller distiller_zoo/RKD.py w_a"
    )


def products(vectors: Tensor) -> Tensor:
    """Return the inner products of the vectors minus their mean. `[B, D]` -> float64 `[B, B]`.

    Distances and angles are computed from these alone, so no `[B, B, D]` tensor of differences is needed. The
    matrix is small, so float64 costs little; in float32, short distances would be lost to cancellation.
    """
    centred = (vectors - vectors.detach().mean(0)).double()
    return centred @ centred.t()


def distances(products: Tensor) -> Tensor:
    """Return the distances between the vectors, none below 1e-6. Inner products `[B, B]` -> `[B, B]`."""
    squares = products.diagonal()
    return (squares[:, None] + squares[None, :] - 2 * products).clamp_min(EPS).sqrt()


def relative_distances(lengths: Tensor) -> Tensor:
    """Return the distances divided by their mean over i != j, with a zero diagonal. `[B, B]` -> `[B, B]`."""
    batch = lengths.shape[0]
    off_diagonal = lengths * (1 - torch.eye(batch, dtype=lengths.dtype, device=lengths.device))
    return off_diagonal / (off_diagonal.sum() / (batch * (batch - 1)))


def angles(products: Tensor, lengths: Tensor) -> Tensor:
    """Return the cosine at image i between the directions to images j and k, `[B, B, B]`.

    products, lengths: inner products of and distances between the vectors, `[B, B]`.
    """
    # <f_j - f_i, f_k - f_i> = <f_j, f_k> - <f_j, f_i> - <f_i, f_k> + <f_i, f_i>
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
        if not any(self.is_active(term) for term in self.weights(self.config)):
            return {}
        products_s, products_t = products(step.student.embedding), products(step.teacher.embedding)
        d_s, d_t = distances(products_s), distances(products_t)
        terms: Terms = {}
        if self.is_active("rkd_distance"):
            terms["rkd_distance"] = F.smooth_l1_loss(relative_distances(d_s), relative_distances(d_t))
        if self.is_active("rkd_angle"):
            terms["rkd_angle"] = F.smooth_l1_loss(angles(products_s, d_s), angles(products_t, d_t))
        return {name: value.to(step.student.embedding.dtype) for name, value in terms.items()}
