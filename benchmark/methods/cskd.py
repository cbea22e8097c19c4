"""Class-wise self-distillation (CS-KD): predict the same distribution for two images of one class.

    L = ce * CE(z(x), y) + weight * T^2 * KL(softmax(sg z(x') / T) || softmax(z(x) / T))

- x: the images in the first half of a batch.
- x': the images in the second half; image i has the class of image i of the first half (sampler `PAIRS`).
- z: the network's logits for one half, `[B, C]` (B pairs, C classes).
- y: labels of the first half, `[B]`.
- T: temperature.
- sg: stop-gradient.

KL is summed over the classes and averaged over the pairs. The cross-entropy reads the first half only.

Modules: none.

A batch has twice the protocol's number of images, as in the released code. The network runs the halves in two
train-mode passes, first x and then x', so that its batch norms see them apart.

Constants: alinlab/cs-kd at b447f25, train.py (T = 4, lambda = 1).

Paper: Yun, Park, Lee, Shin: Regularizing Class-wise Predictions via Self-knowledge Distillation. CVPR 2020,
arXiv 2003.13964.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from benchmark.data.samplers import PAIRS
from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param
from benchmark.methods.kd import kd_loss


@dataclass(frozen=True, kw_only=True)
class CSKDConfig(MethodConfig):
    weight: float = param(
        1.0, "weight lambda of the KL between two images of a class", "alinlab/cs-kd train.py --lamda 1"
    )
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
    revision = 2
    sampler = PAIRS
    Config = CSKDConfig

    @classmethod
    def needs(cls, config: CSKDConfig) -> Needs:
        return Needs(parts_apart=True)

    def loss(self, step: Step) -> Terms:
        if not self.is_active("cskd"):
            return {}
        first_half, partners = step.student.logits.chunk(2)
        return {"cskd": kd_loss(first_half, partners.detach(), self.config.temperature)}

    def task_loss(self, step: Step) -> Tensor:
        """Cross-entropy of the first half of the batch."""
        half = (len(step.labels) + 1) // 2
        return F.cross_entropy(step.student.logits[:half], step.labels[:half])
