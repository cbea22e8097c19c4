"""SSKD: distil the teacher's outputs and its answers to a self-supervised task on rotated images.

    L = ce * CE(z_s, y)                                              unrotated images
      + kd * T^2   * KL(softmax(z_t / T)  || softmax(z_s / T))       unrotated images, T = 4
      + tf * T^2   * KL(softmax(z'_t / T) || softmax(z'_s / T))      rotated images, T = 4
      + ss * tau^2 * KL(softmax(A_t / tau) || softmax(A_s / tau))    rows of the similarities, tau = 0.5

- z_s, z_t: logits of student and teacher on the B images of the batch, `[B, C]` (C classes).
- z'_s, z'_t: logits on the images rotated by 90, 180 and 270 degrees, `[3B, C]`.
- y: labels, `[B]`.
- A_s, A_t: cosines of p(f) between rotated and unrotated images, `[3B, B]`, with f the embedding and p a
  projection head.

The student runs all 4B images in one train-mode batch. Each KL is summed over the columns and divided by
the number of rows kept.

Selection of rows: for `tf` and `ss`, the rows of the rotated images are selected by the rank of the correct
column in the *teacher's* row. This is the label among its logits for `tf`, and the image that was rotated
among its cosines for `ss`. All rows in which it ranks first are kept. Of the W other rows, the
`floor(ratio * W)` best-ranked are kept, with ratio 1.0 for `tf` (so every row) and 0.75 for `ss`.

Modules: the projection heads p, Linear(d, d)-ReLU-Linear(d, d). The teacher's comes trained from stage A
(`sskd_head`) and is frozen here. The student's trains with the student and is dropped at test time.

Differences between paper and code: the released code weights the rotated outputs (`tf`) with 2.7 and the
similarities (`ss`) with 10.0; this is the default here. The paper, as quoted in the authors' blog, has
lambda_3 = 2.7 on the similarities (L_ss) and lambda_4 = 10.0 on the rotated outputs (L_T); set
`sskd.tf=10.0 sskd.ss=2.7` for this reading. The paper compares four pretext tasks; the code and this file
only have the rotations. Users of the code report 0.2 to 0.4 points less than the paper.

Constants: SSKD student.py and its command lines. In a combination the term `kd` is off by default, so that
`sskd+kd` has KD once (weight 1 for KD and for the cross-entropy) and not twice; `sskd.kd=0.9` turns it on
again.

Paper: Xu, Liu, Li, Loy: Knowledge Distillation Meets Self-Supervision. ECCV 2020, arXiv 2006.07114.
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
    kl_per_row,
    masked_mean,
    matching_columns,
    rank_of_truth,
    select_rows,
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
        0.9, "weight of KD on the unrotated images (0.0 in a combination)", "SSKD student.py --kd-weight 0.9"
    )
    tf: float = param(
        2.7, "weight of KD on the rotated images", "SSKD student.py --tf-weight 2.7 (paper: 10.0)"
    )
    ss: float = param(
        10.0, "weight of the KL of the similarities", "SSKD student.py --ss-weight 10.0 (paper: 2.7)"
    )
    kd_temperature: float = param(4.0, "temperature T on the unrotated images", "SSKD student.py --kd-T 4.0")
    tf_temperature: float = param(4.0, "temperature T on the rotated images", "SSKD student.py --tf-T 4.0")
    ss_temperature: float = param(0.5, "temperature tau of the similarities", "SSKD student.py --ss-T 0.5")
    tf_ratio: float = param(
        1.0, "share of the wrongly ranked rows kept by `tf`", "SSKD student.py --ratio-tf 1.0"
    )
    ss_ratio: float = param(
        0.75, "share of the wrongly ranked rows kept by `ss`", "SSKD student.py --ratio-ss 0.75"
    )

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
        "0.1 CE + 0.9 T^2 KL(z_t || z_s) + 2.7 T^2 KL(z'_t || z'_s) [rotated] "
        "+ 10 tau^2 KL(A_t || A_s) [3B x B cosines], T = 4, tau = 0.5"
    )
    paper = "Xu et al., Knowledge Distillation Meets Self-Supervision, ECCV 2020"
    bibtex = """@inproceedings{xu2020knowledge,
  title     = {Knowledge Distillation Meets Self-Supervision},
  author    = {Xu, Guodong and Liu, Ziwei and Li, Xiaoxiao and Loy, Chen Change},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2020}
}"""
    combined_defaults: ClassVar[Mapping[str, Any]] = {"ce": 1.0, "kd": 0.0}
    Config = SSKDConfig

    @classmethod
    def needs(cls, config: SSKDConfig) -> Needs:
        outputs, rotated = config.kd or config.tf, config.tf or config.ss
        teacher = ({"logits"} if outputs else set()) | ({"embedding"} if config.ss else set())
        teacher_views = ((NORMAL,) if config.kd or config.ss else ()) + ((ROTATED,) if rotated else ())
        return Needs(
            student=frozenset({"logits", "embedding"} if config.ss else {"logits"}),
            teacher=frozenset(teacher),
            views=(NORMAL, ROTATED) if rotated else (NORMAL,),
            teacher_views=teacher_views,
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
        if self.is_active("sskd_kd"):
            terms["sskd_kd"] = kd_loss(step.student.logits, step.teacher.logits, c.kd_temperature)
        if self.is_active("sskd_tf"):
            student, teacher = step.students["rotated"].logits, step.teachers["rotated"].logits
            labels = step.labels.repeat(ROTATED.copies)
            terms["sskd_tf"] = _selected_kl(
                student, teacher, correct=labels, temperature=c.tf_temperature, ratio=c.tf_ratio
            )
        if self.is_active("sskd_ss"):
            terms["sskd_ss"] = self._similarity_loss(step)
        return terms

    def _similarity_loss(self, step: Step) -> Tensor:
        """Return the term `ss`, a scalar."""
        c: SSKDConfig = self.config
        with torch.no_grad():
            teacher = similarities(
                self.teacher_head(step.teachers["rotated"].embedding),
                self.teacher_head(step.teacher.embedding),
            )
        student = similarities(
            self.student_head(step.students["rotated"].embedding), self.student_head(step.student.embedding)
        )
        same_image = matching_columns(teacher.shape[1], teacher.device)
        return _selected_kl(
            student, teacher, correct=same_image, temperature=c.ss_temperature, ratio=c.ss_ratio
        )


def _selected_kl(
    student: Tensor, teacher: Tensor, *, correct: Tensor, temperature: float, ratio: float
) -> Tensor:
    """Return `T^2 * KL`, averaged over the selected rows, a scalar.

    student, teacher: scores, `[R, C]`.
    correct: the correct column of each row, int64 `[R]`; its rank in the teacher's row selects the rows.
    """
    rows = kl_per_row(student, teacher, temperature)
    if ratio == 1.0:
        return rows.mean() * temperature**2
    return masked_mean(rows, select_rows(rank_of_truth(teacher, correct), ratio)) * temperature**2


def _trained_head(size: int, artifacts: Mapping[str, Mapping[str, Tensor]]) -> nn.Sequential:
    """Return the teacher's projection head as stage A trained it, frozen.

    size: the teacher's embedding size.
    artifacts: see `MethodContext`.

    Raises `InputError` if the head is missing or belongs to another teacher.
    """
    if not artifacts.get("sskd_head"):
        raise InputError(
            "sskd: the teacher's projection head is missing; run `sskd_head` on the same teacher first"
        )
    head = projection_head(size)
    try:
        head.load_state_dict(
            {key.removeprefix("head."): value for key, value in artifacts["sskd_head"].items()}
        )
    except RuntimeError as error:
        raise InputError(
            f"sskd: the projection head does not fit the teacher's embedding of size {size}; "
            "run `sskd_head` on the same teacher"
        ) from error
    return head.requires_grad_(False)
