"""Factor transfer (FT): a translator on the student's last map learns the teacher's factors.

Initialisation stage (30 epochs): the paraphraser, a convolutional auto-encoder of the teacher's last stage
map, learns to reconstruct this map. No student pass is made.

    L_init = mean((D(P(F_t)) - F_t)^2)

Main stage, with the paraphraser frozen:

    L = ce * CE(z_s, y) + weight * mean |Q(T(F_s)) - Q(P(F_t))|
    Q(F) = l2norm(vec(mean over channels of F^2))

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- F_s, F_t: maps of the last stage of student and teacher, `[B, channels, H, W]`.
- P, D: encoder and decoder of the paraphraser.
- T: translator.
- P(F_t), T(F_s): factors, with k times as many channels as F_t; the larger map is average-pooled to the size
  of the smaller.
- Q(F): attention map, a unit vector for each image, `[B, H*W]`.

Modules: P is three 3x3 convolutions (C -> C -> kC -> kC), each with a LeakyReLU of slope 0.1. D mirrors it
with transposed convolutions, and has a LeakyReLU after the last one too. T is the same as P, with batch
norms, from the student's channels; it is trained with the student.

Constants: RepDistiller distiller_zoo/FT.py, models/util.py (Paraphraser, Translator), train_student.py
(`--distill factor -b 200`, 30 epochs). The learning rate of the initialisation stage is 0.01 if the student
is a resnet or wrn, else the student's.

Paper: Kim, Park, Kwak: Paraphrasing Complex Network: Network Compression via Factor Transfer. NeurIPS 2018,
arXiv 1802.04977.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

from benchmark.methods._common import attention, check_range, match_spatial, require_networks
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param
from models.layers import Conv3x3

if TYPE_CHECKING:
    from models import Network

SLOPE = 0.1


def encoder(channels: int, factors: int, *, normed: bool) -> nn.Sequential:
    """Build P or, with batch norms (`normed`), T: `[B, channels, H, W]` -> `[B, factors, H, W]`."""
    layers: list[nn.Module] = []
    for c_in, c_out in ((channels, channels), (channels, factors), (factors, factors)):
        layers += [Conv3x3(c_in, c_out), *([nn.BatchNorm2d(c_out)] if normed else []), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


def decoder(channels: int, factors: int) -> nn.Sequential:
    """Build D: `[B, factors, H, W]` -> `[B, channels, H, W]`."""
    layers: list[nn.Module] = []
    for c_in, c_out in ((factors, factors), (factors, channels), (channels, channels)):
        layers += [nn.ConvTranspose2d(c_in, c_out, 3, padding=1), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


@dataclass(frozen=True, kw_only=True)
class FTConfig(MethodConfig):
    weight: float = param(
        200.0, "weight of the factor term", "RepDistiller run_cifar_distill.sh --distill factor -b 200"
    )
    k: float = param(
        0.5, "channels of the factors, as a multiple of the teacher's", "RepDistiller models/util.py, k = 0.5"
    )
    init_lr: float = param(
        0.01,
        "learning rate of the paraphraser if the student is a resnet or wrn",
        "RepDistiller train_student.py",
    )

    def __post_init__(self) -> None:
        check_range("ft.k", self.k, 0.0, above=True)
        check_range("ft.init_lr", self.init_lr, 0.0)


class FT(Method):
    name = "ft"
    title = "FT"
    formula = "initialisation: paraphraser (auto-encoder of F_t); then CE + 200 mean|Q(T(F_s)) - Q(P(F_t))|"
    paper = "Kim et al., Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018"
    bibtex = """@inproceedings{kim2018paraphrasing,
  title     = {Paraphrasing Complex Network: Network Compression via Factor Transfer},
  author    = {Kim, Jangho and Park, SeongUk and Kwak, Nojun},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2018}
}"""
    init_epochs = 30
    Config = FTConfig

    @classmethod
    def needs(cls, config: FTConfig) -> Needs:
        return Needs.of("stages logits", "stages")

    @classmethod
    def init_needs(cls, config: FTConfig) -> Needs:
        return Needs.of("", "stages")

    def __init__(self, config: FTConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = require_networks(context.student, context.teacher)
        c_s, c_t = student.stage_shapes[-1][0], teacher.stage_shapes[-1][0]
        factors = max(1, int(c_t * config.k))
        self.paraphraser = nn.ModuleDict(
            {"encoder": encoder(c_t, factors, normed=False), "decoder": decoder(c_t, factors)}
        )
        self.translator = encoder(c_s, factors, normed=True)

    def init_modules(self, student: Network | None) -> Iterable[nn.Module]:
        return [self.paraphraser]

    def init_lr(self, student_name: str, lr: float) -> float:
        return float(self.config.init_lr) if student_name.startswith(("resnet", "wrn")) else lr

    def init_loss(self, step: Step) -> Terms:
        f_t = step.teacher.stages[-1]
        factors = self.run_network(self.paraphraser["encoder"], f_t)
        return {"ft_reconstruction": F.mse_loss(self.run_network(self.paraphraser["decoder"], factors), f_t)}

    def after_init(self) -> None:
        """Freeze the paraphraser."""
        self.paraphraser.requires_grad_(False)

    def loss(self, step: Step) -> Terms:
        if not self.is_active("ft"):
            return {}
        factor_s = self.run_network(self.translator, step.student.stages[-1])
        factor_t = self.run_network(self.paraphraser["encoder"], step.teacher.stages[-1])
        factor_s, factor_t = match_spatial(factor_s, factor_t)
        return {"ft": (attention(factor_s) - attention(factor_t)).abs().mean()}
