"""IUSP, intra-utterance similarity: how the frames of one sample resemble each other is handed on, sample by sample.

    L = ce * CE + weight / B * sum over samples of (1 / N^2) |N(G_t) - N(G_s)|_F^2,    G = F F^T

F: `[N, C]`, the N frames of a sample; N(.): rows L2-normalised. It is SP inside a sample instead of across the batch. No modules.

The paper tags sounds, and F are the frames of a recurrent network. So it is here with the taggers `crnn_64` and `crnn_16` on the data set
`clips`, table `iusp-table`: the last stage's map has a position for each frame (docs/audio.md). Of a network that reads pictures, positions
are places (N = H W, the larger map pooled to the smaller), which is no setting of the paper. Nor are its data and metric measured here:
DCASE 2019 Task 5 has several labels a clip and micro-AUPRC; clips here have one label, and top-1.

Intra-Utterance Similarity Preserving Knowledge Distillation for Audio Tagging. Interspeech 2020, arXiv 2009.01759 (Chang, Kao, Sun, Wang; names
from memory, unverified). Only the abstract was to be had: the weight is SP's (unverified).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import match_spatial
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param

if TYPE_CHECKING:
    from models import NetInfo


@dataclass(frozen=True, kw_only=True)
class IUSPConfig(MethodConfig):
    weight: float = param(
        3000.0, "weight of the similarities' distance", "as SP, RepDistiller -b 3000; unverified"
    )


def similarities(maps: Tensor) -> Tensor:
    """`[B, C, H, W]` -> `[B, HW, HW]`: row-normalised products of a sample's positions (of its frames, with W = 1)."""
    frames = maps.flatten(2).transpose(1, 2)
    return F.normalize(frames @ frames.transpose(1, 2), dim=2)


class IUSP(Method):
    name = "iusp"
    title = "IUSP"
    formula = "CE + 3000/B sum_b 1/N^2 |N(F_t F_t^T) - N(F_s F_s^T)|^2, F = the N positions of a sample's last map: a clip's frames"
    paper = "Chang et al., Intra-Utterance Similarity Preserving Knowledge Distillation for Audio Tagging, Interspeech 2020 (authors unverified)"
    bibtex = """@inproceedings{chang2020intra,
  title     = {Intra-Utterance Similarity Preserving Knowledge Distillation for Audio Tagging},
  author    = {Chang, Chun-Chieh and Kao, Chieh-Chi and Sun, Ming and Wang, Chao},
  booktitle = {Interspeech},
  year      = {2020},
  note      = {authors from memory, unverified}
}"""
    Config = IUSPConfig

    @classmethod
    def needs(cls, config: IUSPConfig) -> Needs:
        return Needs.of("stages logits", "stages")

    @classmethod
    def skip(cls, config: IUSPConfig, student: NetInfo | None, teacher: NetInfo | None) -> str | None:
        # a single column is what is left of the frequencies: rows are frames then
        if student and teacher and (student.stage_shapes[-1][2] == 1) != (teacher.stage_shapes[-1][2] == 1):
            return "IUSP compares frames with frames or places with places, and one network has the one, the other the other"
        return None

    def loss(self, step: Step) -> Terms:
        if not self.active("iusp"):
            return {}
        student, teacher = match_spatial(step.student.stages[-1], step.teacher.stages[-1])
        return {"iusp": F.mse_loss(similarities(student), similarities(teacher))}
