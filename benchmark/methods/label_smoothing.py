"""Label smoothing: the true class keeps 1 - eps of the target, all classes share eps.

    L = ce * H((1 - eps) onehot(y) + eps / C, softmax(z))

the cross-entropy with the labels itself, so there is no term beside it; no teacher, no modules. It stands among the
self-distillation methods because their papers compare with it. TF-KD's virtual teacher (`tfkd`) is a relative of it.

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna: Rethinking the Inception Architecture for Computer Vision. CVPR 2016,
arXiv 1512.00567. Constant: eps = 0.1 of the paper's section 7; that Self-KD-Lib and PS-KD use it too is unverified.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, Step, param


@dataclass(frozen=True, kw_only=True)
class LabelSmoothingConfig(MethodConfig):
    epsilon: float = param(0.1, "share eps that all classes get", "Szegedy et al. section 7, eps = 0.1")

    def __post_init__(self) -> None:
        check_range("label_smoothing.epsilon", self.epsilon, 0.0, 1.0)


class LabelSmoothing(Method):
    name = "label_smoothing"
    title = "Label smoothing"
    formula = "H((1 - eps) onehot(y) + eps / C, softmax(z)), eps = 0.1"
    paper = "Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016"
    bibtex = """@inproceedings{szegedy2016rethinking,
  title     = {Rethinking the Inception Architecture for Computer Vision},
  author    = {Szegedy, Christian and Vanhoucke, Vincent and Ioffe, Sergey and Shlens, Jon and Wojna, Zbigniew},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2016}
}"""
    Config = LabelSmoothingConfig

    def task_loss(self, step: Step) -> Tensor:
        return F.cross_entropy(step.student.logits, step.labels, label_smoothing=self.config.epsilon)
