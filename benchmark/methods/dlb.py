"""Distillation from the last mini-batch (DLB): match an image's outputs of one step earlier.

    L = ce * CE(z, y)
        + weight * T^2 * (1/R) * sum over the R repeated rows of KL(softmax(z_prev / T) || softmax(z / T))

- z: the network's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- z_prev: logits of the same images one step earlier (another augmentation, and the weights before the last
  update), without gradient.
- R: number of repeated rows, all of which were in the batch before.
- T: temperature.

KL is summed over the classes. The cross-entropy reads all rows.

Batches: the sampler `HALVES` joins each batch, which has half the protocol's size, with the one before it, so
an epoch has twice as many steps as one of a shuffled data set. The first batch of a later epoch is joined
with the last of the epoch before. The network runs the new half first and then the repeated one, in two
train-mode passes; the cross-entropy is the mean over both. The first batch of all has no repeated half.
Repeated rows are recognised by comparing the images' indices with those stored next to the last outputs.

Modules: none; two buffers hold the last outputs and their indices.

Differences from the original: the released code uses Nesterov momentum. Here the protocol decides that. Its
`--batch_size` counts the new images alone; that the paper's batch size counts both halves, as here, is an
assumption (unverified).

Constants: alpha = 1 and T = 3 are the paper's for CIFAR (unverified; Meta-knowledge-Lab/DLB at 8949a46 has no
defaults, only `TP3` in the name of a run). Passes, the batch kept across epochs and the losses are those of
its dlb.py.

Paper: Shen, Xu, Yang, Li, Guo: Self-Distillation from the Last Mini-Batch for Consistency Regularization.
CVPR 2022, arXiv 2203.16172.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.data.samplers import HALVES
from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param


@dataclass(frozen=True, kw_only=True)
class DLBConfig(MethodConfig):
    weight: float = param(
        1.0, "weight alpha of the KL with the last outputs", "Shen et al., alpha = 1 (unverified)"
    )
    temperature: float = param(3.0, "temperature T of both softmaxes", "Shen et al., tau = 3 (unverified)")

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
    revision = 2
    sampler = HALVES
    Config = DLBConfig
    past: Tensor
    """Logits of the new half of the last batch: `[batch_size // 2, C]`."""
    rows: Tensor
    """Positions of these images in the training set, -1 where there is none: int64 `[batch_size // 2]`."""

    @classmethod
    def needs(cls, config: DLBConfig) -> Needs:
        return Needs(parts_apart=True)

    def __init__(self, config: DLBConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        half = max(2, context.batch_size // 2)
        self.register_buffer("past", torch.zeros(half, context.num_classes))
        self.register_buffer("rows", torch.full((half,), -1))

    def loss(self, step: Step) -> Terms:
        if not self.is_active("dlb"):
            return {}
        z, t = step.student.logits, self.config.temperature
        new = min(len(z), len(self.rows)) if step.first is None else step.first
        n = len(z) - new
        repeated = (step.indices[new:] == self.rows[:n]).to(z.dtype)
        kl = F.kl_div(
            F.log_softmax(z[new:] / t, dim=1),
            F.log_softmax(self.past[:n].to(z.dtype) / t, dim=1),
            reduction="none",
            log_target=True,
        ).sum(1)
        loss = (kl * repeated).sum() / repeated.sum().clamp(min=1) * t**2
        with torch.no_grad():
            self.past[:new] = z[:new].to(self.past.dtype)
            self.rows.fill_(-1)
            self.rows[:new] = step.indices[:new]
        return {"dlb": loss}
