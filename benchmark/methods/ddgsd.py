"""Data-distortion guided self-distillation (DDGSD): make the outputs for two views of an image agree.

    L = ce * (CE(z_1, y) + CE(z_2, y)) / 2 + mutual * T^2 * [KL(sg p_2 || p_1) + KL(sg p_1 || p_2)]
        + mmd * |mean f_1 - mean f_2|^2
    p = softmax(z / T)

- z_1, z_2: logits of two random crops and flips of the same images (views `normal` and `second`), which go
  through the network in one train-mode batch, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- f_1, f_2: embeddings of the two views, `[B, D]`.
- T: temperature.
- sg: stop-gradient.

KL is summed over the classes and averaged over the batch. The mean of f is taken over the batch, and the
squared distance is summed over the components.

Modules: none.

Constants: mmd = 5e-4 as in Self-KD-Lib. Unverified: T = 4 (Self-KD-Lib's value for all methods),
mutual = 1, the mean (not the sum) of the two cross-entropies, and the stop-gradient of the targets.

Paper: Xu, Liu: Data-Distortion Guided Self-Distillation for Deep Neural Networks. AAAI 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from benchmark.data.views import NORMAL, SECOND
from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param
from benchmark.methods.kd import kd_loss


@dataclass(frozen=True, kw_only=True)
class DDGSDConfig(MethodConfig):
    mutual: float = param(1.0, "weight of the two KL terms", "Xu and Liu (unverified)")
    mmd: float = param(5e-4, "weight of the distance between the mean embeddings", "Self-KD-Lib, 5e-4")
    temperature: float = param(4.0, "temperature T of the KL terms", "Self-KD-Lib, T = 4 (unverified)")

    def __post_init__(self) -> None:
        check_range("ddgsd.mutual", self.mutual, 0.0)
        check_range("ddgsd.mmd", self.mmd, 0.0)
        check_range("ddgsd.temperature", self.temperature, 0.0, above=True)


class DDGSD(Method):
    name = "ddgsd"
    title = "DDGSD"
    formula = (
        "CE of two crops + T^2 [KL(sg p_2 || p_1) + KL(sg p_1 || p_2)] + 5e-4 |mean f_1 - mean f_2|^2, T = 4"
    )
    paper = "Xu and Liu, Data-Distortion Guided Self-Distillation for Deep Neural Networks, AAAI 2019"
    bibtex = """@inproceedings{xu2019data,
  title     = {Data-Distortion Guided Self-Distillation for Deep Neural Networks},
  author    = {Xu, Ting-Bing and Liu, Cheng-Lin},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2019}
}"""
    Config = DDGSDConfig

    @classmethod
    def needs(cls, config: DDGSDConfig) -> Needs:
        return Needs.of("embedding logits" if config.mmd else "logits", views=(NORMAL, SECOND))

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        return {"ddgsd_mutual": config.mutual, "ddgsd_mmd": config.mmd}

    def loss(self, step: Step) -> Terms:
        terms: Terms = {}
        if self.is_active("ddgsd_mutual"):
            z_1, z_2 = step.student.logits, step.students["second"].logits
            t = self.config.temperature
            terms["ddgsd_mutual"] = kd_loss(z_1, z_2.detach(), t) + kd_loss(z_2, z_1.detach(), t)
        if self.is_active("ddgsd_mmd"):
            f_1, f_2 = step.student.embedding, step.students["second"].embedding
            terms["ddgsd_mmd"] = (f_1.mean(0) - f_2.mean(0)).square().sum()
        return terms

    def task_loss(self, step: Step) -> Tensor:
        """Mean of the two views' cross-entropies."""
        ce_1, ce_2 = (
            F.cross_entropy(step.students[view].logits, step.labels) for view in ("normal", "second")
        )
        return (ce_1 + ce_2) / 2
