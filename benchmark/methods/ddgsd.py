"""Data-distortion guided self-distillation (DDGSD): make the outputs for two views of an image agree.

    L = ce * CE(z, y over both views) + mutual * T^2 * [KL(sg p_2 || p_1) + KL(sg p_1 || p_2)]
        + mmd * (mean f_1 - mean f_2)^2
    p = softmax(z / T)

- z: logits of two random crops and flips of the same images (views `normal` and `second`), which go through
  the network in one train-mode batch, `[2B, C]` (B images, C classes); z_1 and z_2 are its halves, p_1 and
  p_2 their softened probabilities.
- y: labels, `[B]`, the same for both views.
- f_1, f_2: embeddings of the two views, `[B, D]`.
- T: temperature.
- sg: stop-gradient.

CE is averaged over the 2B rows. KL is summed over the classes and averaged over the batch. The mean of f runs
over batch and components, so the last term is the square of one number.

Modules: none.

Differences between paper and code: the loss follows Self-KD-Lib, whose table has the published value. It
halves the averaged CE once more (ce = 0.5; in a combination ce is 1), and its maximum mean discrepancy (MMD)
compares the averages of all components, not the mean vectors. The text of the paper was not available.

Constants: ce = 0.5, mutual = 1, mmd = 5e-4 and T = 4 (winycg/Self-KD-Lib at ede3062, methods/ddsgd.py and
main.py).

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
    ce: float = param(
        0.5,
        "weight of the cross-entropy, averaged over both views (1.0 in a combination)",
        "Self-KD-Lib methods/ddsgd.py, mean over 2B divided by 2",
    )
    mutual: float = param(1.0, "weight of the two KL terms", "Self-KD-Lib methods/ddsgd.py, no factor")
    mmd: float = param(
        5e-4, "weight of the squared difference of the mean embeddings", "Self-KD-Lib methods/ddsgd.py, 5e-4"
    )
    temperature: float = param(4.0, "temperature T of the KL terms", "Self-KD-Lib main.py --T 4")

    def __post_init__(self) -> None:
        check_range("ddgsd.mutual", self.mutual, 0.0)
        check_range("ddgsd.mmd", self.mmd, 0.0)
        check_range("ddgsd.temperature", self.temperature, 0.0, above=True)


class DDGSD(Method):
    name = "ddgsd"
    title = "DDGSD"
    formula = (
        "0.5 CE of two crops + T^2 [KL(sg p_2 || p_1) + KL(sg p_1 || p_2)] "
        "+ 5e-4 (mean f_1 - mean f_2)^2, T = 4"
    )
    paper = "Xu and Liu, Data-Distortion Guided Self-Distillation for Deep Neural Networks, AAAI 2019"
    bibtex = """@inproceedings{xu2019data,
  title     = {Data-Distortion Guided Self-Distillation for Deep Neural Networks},
  author    = {Xu, Ting-Bing and Liu, Cheng-Lin},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2019}
}"""
    revision = 2
    combined_defaults = {"ce": 1.0}
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
            terms["ddgsd_mmd"] = (f_1.mean() - f_2.mean()).square()
        return terms

    def task_loss(self, step: Step) -> Tensor:
        """Mean of the two views' cross-entropies."""
        ce_1, ce_2 = (
            F.cross_entropy(step.students[view].logits, step.labels) for view in ("normal", "second")
        )
        return (ce_1 + ce_2) / 2
