"""SP: similarity-preserving distillation. Images that are alike to the teacher are alike to the student.

    L = ce * CE + weight * || N(F_t F_t^T) - N(F_s F_s^T) ||_F^2 / B^2

F is the last stage's map, flattened to `[B, C*H*W]`; N divides each row by its L2 norm. No modules.

Tung, Mori: Similarity-Preserving Knowledge Distillation. ICCV 2019, arXiv 1907.09682, eq. 2 to 4.
Constants: RepDistiller distiller_zoo/SP.py, scripts/run_cifar_distill.sh (`-a 0 -b 3000`).
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
    """`[B, C, H, W]` -> `[B, B]`: inner products of the images' maps, each row L2-normalised."""
    # An inner product does not mind the order of its elements, so that of the memory is taken: no copy of the maps.
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
        if not self.active("sp"):
            return {}
        return {
            "sp": F.mse_loss(similarities(step.student.stages[-1]), similarities(step.teacher.stages[-1]))
        }
