"""Distillation with shape-wise regularisation (DSR of LightSKD): match the last batch's sorted outputs.

    L = ce * CE(z, y) + weight * T^2 * KL(softmax(sort(z_prev) / T) || softmax(sort(z) / T))

- z: the network's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- z_prev: logits of the batch before, without gradient; row i is compared with row i.
- sort: sorts each row in ascending order.
- T: temperature.

The order of the classes therefore does not matter, only how the sorted values fall off. KL is summed over
the classes and averaged over the rows. The first batch of an epoch has no KL term.

Modules: none; a buffer holds one batch of outputs.

Differences from the original: the released train.py cannot be followed in two points. It updates
z_prev only if DRG is on, so DSR alone would always be compared with random noise; here z_prev is updated in
every step. And DSR alone has no auxiliary classifier, so its loss is CE + DSR.

Constants: xucong-parsifal/LightSKD train.py at b3a3bf9 (beta = 1, T = 4).

Paper: Wang, Han, Guo: Lightweight Self-Knowledge Distillation with Multi-source Information Fusion.
arXiv 2305.09183 (citation from memory, unverified).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, MethodContext, Step, Terms, param


@dataclass(frozen=True, kw_only=True)
class DSRConfig(MethodConfig):
    weight: float = param(1.0, "weight beta of the KL between sorted outputs", "LightSKD train.py, beta = 1")
    temperature: float = param(4.0, "temperature T of both softmaxes", "LightSKD train.py, T = 4")

    def __post_init__(self) -> None:
        check_range("dsr.temperature", self.temperature, 0.0, above=True)


class DSR(Method):
    name = "dsr"
    title = "DSR"
    formula = "CE + T^2 KL(softmax(sort(z_prev)/T) || softmax(sort(z)/T)), z_prev of the batch before, T = 4"
    paper = (
        "Wang et al., Lightweight Self-Knowledge Distillation with Multi-source Information Fusion, "
        "2023 (unverified)"
    )
    bibtex = """@article{wang2023lightweight,
  title   = {Lightweight Self-Knowledge Distillation with Multi-source Information Fusion},
  author  = {Wang, Xucong and Han, Pengchao and Guo, Lei},
  journal = {arXiv preprint arXiv:2305.09183},
  year    = {2023},
  note    = {entry from memory, unverified}
}"""
    Config = DSRConfig
    past: Tensor
    """Sorted logits of the last batch: `[batch_size, C]`."""
    past_epoch: Tensor
    """The epoch of the last batch: int64 scalar, -1 before the first."""
    epoch: Tensor
    """The current epoch: int64 scalar."""

    def __init__(self, config: DSRConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        self.register_buffer("past", torch.zeros(context.batch_size, context.num_classes))
        self.register_buffer("past_epoch", torch.tensor(-1))
        self.register_buffer("epoch", torch.tensor(0), persistent=False)

    def start_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def loss(self, step: Step) -> Terms:
        if not self.is_active("dsr"):
            return {}
        z, t = step.student.logits, self.config.temperature
        n = min(len(z), len(self.past))
        ordered = z.sort(dim=1).values
        kl = F.kl_div(
            F.log_softmax(ordered[:n] / t, dim=1),
            F.log_softmax(self.past[:n].to(z.dtype) / t, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        loss = kl * (self.past_epoch == self.epoch).to(z.dtype) * t**2
        with torch.no_grad():
            self.past[:n] = ordered[:n].to(self.past.dtype)
            self.past_epoch.copy_(self.epoch)
        return {"dsr": loss}
