"""Neuron selectivity transfer (NST): match the distribution of the channels' spatial patterns.

    L = ce * CE(z_s, y) + weight * sum over stages l of (k(F_t, F_t) + k(F_s, F_s) - 2 k(F_s, F_t))
    k(A, B) = mean over the batch and over all pairs of channels (a, b) of <A_a, B_b>^2

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- F_s, F_t: maps of stage l of student and teacher. The larger is adaptive-average-pooled to the size of the
  smaller, then each channel is flattened and L2-normalised: `[B, channels, H*W]`.

The bracket is the squared maximum mean discrepancy (MMD) under the polynomial kernel <a, b>^2.

Modules: none.

Constants: weight = 50 (RepDistiller distiller_zoo/NST.py; scripts/run_cifar_distill.sh, `-a 0 -b 50`).

Paper: Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. arXiv 1707.01219,
2017, eq. 7 and the polynomial kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import match_spatial, pair_stages, with_gradient
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param

CACHED = 2**18  # maximum size, in elements, of a product or map that a CPU processes at once
LEAST = 1e-12  # smallest length that a channel is divided by, as in F.normalize


@dataclass(frozen=True, kw_only=True)
class NSTConfig(MethodConfig):
    weight: float = param(
        50.0, "weight of the discrepancy", "RepDistiller run_cifar_distill.sh --distill nst -b 50"
    )


def discrepancy(f_s: Tensor, f_t: Tensor) -> Tensor:
    """Return the squared MMD under the kernel <a, b>^2, averaged over the batch.

    f_s, f_t: maps `[B, C, H, W]` and `[B, D, H, W]`. The result is a scalar.

    Let the rows of A and B be the normalised channels. Then sum_ab <A_a, B_b>^2 equals both |A B^T|^2 and
    <A^T A, B^T B>. The second form turns the three kernels into one difference of position-by-position
    matrices; it is used where it is cheaper. The gradient is computed together with the value.
    """
    a, b = f_s.flatten(2), f_t.flatten(2)
    (batch, c, positions), d = a.shape, b.shape[1]
    form = by_positions if positions * (c + d) < c * c + c * d + d * d else by_channels
    if a.is_cuda:
        value, gradient = form(a.detach(), b.detach())
    else:  # a few images at a time, so that their products stay in the CPU's caches
        images = max(1, CACHED // (max(c, d) * max(c, d, positions)))
        chunks = zip(a.detach().split(images), b.detach().split(images), strict=True)
        parts = [form(chunk_a, chunk_b) for chunk_a, chunk_b in chunks]
        value, gradient = torch.stack([v for v, _ in parts]).sum(), torch.cat([g for _, g in parts])
    return with_gradient(a, value / batch, gradient.div_(batch))


@torch.no_grad()
def by_channels(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the discrepancy summed over the images, and its gradient with respect to `a`, from |A B^T|^2.

    a, b: `[B, C, P]` and `[B, D, P]`, P positions. The gradient is `[B, C, P]`.

    The products of channels are normalised instead of the maps, because they are smaller. With r = 1 / |a_i|
    and g the gradient with respect to the normalised a_i, the gradient with respect to a_i is
    r (g - <g, r a_i> r a_i), and <g, r a_i> is a sum of products too.
    """
    c, d = a.shape[1], b.shape[1]
    aa, ab, bb = a @ a.mT, a @ b.mT, b @ b.mT
    (r_a, is_long), (r_b, _) = inverse_lengths(aa), inverse_lengths(bb)
    aa, ab, bb = aa * r_a * r_a.mT, ab * r_a * r_b.mT, bb * r_b * r_b.mT
    value = len(a) * (bb.square().mean() + aa.square().mean() - 2 * ab.square().mean())
    # g = w_aa @ (r_a a) + w_ab @ (r_b b), and `along` is <g, r a_i>. Rows no longer than LEAST have no such
    # part in their gradient: they are divided by a constant.
    w_aa, w_ab = 4 / (c * c) * aa, -4 / (c * d) * ab
    along = (w_aa * aa).sum(2, keepdim=True) + (w_ab * ab).sum(2, keepdim=True)
    w_a, w_b = w_aa * r_a * r_a.mT, w_ab * r_a * r_b.mT
    w_a.diagonal(dim1=1, dim2=2).sub_((along * r_a.square() * is_long)[:, :, 0])
    return value, torch.baddbmm(w_a @ a, w_b, b)


@torch.no_grad()
def by_positions(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same as `by_channels`, from <A^T A, B^T B>: cheaper for fewer positions than channels."""
    c, d = a.shape[1], b.shape[1]
    length = a.norm(dim=2, keepdim=True)
    is_long, r = length > LEAST, length.clamp_min(LEAST).reciprocal()
    a, b = a * r, F.normalize(b, dim=2)
    difference = torch.baddbmm(b.mT @ b, a.mT, a, beta=-1 / d, alpha=1 / c)
    g = a @ difference.mul(4 / c)
    along = (g * a).sum(2, keepdim=True) * is_long
    return difference.square().sum(), g.addcmul_(a, along, value=-1).mul_(r)


def inverse_lengths(products: Tensor) -> tuple[Tensor, Tensor]:
    """Return 1 / length of each row, and whether the row is longer than LEAST. Both `[B, C, 1]`.

    products: inner products of the rows with each other, `[B, C, C]`.
    """
    squares = products.diagonal(dim1=1, dim2=2)[:, :, None]
    return squares.clamp_min(LEAST**2).rsqrt(), squares > LEAST**2


class NST(Method):
    name = "nst"
    title = "NST"
    formula = (
        "CE + 50 sum_l (k(F_t, F_t) + k(F_s, F_s) - 2 k(F_s, F_t)), "
        "k = mean squared inner product of l2-normalised channels"
    )
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
        if not self.is_active("nst"):
            return {}
        pairs = pair_stages(step.student.stages, step.teacher.stages)
        return {"nst": torch.stack([discrepancy(*match_spatial(f_s, f_t)) for f_s, f_t in pairs]).sum()}
