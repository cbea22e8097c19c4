"""Stage A of SSKD: train the projection head on the frozen teacher, once for each teacher.

    L = weight * CE(A, c),   A_rj = cos(p(f_t(rotated image r)), p(f_t(image j))),   c_r = r mod B

- A: cosines between rotated and unrotated images, `[3B, B]`; they are the logits, without a temperature.
- c: the correct columns, `[3B]`; row r shows image r mod B, rotated.
- f_t: the teacher's embedding (frozen, in eval mode), of size d.

Each of the B images of a batch is used unrotated and rotated by 90, 180 and 270 degrees. The head learns to
tell which image of the batch a rotated image shows.

The run has a teacher and no student. Its result is this method's state dict, which `sskd` requires; all
students of the teacher share it.

Modules: the projection head p, Linear(d, d)-ReLU-Linear(d, d).

Constants: 60 epochs; the learning rate is multiplied by 0.1 after 30 and 45 (SSKD student.py,
`--t-epoch 60 --t-lr 0.05 --t-milestones 30 45`).

Paper: Xu, Liu, Li, Loy: Knowledge Distillation Meets Self-Supervision. ECCV 2020, arXiv 2006.07114.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._rotations import VIEWS, matching_columns, similarities
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

if TYPE_CHECKING:
    from models import NetInfo


def projection_head(size: int) -> nn.Sequential:
    """Return a projection head, Linear(d, d)-ReLU-Linear(d, d), which maps `[n, d]` to `[n, d]`."""
    return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))


@dataclass(frozen=True, kw_only=True)
class SSKDHeadConfig(MethodConfig):
    weight: float = param(1.0, "weight of the contrastive loss, the only term", "SSKD student.py")


class SSKDHead(Method):
    name = "sskd_head"
    title = "SSKD (teacher's head)"
    formula = (
        "CE over the 3B x B cosines of p(f_t) between rotated and unrotated images, "
        "true column: the image itself"
    )
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
            return "sskd_head trains the teacher's projection head, no student; use a pair `teacher:none`"
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
        if not self.is_active("sskd_head"):
            return {}
        normal: Tensor = self.head(step.teacher.embedding)
        rotated: Tensor = self.head(step.teachers["rotated"].embedding)
        cosines = similarities(rotated, normal)
        return {"sskd_head": F.cross_entropy(cosines, matching_columns(normal.shape[0], normal.device))}
