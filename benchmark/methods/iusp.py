"""Intra-utterance similarity preserving (IUSP): match the similarities between the frames of each sample.

    L = ce * CE(z_s, y) + weight / B * sum over samples of (1 / N^2) |n(G_t) - n(G_s)|_F^2
    G = F F^T

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- F: the N frames of a sample in the last stage's map, `[N, channels]`.
- G: similarities of the frames, `[N, N]`.
- n(.): L2 normalisation of each row.

This is SP within a sample instead of across the batch.

Frames: the paper tags sounds, and F are the frames of a recurrent network. It is the same here with the
taggers `crnn_64` and `crnn_16` on the data set `clips` (table `iusp-table`): their last map has one
position for each frame (docs/audio.md). With an image network, every position of the map counts as a frame
(N = H W, the larger map pooled to the smaller), which is not a setting of the paper.

Modules: none.

Differences from the original: the paper's data and metric are not measured here. DCASE 2019 Task 5 has
several labels for each clip and is measured by micro-AUPRC; the clips here have one label and are measured
by top-1.

Constants: only the abstract was available. The weight is SP's (unverified).

Paper: Intra-Utterance Similarity Preserving Knowledge Distillation for Audio Tagging. Interspeech 2020,
arXiv 2009.01759 (Chang, Kao, Sun, Wang; names from memory, unverified).
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
        3000.0, "weight of the similarity term", "as for SP, RepDistiller -b 3000 (unverified)"
    )


def similarities(maps: Tensor) -> Tensor:
    """Return n(G) of each sample: maps `[B, C, H, W]` -> `[B, HW, HW]`. In a tagger's map W is 1."""
    frames = maps.flatten(2).transpose(1, 2)
    return F.normalize(frames @ frames.transpose(1, 2), dim=2)


class IUSP(Method):
    name = "iusp"
    title = "IUSP"
    formula = (
        "CE + 3000/B sum_b 1/N^2 |n(F_t F_t^T) - n(F_s F_s^T)|^2, n = row-wise L2 normalisation, "
        "F = the N positions of a sample's last map (a clip's frames)"
    )
    paper = (
        "Chang et al., Intra-Utterance Similarity Preserving Knowledge Distillation for Audio Tagging, "
        "Interspeech 2020 (authors unverified)"
    )
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
        if student is None or teacher is None:
            return None
        # A map of width 1 has no frequencies left: its rows are the frames of a clip.
        if (student.stage_shapes[-1][2] == 1) != (teacher.stage_shapes[-1][2] == 1):
            return "IUSP cannot compare the frames of a sound with the positions of an image"
        return None

    def loss(self, step: Step) -> Terms:
        if not self.is_active("iusp"):
            return {}
        student, teacher = match_spatial(step.student.stages[-1], step.teacher.stages[-1])
        return {"iusp": F.mse_loss(similarities(student), similarities(teacher))}
