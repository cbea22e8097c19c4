"""Similarity transfer (STKD): learn the teacher's predictions for mixtures of two images.

    L = ce * CE(z_s(x), y) + label * H(m, softmax(z_s(x')))
      + kd * T^2 * KL(softmax(z_t(x') / T) || softmax(z_s(x') / T))
    x'_i = l_i x_i + (1 - l_i) x_{i+1},   m_i = l_i onehot(y_i) + (1 - l_i) onehot(y_{i+1})

- x: images, `[B, 3, H, W]`.
- y: labels, `[B]`.
- x': virtual samples (the view `mixed`): each image is mixed with the next of its shuffled batch.
- l: shares, spread evenly over 0..1, `[B]`.
- m: mixed labels, `[B, C]`.
- z_s, z_t: logits of student and teacher, `[B, C]` (B images, C classes).

H and KL are summed over the classes and averaged over the batch. The teacher's predictions for a mixture of
two classes show how similar these classes are. The student runs both views in one batch.

Modules: none. The method reads only logits.

Constants: only the opening of the paper was available. Unverified are: that virtual samples come from two
images, that the student also trains on plain images, the weights and T.

Paper: Zhao, Sun, Dong, Wang, et al.: Similarity Transfer for Knowledge Distillation. arXiv 2103.10047, 2021
(citation from memory, unverified).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from benchmark.data.views import MIXED, NORMAL, mixing_shares
from benchmark.methods._common import check_range, one_hot
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param
from benchmark.methods.kd import kd_loss


@dataclass(frozen=True, kw_only=True)
class STKDConfig(MethodConfig):
    label: float = param(
        0.1,
        "weight of the cross-entropy with the mixed labels",
        "as the cross-entropy of the benchmark's KD row; unverified",
    )
    kd: float = param(0.9, "weight of KD on the mixed images", "as the benchmark's KD row; unverified")
    temperature: float = param(4.0, "temperature T of KD", "as the benchmark's KD row; unverified")

    def __post_init__(self) -> None:
        check_range("stkd.label", self.label, 0.0)
        check_range("stkd.kd", self.kd, 0.0)
        check_range("stkd.temperature", self.temperature, 0.0, above=True)


class STKD(Method):
    name = "stkd"
    title = "STKD"
    formula = "CE + 0.1 H(mixed label, z_s(x')) + 0.9 T^2 KL(z_t(x') || z_s(x')), x' = mixed images, T = 4"
    paper = "Zhao et al., Similarity Transfer for Knowledge Distillation, 2021 (unverified)"
    bibtex = """@article{zhao2021similarity,
  title   = {Similarity Transfer for Knowledge Distillation},
  author  = {Zhao, Haoran and others},
  journal = {arXiv preprint arXiv:2103.10047},
  year    = {2021},
  note    = {entry from memory, unverified}
}"""
    Config = STKDConfig

    @classmethod
    def needs(cls, config: STKDConfig) -> Needs:
        teacher = frozenset({"logits"} if config.kd else set())
        return Needs(frozenset({"logits"}), teacher, (NORMAL, MIXED), (MIXED,))

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        return {"stkd_label": config.label, "stkd_kd": config.kd}

    def loss(self, step: Step) -> Terms:
        terms: Terms = {}
        if self.is_active("stkd_label"):
            z = step.students["mixed"].logits
            labels = one_hot(step.labels, z.shape[1], z.dtype)
            share = mixing_shares(len(labels), labels.device).to(z.dtype)[:, None]
            terms["stkd_label"] = F.cross_entropy(z, torch.lerp(labels.roll(-1, 0), labels, share))
        if self.is_active("stkd_kd"):
            student, teacher = step.students["mixed"].logits, step.teachers["mixed"].logits
            terms["stkd_kd"] = kd_loss(student, teacher, self.config.temperature)
        return terms
