"""CS-KD: an image's outputs are to be like those of another image of its class.

    L = ce * CE(z(x), y) + weight * T^2 * KL(softmax(sg z(x') / T) || softmax(z(x) / T))

x: the first half of a batch, x' (the second half): an image of the same class for each, drawn by the sampler `PAIRS`; summed over
classes, divided by the number of pairs. sg: no gradient. The cross-entropy is that of the first half alone. Without modules.

A batch has twice the protocol's number of rows. Both halves go through the network in one train-mode batch here; the released code
runs x' in a pass of its own (without gradient, but in train mode), so its batch norms see the halves apart.

Yun, Park, Lee, Shin: Regularizing Class-wise Predictions via Self-knowledge Distillation. CVPR 2020, arXiv 2003.13964.
Constants: alinlab/cs-kd train.py (T = 4, lambda = 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from benchmark.data.samplers import PAIRS
from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, Step, Terms, param
from benchmark.methods.kd import kd_loss


@dataclass(frozen=True, kw_only=True)
class CSKDConfig(MethodConfig):
    weight: float = param(1.0, "weight lambda of the class-wise KL", "alinlab/cs-kd train.py --lamda 1")
    temperature: float = param(4.0, "temperature T of both softmaxes", "alinlab/cs-kd train.py --temp 4")

    def __post_init__(self) -> None:
        check_range("cskd.temperature", self.temperature, 0.0, above=True)


class CSKD(Method):
    name = "cskd"
    title = "CS-KD"
    formula = "CE(z(x)) + T^2 KL(softmax(sg z(x')/T) || softmax(z(x)/T)), x' of the same class, T = 4"
    paper = "Yun et al., Regularizing Class-wise Predictions via Self-knowledge Distillation, CVPR 2020"
    bibtex = """@inproceedings{yun2020regularizing,
  title     = {Regularizing Class-wise Predictions via Self-knowledge Distillation},
  author    = {Yun, Sukmin and Park, Jongjin and Lee, Kimin and Shin, Jinwoo},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2020}
}"""
    sampler = PAIRS
    Config = CSKDConfig

    def loss(self, step: Step) -> Terms:
        if not self.active("cskd"):
            return {}
        own, partner = step.student.logits.chunk(2)
        return {"cskd": kd_loss(own, partner.detach(), self.config.temperature)}

    def task_loss(self, step: Step) -> Tensor:
        rows = (len(step.labels) + 1) // 2
        return F.cross_entropy(step.student.logits[:rows], step.labels[:rows])
