"""Losses as the papers' code computes them, to compare the values and times of our faster forms with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.methods import crd, nst, pkt, rkd, sp

Loss = Callable[[Tensor, Tensor], Tensor]


def nst_plain(f_s: Tensor, f_t: Tensor) -> Tensor:
    """Compute NST from products `[B, C, D, HW]` of all channel pairs (RepDistiller distiller_zoo/NST.py)."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a[:, :, None, :] * b[:, None, :, :]).sum(-1).pow(2).mean()

    a, b = (F.normalize(f.reshape(f.shape[0], f.shape[1], -1), dim=2) for f in (f_s, f_t))
    return kernel(b, b) + kernel(a, a) - 2 * kernel(a, b)


def rkd_plain(f_s: Tensor, f_t: Tensor) -> Tensor:
    """Compute RKD: distances from inner products, boolean masks, angles from normalised differences.

    Source: RepDistiller distiller_zoo/RKD.py.
    """

    def distances(e: Tensor) -> Tensor:
        square = e.pow(2).sum(1)
        d = (square[:, None] + square[None, :] - 2 * e @ e.t()).clamp(min=1e-12).sqrt().clone()
        d[range(len(e)), range(len(e))] = 0
        return d / d[d > 0].mean()

    def angles(e: Tensor) -> Tensor:
        unit = F.normalize(e[None, :] - e[:, None], p=2, dim=2)
        return torch.bmm(unit, unit.transpose(1, 2)).view(-1)

    with torch.no_grad():
        d_t, a_t = distances(f_t), angles(f_t)
    return 25 * F.smooth_l1_loss(distances(f_s), d_t) + 50 * F.smooth_l1_loss(angles(f_s), a_t)


def rkd_ours(f_s: Tensor, f_t: Tensor) -> Tensor:
    """Compute RKD with the functions of benchmark/methods/rkd.py."""
    p_s, p_t = rkd.products(f_s), rkd.products(f_t)
    d_s, d_t = rkd.distances(p_s), rkd.distances(p_t)
    distance = F.smooth_l1_loss(rkd.relative_distances(d_s), rkd.relative_distances(d_t))
    return (25 * distance + 50 * F.smooth_l1_loss(rkd.angles(p_s, d_s), rkd.angles(p_t, d_t))).float()


def pkt_plain(f_s: Tensor, f_t: Tensor) -> Tensor:
    """Compute PKT as RepDistiller does (distiller_zoo/PKT.py)."""
    eps = 1e-7

    def model(e: Tensor) -> Tensor:
        e = e / (e.pow(2).sum(1, keepdim=True).sqrt() + eps)
        similarity = (torch.mm(e, e.transpose(0, 1)) + 1.0) / 2.0
        return similarity / similarity.sum(1, keepdim=True)

    q, p = model(f_s), model(f_t)
    return (p * torch.log((p + eps) / (q + eps))).mean()


def pkt_ours(f_s: Tensor, f_t: Tensor) -> Tensor:
    """Compute PKT with the functions of benchmark/methods/pkt.py."""
    q, p = pkt.neighbourhoods(f_s), pkt.neighbourhoods(f_t)
    return (p * ((p + pkt.EPS) / (q + pkt.EPS)).log()).mean()


def sp_plain(f_s: Tensor, f_t: Tensor) -> Tensor:
    """Compute SP from maps that are always flattened in NCHW order (RepDistiller distiller_zoo/SP.py)."""
    a, b = f_s.reshape(len(f_s), -1), f_t.reshape(len(f_t), -1)
    g_s, g_t = F.normalize(a @ a.t()), F.normalize(b @ b.t())
    return (g_t - g_s).square().sum() / len(f_s) ** 2


def sp_ours(f_s: Tensor, f_t: Tensor) -> Tensor:
    """Compute SP with the functions of benchmark/methods/sp.py."""
    return F.mse_loss(sp.similarities(f_s), sp.similarities(f_t))


@dataclass(frozen=True)
class LossForms:
    """Two forms of a loss that have the same value."""

    name: str
    ours: Loss
    plain: Loss
    inputs: Callable[[], tuple[Tensor, Tensor]]
    """Make random features of student and teacher, in the sizes of a step of 64 CIFAR images."""


def _maps(channels: int, side: int) -> Callable[[], tuple[Tensor, Tensor]]:
    def make() -> tuple[Tensor, Tensor]:
        a, b = (
            torch.randn(64, channels, side, side).contiguous(memory_format=torch.channels_last)
            for _ in range(2)
        )
        return a.relu(), b.relu()

    return make


def _vectors(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(64, n).relu(), torch.randn(64, n).relu()


def crd_forms(rows: int = 50_000, negatives: int = 16_384) -> LossForms:
    """CRD's scores, squared and averaged so that a gradient flows to the anchors.

    The memory bank takes the place of the teacher's features.
    """
    index = torch.randint(rows, (64, negatives + 1), generator=torch.Generator().manual_seed(0))
    return LossForms(
        "crd: product with the bank, then gather",
        lambda a, bank: crd.scores(a, bank, index).square().mean(),
        lambda a, bank: crd.scores_by_rows(a, bank, index).square().mean(),
        lambda: (F.normalize(torch.randn(64, 128), dim=1), F.normalize(torch.randn(rows, 128), dim=1)),
    )


def loss_forms() -> list[LossForms]:
    """Return all losses with two forms. Maps are as large as wrn_40_2's stages, vectors as its embedding."""
    return [
        crd_forms(),
        LossForms("nst: batched product, 32 channels of 32x32", nst.discrepancy, nst_plain, _maps(32, 32)),
        LossForms("nst: batched product, 128 channels of 8x8", nst.discrepancy, nst_plain, _maps(128, 8)),
        LossForms("rkd: from inner products, no boolean masks", rkd_ours, rkd_plain, lambda: _vectors(128)),
        LossForms("pkt", pkt_ours, pkt_plain, lambda: _vectors(128)),
        LossForms("sp: flattened in memory order", sp_ours, sp_plain, _maps(128, 8)),
    ]


def value_and_gradient(loss: Loss, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss, and its gradient with respect to the student's features. The inputs stay unchanged."""
    leaf = student.detach().clone().requires_grad_(True)
    value = loss(leaf, teacher)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient
