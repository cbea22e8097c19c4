"""Probabilistic knowledge transfer (PKT): match the similarities of the images of a batch, as probabilities.

    L = ce * CE(z_s, y) + weight * mean_ij p_ij log((p_ij + eps) / (q_ij + eps))
    p_ij, q_ij = (cos(f_i, f_j) + 1) / 2, each row divided by its sum

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- f: embeddings (pooled features), `[B, D]`.
- p, q: similarities of teacher and student, `[B, B]`.
- eps: 1e-7; it is also added to the norms of the cosine.

The mean runs over all B^2 pairs, including each image with itself. Its division by B^2 is why the weight is
as large as 30000.

Modules: none.

Constants: weight = 30000 (RepDistiller distiller_zoo/PKT.py; scripts/run_cifar_distill.sh, `-a 0 -b 30000`).

Paper: Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer. ECCV 2018,
arXiv 1803.10837, eq. 4 to 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param

EPS = 1e-7  # as in RepDistiller distiller_zoo/PKT.py


@dataclass(frozen=True, kw_only=True)
class PKTConfig(MethodConfig):
    weight: float = param(
        30000.0, "weight of the divergence", "RepDistiller run_cifar_distill.sh --distill pkt -b 30000"
    )


def neighbourhoods(vectors: Tensor) -> Tensor:
    """Return (cosine + 1) / 2 of all pairs of images, each row divided by its sum. `[B, D]` -> `[B, B]`."""
    # At a zero vector, vector_norm has gradient 0; a square root of the sum of squares would give NaN.
    units = vectors / (torch.linalg.vector_norm(vectors, dim=1, keepdim=True) + EPS)
    similarity = (units @ units.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)


class PKT(Method):
    name = "pkt"
    title = "PKT"
    formula = (
        "CE + 30000 mean_ij p_ij log(p_ij / q_ij), "
        "p (teacher), q (student) = row-normalised (cos + 1) / 2 over the batch"
    )
    paper = (
        "Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018"
    )
    bibtex = """@inproceedings{passalis2018learning,
  title     = {Learning Deep Representations with Probabilistic Knowledge Transfer},
  author    = {Passalis, Nikolaos and Tefas, Anastasios},
  booktitle = {Proceedings of the European Conference on Computer Vision},
  year      = {2018}
}"""
    Config = PKTConfig

    @classmethod
    def needs(cls, config: PKTConfig) -> Needs:
        return Needs.of("embedding logits", "embedding")

    def loss(self, step: Step) -> Terms:
        if not self.is_active("pkt"):
            return {}
        q, p = neighbourhoods(step.student.embedding), neighbourhoods(step.teacher.embedding)
        return {"pkt": (p * ((p + EPS) / (q + EPS)).log()).mean()}
