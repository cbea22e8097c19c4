"""PS-KD: the targets are softened more and more by what the network itself said of the image an epoch ago.

    L = ce * H((1 - a_t) onehot(y) + a_t p_{t-1}(x), softmax(z)),    a_t = alpha * t / epochs

t = epoch counted from 1; p_{t-1}(x) = softmax of the outputs when the image was last trained on (its own augmentation, train
mode; no temperature). In epoch 1 the past prediction is the label itself. It is the cross-entropy, so there is no term beside it.
The predictions are a buffer of training images x classes (20 MB on CIFAR-100), part of every checkpoint.

Kim, Ji, Yoon, Hwang: Self-Knowledge Distillation with Progressive Refinement of Targets. ICCV 2021, arXiv 2006.12000.
Constants: alpha_T = 0.8, PS-KD-Pytorch main.py (300 epochs there; a_t reaches 0.8 at the end of whatever schedule is run).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import check_range
from benchmark.methods._targets import one_hot
from benchmark.methods.base import Method, MethodConfig, MethodContext, Step, param

if TYPE_CHECKING:
    from models import NetInfo


@dataclass(frozen=True, kw_only=True)
class PSKDConfig(MethodConfig):
    alpha: float = param(
        0.8, "share of the past prediction in the last epoch's target", "PS-KD-Pytorch main.py --alpha_T 0.8"
    )

    def __post_init__(self) -> None:
        check_range("pskd.alpha", self.alpha, 0.0, 1.0)


class PSKD(Method):
    name = "pskd"
    title = "PS-KD"
    formula = "H((1 - a_t) onehot(y) + a_t p_{t-1}(x), softmax(z)), a_t = 0.8 t / epochs"
    paper = "Kim et al., Self-Knowledge Distillation with Progressive Refinement of Targets, ICCV 2021"
    bibtex = """@inproceedings{kim2021self,
  title     = {Self-Knowledge Distillation with Progressive Refinement of Targets},
  author    = {Kim, Kyungyul and Ji, ByeongMoon and Yoon, Doyoung and Hwang, Sangheum},
  booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
  year      = {2021}
}"""
    Config = PSKDConfig
    past: Tensor
    share: Tensor

    @classmethod
    def memory(cls, config: PSKDConfig, num_train: int, num_classes: int, teacher: NetInfo | None) -> int:
        return num_train * num_classes

    def __init__(self, config: PSKDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        self.epochs = context.epochs
        self.register_buffer("past", one_hot(context.train_labels, context.num_classes, torch.float32))
        self.register_buffer("share", torch.tensor(0.0), persistent=False)
        self._new: tuple[Tensor, Tensor] | None = None

    def start_epoch(self, epoch: int) -> None:
        self.share.fill_(self.config.alpha * epoch / self.epochs)

    def task_loss(self, step: Step) -> Tensor:
        z = step.student.logits
        label = one_hot(step.labels, z.shape[1], z.dtype)
        target = torch.lerp(label, self.past[step.indices].to(z.dtype), self.share.to(z.dtype))
        self._new = (step.indices, torch.softmax(z.detach(), dim=1).to(self.past.dtype))
        return F.cross_entropy(z, target)

    def after_step(self) -> None:
        if self._new is not None:
            (rows, predictions), self._new = self._new, None
            self.past[rows] = predictions
