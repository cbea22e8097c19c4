"""FitNet: regress one hidden map of the teacher (the hint) from the student's map of the same stage.

    L = ce * CE(z_s, y) + weight * mean((r(F_s) - F_t)^2)

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- F_s, F_t: maps of stage `layer` of student and teacher (0 is the stem), `[B, channels, H, W]`.
- r: regressor.

The mean runs over all elements.

Modules: the regressor r, a convolution that matches size and channels, batch norm and ReLU. It is trained
with the student.

Differences between paper and code: everything is trained in one stage, as in the code that produced the
published tables. The paper first trains the student up to the hint layer, then the whole student with KD.

Constants: RepDistiller scripts/run_cifar_distill.sh (`--distill hint -a 0 -b 100`), train_student.py
(`--hint_layer 2`).

Paper: Romero, Ballas, Kahou, Chassang, Gatta, Bengio: FitNets: Hints for Thin Deep Nets. ICLR 2015,
arXiv 1412.6550.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F

from benchmark.methods._common import Shape, build_regressor, no_regressor_reason, require_networks
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

if TYPE_CHECKING:
    from models import NetInfo


@dataclass(frozen=True, kw_only=True)
class FitNetConfig(MethodConfig):
    weight: float = param(
        100.0, "weight of the hint term", "RepDistiller run_cifar_distill.sh --distill hint -b 100"
    )
    layer: int = param(
        2,
        "stage of the hint; 0: stem, 1: first stage, and so on",
        "RepDistiller train_student.py --hint_layer 2",
        allowed=(0, 1, 2, 3, 4),
    )


def _shapes(info: NetInfo) -> tuple[Shape, ...]:
    """Shapes (C, H, W) of a network's maps, indexed by `layer`."""
    return (info.stem_shape, *info.stage_shapes)


class FitNet(Method):
    name = "fitnet"
    title = "FitNet"
    formula = (
        "CE + 100 mean((r(F_s) - F_t)^2) at the 2nd stage; r = conv + BN + ReLU, trained with the student"
    )
    paper = "Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015"
    bibtex = """@inproceedings{romero2015fitnets,
  title     = {{FitNets}: Hints for Thin Deep Nets},
  author    = {Romero, Adriana and Ballas, Nicolas and Kahou, Samira Ebrahimi and Chassang, Antoine and
               Gatta, Carlo and Bengio, Yoshua},
  booktitle = {International Conference on Learning Representations},
  year      = {2015}
}"""
    Config = FitNetConfig

    @classmethod
    def skip(cls, config: FitNetConfig, student: NetInfo | None, teacher: NetInfo | None) -> str | None:
        if student is None or teacher is None:
            return None
        for info in (student, teacher):
            if config.layer >= len(_shapes(info)):
                stages = len(info.stage_shapes)
                return f"FitNet reads stage {config.layer}, but {info.name} has only {stages} stages"
        reason = no_regressor_reason(_shapes(student)[config.layer], _shapes(teacher)[config.layer])
        return reason and f"FitNet has {reason}"

    @classmethod
    def needs(cls, config: FitNetConfig) -> Needs:
        part = "stages" if config.layer else "stem"
        return Needs.of(f"{part} logits", part)

    def __init__(self, config: FitNetConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = require_networks(context.student, context.teacher)
        self.regressor = build_regressor(
            _shapes(student)[config.layer], _shapes(teacher)[config.layer], relu=True
        )

    def loss(self, step: Step) -> Terms:
        if not self.is_active("fitnet"):
            return {}
        layer = self.config.layer
        f_s = step.student.stages[layer - 1] if layer else step.student.stem
        f_t = step.teacher.stages[layer - 1] if layer else step.teacher.stem
        return {"fitnet": F.mse_loss(self.run_network(self.regressor, f_s), f_t)}
