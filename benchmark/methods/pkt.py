"""PKT: probabilistic knowledge transfer. The student's neighbourhoods in the batch have the teacher's probabilities.

    L = ce * CE + weight * mean_ij p_ij log((p_ij + eps) / (q_ij + eps))

p (teacher) and q (student): (cosine + 1) / 2 of the pooled vectors of images i and j, each row divided by its sum. The mean runs over all
B^2 pairs (hence the weight of 30000), those of an image with itself included. eps = 1e-7, in the norms too. No modules.

Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer. ECCV 2018, arXiv 1803.10837, eq. 4 to 8.
Constants: RepDistiller distiller_zoo/PKT.py, scripts/run_cifar_distill.sh (`-a 0 -b 30000`).
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
    """`[B, D]` -> `[B, B]`: (cosine + 1) / 2, each row divided by its sum."""
    # vector_norm has the gradient 0 at a vector of zeros, where that of a square root would not be a number.
    units = vectors / (torch.linalg.vector_norm(vectors, dim=1, keepdim=True) + EPS)
    likeness = (units @ units.T + 1) / 2
    return likeness / likeness.sum(1, keepdim=True)


class PKT(Method):
    name = "pkt"
    title = "PKT"
    formula = "CE + 30000 mean_ij p_ij log(p_ij / q_ij), p (teacher), q (student) = row-normalised (cos + 1) / 2 over the batch"
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
        if not self.active("pkt"):
            return {}
        q, p = neighbourhoods(step.student.embedding), neighbourhoods(step.teacher.embedding)
        return {"pkt": (p * ((p + EPS) / (q + EPS)).log()).mean()}
