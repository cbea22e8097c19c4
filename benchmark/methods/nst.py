"""NST: neuron selectivity transfer. The channels' spatial patterns have the teacher's distribution (maximum mean discrepancy).

    L = ce * CE + weight * sum_l (k(F_t, F_t) + k(F_s, F_s) - 2 k(F_s, F_t))
    k(A, B) = mean over the batch and all pairs of channels (a, b) of <A_a, B_b>^2

over the stages; each channel's map is flattened and L2-normalised, the larger map adaptive-average-pooled to the smaller before. No modules.

Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. arXiv 1707.01219, 2017, eq. 7 and the polynomial kernel.
Constants: RepDistiller distiller_zoo/NST.py, scripts/run_cifar_distill.sh (`-a 0 -b 50`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import match_spatial, pairs_of_stages
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param


@dataclass(frozen=True, kw_only=True)
class NSTConfig(MethodConfig):
    weight: float = param(50.0, "weight of the discrepancy", "RepDistiller run_cifar_distill.sh --distill nst -b 50")


def discrepancy(f_s: Tensor, f_t: Tensor) -> Tensor:
    """`[B, C, H, W]`, `[B, D, H, W]` -> scalar: squared maximum mean discrepancy under the kernel <a, b>^2, mean over the batch.

    With A, B the normalised channels as rows, sum_ab <A_a, B_b>^2 is both |A B^T|^2 and <A^T A, B^T B>. The second turns the three kernels
    into one difference of position-by-position matrices, and is taken where it costs less.
    """
    a, b = (F.normalize(f.flatten(2), dim=2) for f in (f_s, f_t))
    batch, c, positions = a.shape
    d = b.shape[1]
    if positions * (c + d) < c * c + c * d + d * d:
        return (a.mT @ a / c - b.mT @ b / d).square().sum() / batch
    return (b @ b.mT).square().mean() + (a @ a.mT).square().mean() - 2 * (a @ b.mT).square().mean()


class NST(Method):
    name = "nst"
    title = "NST"
    formula = "CE + 50 sum_l (k(F_t, F_t) + k(F_s, F_s) - 2 k(F_s, F_t)), k = mean squared inner product of l2-normalised channels"
    paper = "Huang and Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017"
    bibtex = """@article{huang2017like,
  title   = {Like What You Like: Knowledge Distill via Neuron Selectivity Transfer},
  author  = {Huang, Zehao and Wang, Naiyan},
  journal = {arXiv preprint arXiv:1707.01219},
  year    = {2017}
}"""
    Config = NSTConfig

    @classmethod
    def needs(cls, config: NSTConfig) -> Needs:
        return Needs.of("stages logits", "stages")

    def loss(self, step: Step) -> Terms:
        if not self.active("nst"):
            return {}
        pairs = pairs_of_stages(step.student.stages, step.teacher.stages)
        return {"nst": torch.stack([discrepancy(*match_spatial(f_s, f_t)) for f_s, f_t in pairs]).sum()}
