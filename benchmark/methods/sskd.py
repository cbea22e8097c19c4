"""SSKD: what a self-supervised task on turned images makes of the teacher, handed on beside its outputs.

    L = ce * CE(z_s, y)                                            unturned images
      + kd * T^2   * KL(softmax(z_t / T)  || softmax(z_s / T))       unturned images, T = 4
      + tf * T^2   * KL(softmax(z'_t / T) || softmax(z'_s / T))      turned images, T = 4
      + ss * tau^2 * KL(softmax(A_t / tau) || softmax(A_s / tau))    rows of the similarities, tau = 0.5

A_s, A_t = 3B x B cosines of p(f) between turned and unturned images, f = the embedding, p = the projection head
Linear(d, d)-ReLU-Linear(d, d): the teacher's from stage A (`sskd_head`, frozen here), the student's trained with it.
The student runs all 4B images in one train-mode batch. Each KL is summed over columns and divided by the number of
rows kept.

Selection of the turned images' rows, by the rank of the truth in the *teacher's* row (of the label among its outputs
for `tf`, of the image's own column among its cosines for `ss`): all rows where the truth ranks first, and of the W
others the best-ranked floor(ratio * W), with ratio 1.0 for `tf` (so every row) and 0.75 for `ss`.

Which is 2.7 and which 10.0: the released code, which is the default here, weighs the turned outputs (`tf`) with 2.7
and the similarities (`ss`) with 10.0. The paper, as the authors' blog quotes it, has lambda_3 = 2.7 on the
similarities (L_ss) and lambda_4 = 10.0 on the turned outputs (L_T): `sskd.tf=10.0 sskd.ss=2.7` is that reading. Also:
the paper compares four pretext tasks, the code (and this file) has the rotations only; its users report 0.2-0.4
points less than the paper prints.

In a combination the term `kd` is off by default, so that `sskd+kd` has KD once (at KD's weight 1, cross-entropy 1)
and not twice; `sskd.kd=0.9` brings it back.

Xu, Liu, Li, Loy: Knowledge Distillation Meets Self-Supervision. ECCV 2020, arXiv 2006.07114.
Constants: SSKD student.py and its command lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.data.views import NORMAL, ROTATED
from benchmark.errors import InputError
from benchmark.methods._common import check_range
from benchmark.methods._rotations import (
    kl_of_rows,
    mean_of_selected,
    own_columns,
    rank_of_truth,
    selected,
    similarities,
)
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param
from benchmark.methods.kd import kd_loss
from benchmark.methods.sskd_head import projection_head


@dataclass(frozen=True, kw_only=True)
class SSKDConfig(MethodConfig):
    ce: float = param(
        0.1, "weight of the cross-entropy (1.0 in a combination)", "SSKD student.py --ce-weight 0.1"
    )
    kd: float = param(
        0.9, "weight of KD on unturned images (0.0 in a combination)", "SSKD student.py --kd-weight 0.9"
    )
    tf: float = param(
        2.7, "weight of KD on the turned images", "SSKD student.py --tf-weight 2.7 (paper: 10.0)"
    )
    ss: float = param(10.0, "weight of the similarities' KL", "SSKD student.py --ss-weight 10.0 (paper: 2.7)")
    kd_temperature: float = param(4.0, "T on the unturned images", "SSKD student.py --kd-T 4.0")
    tf_temperature: float = param(4.0, "T on the turned images", "SSKD student.py --tf-T 4.0")
    ss_temperature: float = param(0.5, "tau of the similarities", "SSKD student.py --ss-T 0.5")
    tf_ratio: float = param(1.0, "kept share of the wrong rows of `tf`", "SSKD student.py --ratio-tf 1.0")
    ss_ratio: float = param(0.75, "kept share of the wrong rows of `ss`", "SSKD student.py --ratio-ss 0.75")

    def __post_init__(self) -> None:
        for name in ("kd", "tf", "ss"):
            check_range(f"sskd.{name}", getattr(self, name), 0.0)
            check_range(f"sskd.{name}_temperature", getattr(self, f"{name}_temperature"), 0.0, above=True)
        for name in ("tf_ratio", "ss_ratio"):
            check_range(f"sskd.{name}", getattr(self, name), 0.0, 1.0)


class SSKD(Method):
    name = "sskd"
    title = "SSKD"
    formula = (
        "0.1 CE + 0.9 T^2 KL(z_t || z_s) + 2.7 T^2 KL(z'_t || z'_s) [turned] + 10 tau^2 KL(A_t || A_s) [3B x B "
        "cosines], T = 4, tau = 0.5"
    )
    paper = "Xu et al., Knowledge Distillation Meets Self-Supervision, ECCV 2020"
    bibtex = """@inproceedings{xu2020knowledge,
  title     = {Knowledge Distillation Meets Self-Supervision},
  author    = {Xu, Guodong and Liu, Ziwei and Li, Xiaoxiao and Loy, Chen Change},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2020}
}"""
    combined: ClassVar[Mapping[str, Any]] = {"ce": 1.0, "kd": 0.0}
    Config = SSKDConfig

    @classmethod
    def needs(cls, config: SSKDConfig) -> Needs:
        outputs, turned = config.kd or config.tf, config.tf or config.ss
        teacher = ({"logits"} if outputs else set()) | ({"embedding"} if config.ss else set())
        passes = ((NORMAL,) if config.kd or config.ss else ()) + ((ROTATED,) if turned else ())
        return Needs(
            student=frozenset({"logits", "embedding"} if config.ss else {"logits"}),
            teacher=frozenset(teacher),
            views=(NORMAL, ROTATED) if turned else (NORMAL,),
            teacher_views=passes,
        )

    @classmethod
    def requires(cls, config: SSKDConfig) -> tuple[str, ...]:
        return ("sskd_head",) if config.ss else ()

    def __init__(self, config: SSKDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        if config.ss:
            if context.student is None or context.teacher is None:
                raise ValueError("sskd needs a student and a teacher")
            self.student_head = projection_head(context.student.embedding_dim)
            self.teacher_head = _trained_head(context.teacher.embedding_dim, context.artifacts)

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        return {"sskd_kd": config.kd, "sskd_tf": config.tf, "sskd_ss": config.ss}

    def loss(self, step: Step) -> Terms:
        c: SSKDConfig = self.config
        terms: Terms = {}
        if self.active("sskd_kd"):
            terms["sskd_kd"] = kd_loss(step.student.logits, step.teacher.logits, c.kd_temperature)
        if self.active("sskd_tf"):
            student, teacher = step.students["rotated"].logits, step.teachers["rotated"].logits
            truth = step.labels.repeat(ROTATED.copies)
            terms["sskd_tf"] = _selected_kl(student, teacher, truth, c.tf_temperature, c.tf_ratio)
        if self.active("sskd_ss"):
            terms["sskd_ss"] = self._similarity_loss(step)
        return terms

    def _similarity_loss(self, step: Step) -> Tensor:
        c: SSKDConfig = self.config
        with torch.no_grad():
            teacher = similarities(
                self.teacher_head(step.teachers["rotated"].embedding),
                self.teacher_head(step.teacher.embedding),
            )
        student = similarities(
            self.student_head(step.students["rotated"].embedding), self.student_head(step.student.embedding)
        )
        return _selected_kl(
            student, teacher, own_columns(teacher.shape[1], teacher.device), c.ss_temperature, c.ss_ratio
        )


def _selected_kl(student: Tensor, teacher: Tensor, truth: Tensor, temperature: float, ratio: float) -> Tensor:
    """`T^2 * KL` of the rows that the rank of `truth` (int64 `[R]`) in `teacher` selects; both `[R, C]` -> scalar."""
    rows = kl_of_rows(student, teacher, temperature)
    if ratio == 1.0:
        return rows.mean() * temperature**2
    return mean_of_selected(rows, selected(rank_of_truth(teacher, truth), ratio)) * temperature**2


def _trained_head(size: int, artifacts: Mapping[str, Mapping[str, Tensor]]) -> nn.Sequential:
    """The teacher's head as stage A left it, frozen. `InputError` if it is not there or belongs to another teacher."""
    if not artifacts.get("sskd_head"):
        raise InputError(
            "sskd: the teacher's head is missing; allowed: a finished run of sskd_head on the same teacher"
        )
    head = projection_head(size)
    try:
        head.load_state_dict(
            {key.removeprefix("head."): value for key, value in artifacts["sskd_head"].items()}
        )
    except RuntimeError as error:
        raise InputError(
            f"sskd: the head left by sskd_head does not fit an embedding of {size}; allowed: that of the same teacher"
        ) from error
    return head.requires_grad_(False)
