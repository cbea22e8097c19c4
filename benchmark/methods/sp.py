"""Similarity-preserving distillation (SP): match the similarities between the images of a batch.

    L = ce * CE(z_s, y) + weight * || N(F_t F_t^T) - N(F_s F_s^T) ||_F^2 / B^2

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- F_s, F_t: maps of the last stage of student and teacher, flattened to `[B, channels*H*W]`.
- F F^T: inner products of all pairs of images, `[B, B]`.
- N: divides each row by its L2 norm.

Modules: none.

Constants: weight = 3000 (RepDistiller distiller_zoo/SP.py; scripts/run_cifar_distill.sh, `-a 0 -b 3000`).

Paper: Tung, Mori: Similarity-Preserving Knowledge Distillation. ICCV 2019, arXiv 1907.09682, eq. 2 to 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param


@dataclass(frozen=True, kw_only=True)
class SPConfig(MethodConfig):
    weight: float = param(
        3000.0,
        "weight of the similarity term",
        "RepDistiller run_cifar_distill.sh --distill similarity -b 3000",
    )


def similarities(maps: Tensor) -> Tensor:
    """Return N(F F^T): inner products of the images' maps, rows L2-normalised. `[B, C, H, W]` -> `[B, B]`."""
    # An inner product does not depend on the order of the elements; the order in memory avoids a copy.
    if maps.is_contiguous(memory_format=torch.channels_last):
        maps = maps.permute(0, 2, 3, 1)
    rows = maps.flatten(1)
    return F.normalize(rows @ rows.T, dim=1)


class SP(Method):
    name = "sp"
    title = "SP"
    formula = "CE + 3000/B^2 || N(F_t F_t^T) - N(F_s F_s^T) ||_F^2, F = last map, N = row-wise l2norm"
    paper = "Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019"
    bibtex = """@inproceedings{tung2019similarity,
  title     = {Similarity-Preserving Knowledge Distillation},
  author    = {Tung, Frederick and Mori, Greg},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
  pages     = {1365--1374},
  year      = {2019}
}"""
    Config = SPConfig

    @classmethod
    def needs(cls, config: SPConfig) -> Needs:
        return Needs.of("stages logits", "stages")

    def loss(self, step: Step) -> Terms:
        if not self.is_active("sp"):
            return {}
        return {
            "sp": F.mse_loss(similarities(step.student.stages[-1]), similarities(step.teacher.stages[-1]))
        }
