"""Label smoothing: train on targets that spread a share eps of the probability over all classes.

    L = ce * H((1 - eps) onehot(y) + eps / C, softmax(z))

- z: the network's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- H: cross-entropy of a target and a prediction, averaged over the batch.

This replaces the cross-entropy with the labels, so the method adds no term. There is no teacher. It is listed
with the self-distillation methods because their papers compare with it; TF-KD's virtual teacher (`tfkd`) is
closely related.

Modules: none.

Constants: eps = 0.1, section 7 of the paper. That Self-KD-Lib and PS-KD also use 0.1 is unverified.

Paper: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna: Rethinking the Inception Architecture for Computer Vision.
CVPR 2016, arXiv 1512.00567.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, Step, param


@dataclass(frozen=True, kw_only=True)
class LabelSmoothingConfig(MethodConfig):
    epsilon: float = param(
        0.1, "share eps of the target spread over all classes", "Szegedy et al. section 7, eps = 0.1"
    )

    def __post_init__(self) -> None:
        check_range("label_smoothing.epsilon", self.epsilon, 0.0, 1.0)


class LabelSmoothing(Method):
    name = "label_smoothing"
    title = "Label smoothing"
    formula = "H((1 - eps) onehot(y) + eps / C, softmax(z)), eps = 0.1"
    paper = "Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016"
    bibtex = """@inproceedings{szegedy2016rethinking,
  title     = {Rethinking the Inception Architecture for Computer Vision},
  author    = {Szegedy, Christian and Vanhoucke, Vincent and Ioffe, Sergey and Shlens, Jon and
               Wojna, Zbigniew},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2016}
}"""
    Config = LabelSmoothingConfig

    def task_loss(self, step: Step) -> Tensor:
        return F.cross_entropy(step.student.logits, step.labels, label_smoothing=self.config.epsilon)
