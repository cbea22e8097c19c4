"""Label smoothing: train on targets that give a share eps of the probability to other classes than the label.

    L = ce * H(q, softmax(z))
    q = (1 - eps) onehot(y) + eps / C               over = all: the label too gets a part of eps
    q = 1 - eps for y, eps / (C - 1) elsewhere      over = others

- z: the network's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- H: cross-entropy of a target and a prediction, averaged over the batch.

This replaces the cross-entropy with the labels, so the method adds no term. There is no teacher. It is listed
with the self-distillation methods because their papers compare with it; TF-KD's virtual teacher (`tfkd`) is
closely related.

Modules: none.

Differences between paper and code: the paper spreads eps over all C classes. The codes of TF-KD and
Self-KD-Lib spread it over the C - 1 others, so the protocol `selfkdlib` has `over = others`; the other
protocols follow the paper.

Constants: eps = 0.1, section 7 of the paper; also in winycg/Self-KD-Lib at ede3062 (methods/label_smooth.py)
and in TF-KD's my_loss_function.py at d000ab3. PS-KD's release has no label smoothing.

Paper: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna: Rethinking the Inception Architecture for Computer Vision.
CVPR 2016, arXiv 1512.00567.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import check_range, one_hot
from benchmark.methods.base import Method, MethodConfig, Step, param


@dataclass(frozen=True, kw_only=True)
class LabelSmoothingConfig(MethodConfig):
    epsilon: float = param(
        0.1, "share eps of the target that is spread over the classes", "Szegedy et al. section 7, eps = 0.1"
    )
    over: str = param(
        "all",
        "classes that share eps: all, or all but the label; `others` in the protocol selfkdlib",
        "Szegedy et al. section 7; Self-KD-Lib methods/label_smooth.py",
        allowed=("all", "others"),
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
    revision = 2
    Config = LabelSmoothingConfig

    def task_loss(self, step: Step) -> Tensor:
        z, eps = step.student.logits, self.config.epsilon
        if self.config.over == "all":
            return F.cross_entropy(z, step.labels, label_smoothing=eps)
        label = one_hot(step.labels, z.shape[1], z.dtype)
        return F.cross_entropy(z, (1 - eps) * label + eps / (z.shape[1] - 1) * (1 - label))
