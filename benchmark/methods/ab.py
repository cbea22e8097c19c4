"""Activation boundaries (AB): pre-train the student so that its neurons fire where the teacher's do.

Initialisation stage (30 epochs):

    L_init = 3/1000 * sum_{i=0}^{n-1} 2^(i-n+1) * D(r_i(s_i), t_i) / B
    D(s, t) = sum over elements of  (s + m)^2 [s > -m and t <= 0]  +  (s - m)^2 [s <= m and t > 0]

- s_i, t_i: pre-activations of stage i of student and teacher, `[B, C, H, W]` (B images).
- n: number of stages. The last one has weight 1, the one before it 1/2, and so on.
- r_i: connector of stage i.
- m: margin, 1.
- [.]: 1 where the condition holds, else 0.

Main stage: cross-entropy alone, L = ce * CE(z_s, y).

Modules: one connector for each stage. It is a convolution and a batch norm (FitNet's regressor without its
ReLU) where the channels or the map sizes of student and teacher differ, and the identity elsewhere. The
initialisation stage trains the connectors and the student's stem and stages, in train mode, with a new SGD
optimiser at the student's learning rate, which stays constant. The rest of the student is not trained in
this stage.

Differences between paper and code: the CRD benchmark's scripts pass `-b 1` for the main stage, but their
code sets the AB loss to 0 there. The main stage of this file therefore has no AB term and no such weight.

Constants: RepDistiller distiller_zoo/AB.py, helper/pretrain.py, train_student.py (`--distill abound`, 30
epochs).

Paper: Heo, Lee, Yun, Choi: Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden
Neurons. AAAI 2019, arXiv 1811.03233.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from benchmark.methods._common import build_regressor, no_regressor_reason, pair_stages, require_networks
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

if TYPE_CHECKING:
    from models import NetInfo, Network


def boundary_loss(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Sum of squared distances to the margin on the teacher's side. Two tensors of one shape -> scalar."""
    inactive = (student + margin).square() * ((student > -margin) & (teacher <= 0))
    active = (student - margin).square() * ((student <= margin) & (teacher > 0))
    return (inactive + active).sum()


@dataclass(frozen=True, kw_only=True)
class ABConfig(MethodConfig):
    init_weight: float = param(
        0.003, "weight of the initialisation loss", "RepDistiller helper/pretrain.py, loss / bsz / 1000 * 3"
    )
    margin: float = param(
        1.0, "margin m of the activation boundary", "RepDistiller distiller_zoo/AB.py, margin 1.0"
    )


class AB(Method):
    name = "ab"
    title = "AB"
    formula = (
        "initialisation: margin loss on the signs of pre-activations, 3/1000 sum_i 2^(i-n+1) L_i / B; "
        "then CE alone"
    )
    paper = (
        "Heo et al., Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons, "
        "AAAI 2019"
    )
    bibtex = """@inproceedings{heo2019knowledge,
  title     = {Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons},
  author    = {Heo, Byeongho and Lee, Minsik and Yun, Sangdoo and Choi, Jin Young},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2019}
}"""
    init_epochs = 30
    Config = ABConfig

    @classmethod
    def skip(cls, config: ABConfig, student: NetInfo | None, teacher: NetInfo | None) -> str | None:
        if student is None or teacher is None:
            return None
        for s, t in pair_stages(student.stage_shapes, teacher.stage_shapes):
            if s != t and (reason := no_regressor_reason(s, t)):
                return f"AB has {reason}"
        return None

    @classmethod
    def init_needs(cls, config: ABConfig) -> Needs:
        return Needs.of("preacts", "preacts")

    def __init__(self, config: ABConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = require_networks(context.student, context.teacher)
        pairs = pair_stages(student.stage_shapes, teacher.stage_shapes)
        self.connectors = nn.ModuleList(
            nn.Identity() if s == t else build_regressor(s, t, relu=False) for s, t in pairs
        )

    def init_modules(self, student: Network | None) -> Iterable[nn.Module]:
        return [*(student.feature_modules() if student is not None else ()), self.connectors]

    def init_loss(self, step: Step) -> Terms:
        n = len(self.connectors)
        stages = zip(self.connectors, step.student.preacts, step.teacher.preacts, strict=False)
        losses = [
            2.0 ** (i - n + 1) * boundary_loss(connector(s), t, self.config.margin)
            for i, (connector, s, t) in enumerate(stages)
        ]
        return {"ab": self.config.init_weight * torch.stack(losses).sum() / len(step.student.preacts[0])}

    def after_init(self) -> None:
        """Freeze the connectors, which keeps them out of the main stage's optimiser."""
        self.connectors.requires_grad_(False)
