"""DLB: half of each batch was in the batch before, and is taught by what the network said of it then.

    L = ce * CE(z, y) + weight * T^2 * (1/R) sum over the R repeated rows of KL(softmax(z_prev / T) || softmax(z / T))

z_prev: the outputs of the same image one step earlier (another augmentation, weights before the last update), without gradient. The
sampler `HALVES` makes the second half of a batch the first half of the next, so an epoch has twice the steps of a shuffled
one; the cross-entropy is that of all rows. No modules. Rows whose image was not in the second half of the batch before (an epoch's
first) have no such term: they are found by comparing indices, which stand beside the outputs in the method's buffers.

Shen, Xu, Yang, Li, Guo: Self-Distillation from the Last Mini-Batch for Consistency Regularization. CVPR 2022,
arXiv 2203.16172. Constants: alpha = 1, T = 3 as the paper has them for CIFAR (unverified); the released code uses Nesterov momentum,
the protocol here decides that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.data.samplers import HALVES
from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, MethodContext, Step, Terms, param


@dataclass(frozen=True, kw_only=True)
class DLBConfig(MethodConfig):
    weight: float = param(
        1.0, "weight alpha of the KL with the last batch", "Shen et al., alpha = 1; unverified"
    )
    temperature: float = param(3.0, "temperature T of both softmaxes", "Shen et al., tau = 3; unverified")

    def __post_init__(self) -> None:
        check_range("dlb.temperature", self.temperature, 0.0, above=True)


class DLB(Method):
    name = "dlb"
    title = "DLB"
    formula = "CE + T^2 KL(softmax(z_prev/T) || softmax(z/T)) on the half that was in the batch before, T = 3"
    paper = (
        "Shen et al., Self-Distillation from the Last Mini-Batch for Consistency Regularization, CVPR 2022"
    )
    bibtex = """@inproceedings{shen2022self,
  title     = {Self-Distillation from the Last Mini-Batch for Consistency Regularization},
  author    = {Shen, Yiqing and Xu, Liwu and Yang, Yuzhe and Li, Yaqian and Guo, Yandong},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2022}
}"""
    sampler = HALVES
    Config = DLBConfig
    past: Tensor
    rows: Tensor

    def __init__(self, config: DLBConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        half = max(1, context.batch_size // 2)
        self.register_buffer("past", torch.zeros(half, context.num_classes))
        self.register_buffer("rows", torch.full((half,), -1))

    def loss(self, step: Step) -> Terms:
        if not self.active("dlb"):
            return {}
        z, t, half = step.student.logits, self.config.temperature, len(self.rows)
        n = min(half, len(z))
        same = (step.indices[:n] == self.rows[:n]).to(z.dtype)
        kl = F.kl_div(
            F.log_softmax(z[:n] / t, dim=1),
            F.log_softmax(self.past[:n].to(z.dtype) / t, dim=1),
            reduction="none",
            log_target=True,
        ).sum(1)
        loss = (kl * same).sum() / same.sum().clamp(min=1) * t**2
        with torch.no_grad():
            new = z[half : 2 * half]
            self.past[: len(new)] = new.to(self.past.dtype)
            self.rows.fill_(-1)
            self.rows[: len(new)] = step.indices[half : 2 * half]
        return {"dlb": loss}
