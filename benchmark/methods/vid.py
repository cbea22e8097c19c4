"""Variational information distillation (VID): predict the teacher's maps with a trained Gaussian.

    L = ce * CE(z_s, y) + weight * sum over stages l of mean(0.5 * (e_l^2 / s_l^2 + log s_l^2))
    e_l = mu_l(F_s^l) - F_t^l

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- F_s^l, F_t^l: maps of stage l of student and teacher, `[B, c_s, H, W]` and `[B, c_t, H, W]`; the larger is
  adaptive-average-pooled to the size of the smaller.
- mu_l, s_l^2: mean and variance of the Gaussian that predicts the teacher's map, with one variance for each
  of the teacher's channels.

Modules: mu_l is three 1x1 convolutions without bias (c_s -> c_t -> c_t -> c_t channels) with ReLU between
them. s_l^2 = softplus(rho_l) + 1e-5. mu_l and rho_l train with the student and are dropped at test time.

Constants: weight = 1 (RepDistiller scripts/run_cifar_distill.sh, `-a 0 -b 1`); the variance starts at 5
(RepDistiller distiller_zoo/VID.py).

Paper: Ahn, Hu, Damianou, Lawrence, Dai: Variational Information Distillation for Knowledge Transfer. CVPR
2019, arXiv 1904.05835, eq. 4 to 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from benchmark.methods._common import check_range, match_spatial, pair_stages, require_networks
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

EPS = 1e-5  # smallest variance, as in RepDistiller distiller_zoo/VID.py


@dataclass(frozen=True, kw_only=True)
class VIDConfig(MethodConfig):
    weight: float = param(
        1.0, "weight of the variational term", "RepDistiller run_cifar_distill.sh --distill vid -b 1"
    )
    variance: float = param(
        5.0, "initial variance of every channel", "RepDistiller distiller_zoo/VID.py init_pred_var"
    )

    def __post_init__(self) -> None:
        check_range("vid.variance", self.variance, EPS, above=True)


class _Squares(torch.autograd.Function):
    """The mean squared difference of each channel; see `squares`."""

    @staticmethod
    def forward(ctx: Any, mu: Tensor, f_t: Tensor) -> Tensor:
        difference = mu - f_t
        ctx.save_for_backward(difference)
        return difference.square().mean((0, 2, 3))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference * (grad * (2 * len(grad) / difference.numel())).view(1, -1, 1, 1), None


def squares(mu: Tensor, f_t: Tensor) -> Tensor:
    """Return the mean squared difference of each channel. mu, f_t: `[B, C, H, W]` -> `[C]`.

    The gradient goes to mu only and takes one pass over the map.
    """
    out: Tensor = _Squares.apply(mu, f_t)
    return out


class Gaussian(nn.Module):
    """A Gaussian that predicts the teacher's map (c_t channels) from the student's (c_s channels)."""

    def __init__(self, c_s: int, c_t: int, variance: float) -> None:
        super().__init__()
        self.mu = nn.Sequential(
            nn.Conv2d(c_s, c_t, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(c_t, c_t, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(c_t, c_t, 1, bias=False),
        )
        self.rho = nn.Parameter(torch.full((c_t,), math.log(math.expm1(variance - EPS))))

    def forward(self, mu: Tensor, f_t: Tensor) -> Tensor:
        """Return the negative log-likelihood without its constant, averaged over all elements: a scalar.

        mu: `self.mu` of the student's map, `[B, c_t, H, W]`.
        f_t: the teacher's map, `[B, c_t, H, W]`.
        """
        variance = F.softplus(self.rho) + EPS
        # The variance is the same in the whole channel, so the channel means can be divided by it.
        return 0.5 * ((squares(mu, f_t) / variance).mean() + variance.log().mean())


class VID(Method):
    name = "vid"
    title = "VID"
    formula = (
        "CE + sum_l mean(0.5 ((mu_l(F_s^l) - F_t^l)^2 / s_l^2 + log s_l^2)), "
        "mu_l, s_l trained with the student"
    )
    paper = "Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR 2019"
    bibtex = """@inproceedings{ahn2019variational,
  title     = {Variational Information Distillation for Knowledge Transfer},
  author    = {Ahn, Sungsoo and Hu, Shell Xu and Damianou, Andreas and Lawrence, Neil D. and Dai, Zhenwen},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {9163--9171},
  year      = {2019}
}"""
    Config = VIDConfig

    @classmethod
    def needs(cls, config: VIDConfig) -> Needs:
        return Needs.of("stages logits", "stages")

    def __init__(self, config: VIDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = require_networks(context.student, context.teacher)
        shapes = pair_stages(student.stage_shapes, teacher.stage_shapes)
        self.gaussians = nn.ModuleList(Gaussian(s[0], t[0], config.variance) for s, t in shapes)

    def loss(self, step: Step) -> Terms:
        if not self.is_active("vid"):
            return {}
        pairs = pair_stages(step.student.stages, step.teacher.stages)
        parts = []
        for gaussian, (f_s, f_t) in zip(self.gaussians, pairs, strict=True):
            f_s, f_t = match_spatial(f_s, f_t)
            assert isinstance(gaussian, Gaussian)
            parts.append(gaussian(self.run_network(gaussian.mu, f_s), f_t))
        return {"vid": torch.stack(parts).sum()}
