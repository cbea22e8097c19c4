"""PS-KD: soften the labels, more each epoch, with the network's own predictions from the previous epoch.

    L = ce * H((1 - a_t) onehot(y) + a_t p_{t-1}(x), softmax(z)),    a_t = alpha * t / epochs

- z: the network's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- H: cross-entropy of a target and a prediction, averaged over the batch.
- t: epoch, counted from 1.
- p_{t-1}(x): softmax of the logits when image x was last trained on, `[C]`, without a temperature, under
  that epoch's augmentation and in train mode. An image that has not been trained on yet (in epoch 1, every
  image) has its label instead.

The loss replaces the cross-entropy with the labels, so the method adds no term. There is no teacher.

Modules: none. The buffer `past`, training images x classes, holds the predictions (20 MB on CIFAR-100) and
is part of every checkpoint.

Constants: alpha = 0.8 (lgcnsai/PS-KD-Pytorch at 9aa0828, main.py, `--alpha_T 0.8`; also in Self-KD-Lib). The
original trains for 300 epochs; here a_t reaches alpha in the last epoch, whatever the length of the schedule.

Paper: Kim, Ji, Yoon, Hwang: Self-Knowledge Distillation with Progressive Refinement of Targets. ICCV 2021,
arXiv 2006.12000.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import check_range, one_hot
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
    def buffer_elements(
        cls, config: PSKDConfig, num_train: int, num_classes: int, teacher: NetInfo | None
    ) -> int:
        return num_train * num_classes

    def __init__(self, config: PSKDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        self.epochs = context.epochs
        self.register_buffer("past", one_hot(context.train_labels, context.num_classes, torch.float32))
        self.register_buffer("share", torch.tensor(0.0), persistent=False)
        # (indices, predictions) of the current batch, until `after_step` stores them.
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
            (indices, predictions), self._new = self._new, None
            self.past[indices] = predictions
