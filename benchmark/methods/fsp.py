"""Flow of the solution procedure (FSP): pre-train the student to relate consecutive maps as the teacher does.

Initialisation stage (30 epochs):

    L_init = sum_i mean((G_i(student) - G_i(teacher))^2)
    G_i = (1 / HW) * sum over positions of F_i F_{i+1}^T

- F_i: maps of a network, the stem first and then the stages, `[B, C_i, H, W]` (B images). F_i and F_{i+1}
  are brought to the smaller of their two sizes by average pooling.
- G_i: FSP matrices, `[B, C_i, C_{i+1}]`.

Main stage: cross-entropy alone, L = ce * CE(z_s, y).

Modules: none. The initialisation stage trains the student's stem and stages.

Which pairs: the matrices of both networks must have the same shape, so all their maps must have equal
numbers of channels. wrn_40_2 -> wrn_40_1 and all pairs of different architectures are N/A.

Differences between paper and code: the CRD benchmark's scripts pass `-b 50` for the main stage, which has
no effect.

Constants: RepDistiller distiller_zoo/FSP.py, helper/pretrain.py, train_student.py (30 epochs).

Paper: Yim, Joo, Bae, Kim: A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and
Transfer Learning. CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import match_spatial
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param

if TYPE_CHECKING:
    from models import NetInfo, Network


def flow(first: Tensor, second: Tensor) -> Tensor:
    """Return the FSP matrices of two maps: `[B, C, H, W]`, `[B, D, h, w]` -> `[B, C, D]`."""
    first, second = match_spatial(first, second)
    positions = first.shape[-1] * first.shape[-2]
    return torch.bmm(first.flatten(2), second.flatten(2).transpose(1, 2)) / positions


def flow_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """L_init: the maps of both networks (stem and stages, `[B, C, H, W]` each) -> scalar."""
    pairs = zip(student, student[1:], teacher, teacher[1:], strict=False)
    return torch.stack([F.mse_loss(flow(s, s_next), flow(t, t_next)) for s, s_next, t, t_next in pairs]).sum()


@dataclass(frozen=True, kw_only=True)
class FSPConfig(MethodConfig):
    init_weight: float = param(
        1.0, "weight of the initialisation loss", "RepDistiller helper/pretrain.py, unweighted sum"
    )


class FSP(Method):
    name = "fsp"
    title = "FSP"
    formula = "initialisation: sum_i MSE(G_i^s, G_i^t), G_i = F_i F_{i+1}^T / HW; then CE alone"
    paper = "Yim et al., A Gift from Knowledge Distillation, CVPR 2017"
    bibtex = """@inproceedings{yim2017gift,
  title     = {A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and
               Transfer Learning},
  author    = {Yim, Junho and Joo, Donggyu and Bae, Jihoon and Kim, Junmo},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year      = {2017}
}"""
    init_epochs = 30
    Config = FSPConfig

    @classmethod
    def skip(cls, config: FSPConfig, student: NetInfo | None, teacher: NetInfo | None) -> str | None:
        if student is None or teacher is None:
            return None
        student_channels, teacher_channels = (
            "-".join(str(shape[0]) for shape in (info.stem_shape, *info.stage_shapes))
            for info in (student, teacher)
        )
        if student_channels == teacher_channels:
            return None
        return (
            f"FSP needs equal channel counts: {student.name} has {student_channels}, "
            f"{teacher.name} has {teacher_channels}"
        )

    @classmethod
    def init_needs(cls, config: FSPConfig) -> Needs:
        return Needs.of("stem stages", "stem stages")

    def init_modules(self, student: Network | None) -> Iterable[nn.Module]:
        return [] if student is None else student.feature_modules()

    def init_loss(self, step: Step) -> Terms:
        return {"fsp": self.config.init_weight * flow_loss(step.student.maps, step.teacher.maps)}
