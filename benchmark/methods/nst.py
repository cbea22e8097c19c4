"""NST: neuron selectivity transfer. The channels' spatial patterns have the teacher's distribution (maximum mean discrepancy).

    L = ce * CE + weight * sum_l (k(F_t, F_t) + k(F_s, F_s) - 2 k(F_s, F_t))
    k(A, B) = mean over the batch and all pairs of channels (a, b) of <A_a, B_b>^2

over the stages; each channel's map is flattened and L2-normalised, the larger map adaptive-average-pooled to the smaller before. No modules.

Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. arXiv 1707.01219, 2017, eq. 7 and the polynomial kernel.
Constants: RepDistiller distiller_zoo/NST.py, scripts/run_cifar_distill.sh (`-a 0 -b 50`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from benchmark.methods._common import match_spatial, pairs_of_stages
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param


LEAST = 1e-12  # the least length that a channel is divided by, as in F.normalize


@dataclass(frozen=True, kw_only=True)
class NSTConfig(MethodConfig):
    weight: float = param(50.0, "weight of the discrepancy", "RepDistiller run_cifar_distill.sh --distill nst -b 50")


class _Gram(torch.autograd.Function):
    """x x^T of each image. Its gradient is one product and not two, since the result is symmetric."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x @ x.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        out: Tensor = (grad + grad.mT) @ x
        return out


def gram(x: Tensor) -> Tensor:
    """`[B, C, P]` -> `[B, C, C]`: inner products of an image's rows."""
    out: Tensor = _Gram.apply(x)
    return out


def lengths(products: Tensor) -> Tensor:
    """`[B, C, C]` -> `[B, C]`: the rows' lengths, from their inner products; at least as much as `F.normalize` has it."""
    return products.diagonal(dim1=1, dim2=2).clamp(min=LEAST**2).sqrt()


def scaled(products: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`[B, C, D]`: inner products of normalised rows and columns, from those of the rows and columns as they are and their lengths."""
    return products / rows[:, :, None] / columns[:, None, :]


def discrepancy(f_s: Tensor, f_t: Tensor) -> Tensor:
    """`[B, C, H, W]`, `[B, D, H, W]` -> scalar: squared maximum mean discrepancy under the kernel <a, b>^2, mean over the batch.

    With A, B the normalised channels as rows, sum_ab <A_a, B_b>^2 is both |A B^T|^2 and <A^T A, B^T B>. The second turns the three kernels
    into one difference of position-by-position matrices, and is taken where it costs less. In the first the products are normalised, which are
    smaller than the maps.
    """
    a, b = f_s.flatten(2), f_t.flatten(2)
    batch, c, positions = a.shape
    d = b.shape[1]
    if positions * (c + d) < c * c + c * d + d * d:
        a, b = F.normalize(a, dim=2), F.normalize(b, dim=2)
        return (gram(a.mT) / c - gram(b.mT) / d).square().sum() / batch
    aa, bb = gram(a), gram(b)
    n_a, n_b = lengths(aa), lengths(bb)
    (aa, bb), ab = (scaled(p, n, n) for p, n in ((aa, n_a), (bb, n_b))), scaled(a @ b.mT, n_a, n_b)
    return bb.square().mean() + aa.square().mean() - 2 * ab.square().mean()


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
