"""Stage A of SSKD: the projection head on the frozen teacher, trained once for a teacher, shared by its students.

    L = cross-entropy of the 3B x B cosines  cos(p(f_t(turned image r)), p(f_t(image j)))  with the true column r % B

No temperature: the cosines themselves are the logits. f_t = the teacher's embedding (eval mode, frozen); p is
Linear(d, d)-ReLU-Linear(d, d), d the embedding's size. Of a batch of B images each is there unturned and
turned by 90, 180 and 270 degrees; the head learns to tell from a turned image which image of the batch it was. 60
epochs, learning rate x0.1 after 30 and 45.

This run has a teacher and no student. What it leaves, this method's state dict, is what `sskd` asks for.

Xu, Liu, Li, Loy: Knowledge Distillation Meets Self-Supervision. ECCV 2020, arXiv 2006.07114.
Constants: SSKD student.py (`--t-epoch 60 --t-lr 0.05 --t-milestones 30 45`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._rotations import VIEWS, own_columns, similarities
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

if TYPE_CHECKING:
    from models import NetInfo


def projection_head(size: int) -> nn.Sequential:
    """Linear(d, d)-ReLU-Linear(d, d): the head of the teacher and that of the student, `[n, d]` -> `[n, d]`."""
    return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))


@dataclass(frozen=True, kw_only=True)
class SSKDHeadConfig(MethodConfig):
    weight: float = param(1.0, "weight of the contrastive loss, the only term", "SSKD student.py")


class SSKDHead(Method):
    name = "sskd_head"
    title = "SSKD (teacher's head)"
    formula = "CE over the 3B x B cosines of p(f_t) between turned and unturned images, true column: the image itself"
    paper = "Xu et al., Knowledge Distillation Meets Self-Supervision, ECCV 2020"
    bibtex = """@inproceedings{xu2020knowledge,
  title     = {Knowledge Distillation Meets Self-Supervision},
  author    = {Xu, Guodong and Liu, Ziwei and Li, Xiaoxiao and Loy, Chen Change},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2020}
}"""
    trains_student = False
    Config = SSKDHeadConfig

    @classmethod
    def skip(cls, config: SSKDHeadConfig, student: NetInfo | None, teacher: NetInfo | None) -> str | None:
        if student is not None:
            return "trains the teacher's head and no student: only the pair teacher:none can be done"
        return None

    @classmethod
    def needs(cls, config: SSKDHeadConfig) -> Needs:
        return Needs.of("", "embedding", VIEWS)

    @classmethod
    def schedule(cls) -> dict[str, Any]:
        return {"epochs": 60, "milestones": (30, 45)}

    def __init__(self, config: SSKDHeadConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        if context.teacher is None:
            raise ValueError("sskd_head needs a teacher")
        self.head = projection_head(context.teacher.embedding_dim)

    def loss(self, step: Step) -> Terms:
        if not self.active("sskd_head"):
            return {}
        normal: Tensor = self.head(step.teacher.embedding)
        rotated: Tensor = self.head(step.teachers["rotated"].embedding)
        cosines = similarities(rotated, normal)
        return {"sskd_head": F.cross_entropy(cosines, own_columns(normal.shape[0], normal.device))}
