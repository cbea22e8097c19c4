"""VID: variational information distillation. A Gaussian around a function of the student's map explains the teacher's.

    L = ce * CE + weight * sum_l mean(0.5 * ((mu_l(F_s^l) - F_t^l)^2 / s_l^2 + log s_l^2))

over the stages, the larger map adaptive-average-pooled to the smaller. mu_l: three 1x1 convolutions without bias (s -> t -> t -> t
channels), ReLU between; s_l^2 = softplus(rho_l) + 1e-5, one for each of the teacher's channels. Both are trained with the student.

Ahn, Hu, Damianou, Lawrence, Dai: Variational Information Distillation for Knowledge Transfer. CVPR 2019, arXiv 1904.05835, eq. 4 to 6.
Constants: RepDistiller distiller_zoo/VID.py (variance 5 at the start), scripts/run_cifar_distill.sh (`-a 0 -b 1`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from benchmark.methods._common import check_range, known, match_spatial, pairs_of_stages
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

EPS = 1e-5  # the least variance, as in RepDistiller distiller_zoo/VID.py


@dataclass(frozen=True, kw_only=True)
class VIDConfig(MethodConfig):
    weight: float = param(
        1.0, "weight of the variational term", "RepDistiller run_cifar_distill.sh --distill vid -b 1"
    )
    variance: float = param(
        5.0, "variance of every channel at the start", "RepDistiller distiller_zoo/VID.py init_pred_var"
    )

    def __post_init__(self) -> None:
        check_range("vid.variance", self.variance, EPS, above=True)


class _Squares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mu: Tensor, f_t: Tensor) -> Tensor:
        gap = mu - f_t
        ctx.save_for_backward(gap)
        return gap.square().mean((0, 2, 3))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gap,) = ctx.saved_tensors
        return gap * (grad * (2 * len(grad) / gap.numel())).view(1, -1, 1, 1), None


def squares(mu: Tensor, f_t: Tensor) -> Tensor:
    """`[B, C, H, W]` twice -> `[C]`: mean squared difference; its gradient, to mu alone, is one pass over the map."""
    out: Tensor = _Squares.apply(mu, f_t)
    return out


class Gaussian(nn.Module):
    """The log-likelihood of the teacher's map given the student's: channels c_s -> c_t."""

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
        """Negative log-likelihood without its constant, mean over all elements. mu: `self.mu` of the student's map, `[B, c_t, H, W]`, as f_t."""
        variance = F.softplus(self.rho) + EPS
        # a variance is the same in every element of its channel: divided is the channel's mean, and the mean of log s^2 is that over channels
        return 0.5 * ((squares(mu, f_t) / variance).mean() + variance.log().mean())


class VID(Method):
    name = "vid"
    title = "VID"
    formula = "CE + sum_l mean(0.5 ((mu_l(F_s^l) - F_t^l)^2 / s_l^2 + log s_l^2)), mu_l, s_l trained with the student"
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
        student, teacher = known(context.student, context.teacher)
        shapes = pairs_of_stages(student.stage_shapes, teacher.stage_shapes)
        self.gaussians = nn.ModuleList(Gaussian(s[0], t[0], config.variance) for s, t in shapes)

    def loss(self, step: Step) -> Terms:
        if not self.active("vid"):
            return {}
        pairs = pairs_of_stages(step.student.stages, step.teacher.stages)
        parts = []
        for gaussian, (f_s, f_t) in zip(self.gaussians, pairs, strict=True):
            f_s, f_t = match_spatial(f_s, f_t)
            assert isinstance(gaussian, Gaussian)
            parts.append(gaussian(self.through(gaussian.mu, f_s), f_t))
        return {"vid": torch.stack(parts).sum()}
