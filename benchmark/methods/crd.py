"""Contrastive representation distillation (CRD): contrast embeddings through memory banks.

    L = ce * CE(z_s, y) + weight * (L_s + L_t)
    L_s = -(1/B) * sum over anchors of [log h(v, positive) + sum over K negatives of log(1 - h(v, negative))]
    h(v, m) = p / (p + K/N),    p = exp(v . m / tau) / Z

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- v: anchor, the embedding of an image (a linear layer on the pooled features, then L2 normalisation), `[d]`
  with d = 128.
- m: a row of a memory bank, `[d]`. A bank, `[N, d]`, has one row for each of the N training images.
- tau: temperature.

L_s scores the student's embeddings against the bank of *teacher* embeddings, L_t the teacher's embeddings
against the bank of *student* embeddings. The positive is the image's own row. The K = 16384 negatives are
rows of images of other classes (the code's "exact" mode); `Negatives` draws them with the run's generator.

Z: N times the mean of exp(v . m / tau) over the first batch, constant afterwards, with one value for each
bank. Banks: initialised uniformly in +-1/sqrt(d/3), without gradient. After each step the rows of the batch
become l2norm(0.5 * old + 0.5 * new embedding).

Modules: one linear embedding for the student and one for the teacher. Both are trained; the teacher itself
is not.

Differences between paper and code: tau is 0.07 in the code that produced the published table and 0.1 in the
paper. (A reproduction with five seeds saw no difference.)

Speed: the scores are computed as one product of the embeddings with the whole bank, from which the
candidates are gathered. This gives the same values as gathering K + 1 rows for each anchor first
(`scores_by_rows`), in a fraction of the time and memory.

Constants: RepDistiller crd/criterion.py, crd/memory.py, train_student.py, scripts
(`--distill crd -a 0 -b 0.8`; for CRD+KD `-a 1 -b 0.8`).

Paper: Tian, Krishnan, Isola: Contrastive Representation Distillation. ICLR 2020, arXiv 1910.10699.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import check_range, require_networks, with_gradient
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

if TYPE_CHECKING:
    from models import NetInfo

EPS = 1e-7


class Negatives(nn.Module):
    """Draws K training images of other classes for each row of a batch, uniformly.

    The training images are listed in class order. M of them are of other classes than the row's; a draw is a
    position 0..M-1 in the list without the row's class. `mode`, chosen once from the class sizes, is one of:

    - "replacement", if there are fewer than K images of other classes (small data sets): with replacement.
    - "window", if all classes have the same size (CIFAR): without replacement within a row. Each step draws
      one random permutation of 0..M-1, and each row takes K consecutive entries of it from a random start.
      Every row's set is uniformly distributed, but the rows of a step share the permutation and so are not
      independent of each other. (Independent draws for each row cost some hundred times more.)
    - "keys", otherwise: without replacement and independent, by the K largest of random keys.
    """

    order: Tensor
    """Positions in the training set, sorted by class: int64 `[N]`."""
    labels: Tensor
    """Labels of the training set: int64 `[N]`."""
    count: Tensor
    """Number of images of each class: int64 `[C]`."""
    start: Tensor
    """Where each class begins in `order`: int64 `[C]`."""

    def __init__(self, labels: Tensor, num_classes: int, k: int) -> None:
        super().__init__()
        counts = torch.bincount(labels.cpu(), minlength=num_classes)
        order = torch.argsort(labels.cpu(), stable=True)
        self.k = k
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("labels", labels.cpu(), persistent=False)
        self.register_buffer("count", counts, persistent=False)
        self.register_buffer("start", counts.cumsum(0) - counts, persistent=False)
        other_counts = len(labels) - counts[counts > 0]
        self.others = int(other_counts.min())
        if self.others < k:
            self.mode = "replacement"
        elif bool((other_counts == other_counts[0]).all()):
            self.mode = "window"
        else:
            self.mode = "keys"

    def forward(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Labels int64 `[B]` -> positions of images of other classes in the training set, int64 `[B, K]`."""
        device, rows = labels.device, len(labels)
        if self.mode == "keys":
            keys = torch.rand(rows, len(self.labels), generator=generator, device=device)
            keys = keys.masked_fill(self.labels[None, :] == labels[:, None], -1.0)
            return keys.topk(self.k, dim=1, sorted=False).indices
        if self.mode == "window":
            permutation = torch.randperm(self.others, generator=generator, device=device)
            begin = torch.randint(self.others, (rows, 1), generator=generator, device=device)
            ring = torch.cat([permutation, permutation[: self.k]]).int()  # windows wrap around the end
            position = ring.unfold(0, self.k, 1).index_select(0, begin[:, 0])
        else:
            other_counts = len(self.labels) - self.count[labels][:, None]
            draw = torch.rand(rows, self.k, generator=generator, device=device, dtype=torch.float64)
            position = (draw * other_counts).int()
        class_start, class_size = (x[labels][:, None].int() for x in (self.start, self.count))
        position += (position >= class_start) * class_size  # skips the row's class
        return self.order.take(position.long())


def scores(anchors: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """Dot products of anchors `[B, d]` with the bank's rows `index`, int64 `[B, K + 1]` -> `[B, K + 1]`."""
    return (anchors @ bank.t()).gather(1, index)


def scores_by_rows(anchors: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """The reference form of `scores`: gathers the rows first, which takes `[B, K + 1, d]` of memory."""
    return torch.einsum("bd,bkd->bk", anchors, bank[index])


def nce_loss(p: Tensor, n: int) -> Tensor:
    """L_s or L_t from p `[B, K + 1]` (the positive first) and the number n of training images -> scalar."""
    noise = (p.shape[1] - 1) / n
    positive = torch.log(p[:, 0] / (p[:, 0] + noise + EPS))
    negative = torch.log(noise / (p[:, 1:] + noise + EPS)).sum(1)
    return -(positive + negative).mean()


@torch.no_grad()
def nce_with_gradient(
    anchors: Tensor, bank: Tensor, z: Tensor, index: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the loss (scalar) and its gradient with respect to the anchors (`[B, d]`).

    The loss is `nce_loss(exp(scores(anchors, bank, index) / temperature) / z, n)`. The gradient is written by
    hand, because the B x n scores take much memory: here they are stored once, and their buffer is reused for
    their gradient, which is (h - [positive]) / (temperature * B).

    z: scalar, changed in place. A negative value marks the first batch, which sets it. `torch.where` tests
    it, so the host does not wait for the device.
    """
    n, noise = len(bank), (index.shape[1] - 1) / len(bank)
    all_scores = anchors @ bank.t()
    p = all_scores.gather(1, index).div_(temperature).exp_()
    z.copy_(torch.where(z < 0, p.mean() * n, z))
    p.div_(z)
    odds = p + (noise + EPS)
    h = p.div_(odds)
    value = (odds[:, 1:].div_(noise).log_().sum(1) - h[:, 0].log()).mean()
    scale = 1 / (temperature * len(anchors))
    h.mul_(scale)
    h[:, 0] -= scale
    gradient = all_scores.zero_().scatter_add_(1, index, h) @ bank
    return value, gradient


@dataclass(frozen=True, kw_only=True)
class CRDConfig(MethodConfig):
    weight: float = param(
        0.8, "weight of the contrastive term", "RepDistiller run_cifar_distill.sh --distill crd -b 0.8"
    )
    temperature: float = param(
        0.07, "temperature tau (paper: 0.1)", "RepDistiller train_student.py --nce_t 0.07"
    )
    negatives: int = param(
        16384, "number K of negatives for each anchor", "RepDistiller train_student.py --nce_k 16384"
    )
    momentum: float = param(
        0.5, "share of the old row when a bank is updated", "RepDistiller train_student.py --nce_m 0.5"
    )
    dim: int = param(128, "size d of the embeddings", "RepDistiller train_student.py --feat_dim 128")

    def __post_init__(self) -> None:
        check_range("crd.temperature", self.temperature, 0.0, above=True)
        check_range("crd.negatives", self.negatives, 1)
        check_range("crd.momentum", self.momentum, 0.0, 1.0)
        check_range("crd.dim", self.dim, 1)


class CRD(Method):
    name = "crd"
    title = "CRD"
    formula = (
        "CE + 0.8 (L_s + L_t), noise-contrastive: -(log h(pos) + sum_16384 log(1 - h(neg))), "
        "memory banks, tau = 0.07"
    )
    paper = "Tian et al., Contrastive Representation Distillation, ICLR 2020"
    bibtex = """@inproceedings{tian2020contrastive,
  title     = {Contrastive Representation Distillation},
  author    = {Tian, Yonglong and Krishnan, Dilip and Isola, Phillip},
  booktitle = {International Conference on Learning Representations},
  year      = {2020}
}"""
    Config = CRDConfig
    bank_s: Tensor
    bank_t: Tensor
    z_s: Tensor
    z_t: Tensor

    @classmethod
    def buffer_elements(
        cls, config: CRDConfig, num_train: int, num_classes: int, teacher: NetInfo | None
    ) -> int:
        return 2 * num_train * config.dim

    @classmethod
    def needs(cls, config: CRDConfig) -> Needs:
        return Needs.of("embedding logits", "embedding")

    def __init__(self, config: CRDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = require_networks(context.student, context.teacher)
        self.embed_s = nn.Linear(student.embedding_dim, config.dim)
        self.embed_t = nn.Linear(teacher.embedding_dim, config.dim)
        self.negatives = Negatives(context.train_labels, context.num_classes, config.negatives)
        bound = 1 / math.sqrt(config.dim / 3)
        for network in ("s", "t"):
            self.register_buffer(
                f"bank_{network}", torch.empty(context.num_train, config.dim).uniform_(-bound, bound)
            )
            self.register_buffer(f"z_{network}", torch.tensor(-1.0))
        self._new: tuple[Tensor, Tensor, Tensor] | None = None

    def loss(self, step: Step) -> Terms:
        if not self.is_active("crd"):
            return {}
        v_s = F.normalize(self.embed_s(step.student.embedding), dim=1)
        v_t = F.normalize(self.embed_t(step.teacher.embedding), dim=1)
        index = torch.cat([step.indices[:, None], self.negatives(step.labels, step.generator)], dim=1)
        loss_s = self._contrast(v_s, self.bank_t, self.z_s, index)
        loss_t = self._contrast(v_t, self.bank_s, self.z_t, index)
        self._new = (step.indices, v_s.detach(), v_t.detach())
        return {"crd": loss_s + loss_t}

    def _contrast(self, anchors: Tensor, bank: Tensor, z: Tensor, index: Tensor) -> Tensor:
        """L_s or L_t: anchors `[B, d]` against the rows `index` (int64 `[B, K + 1]`) of a bank -> scalar."""
        value, gradient = nce_with_gradient(anchors.detach(), bank, z, index, self.config.temperature)
        return with_gradient(anchors, value, gradient)

    def after_step(self) -> None:
        """Update the banks. The loss cannot do it, because the backward pass still reads them."""
        if self._new is None:
            return
        (rows, v_s, v_t), self._new = self._new, None
        m = self.config.momentum
        for bank, new in ((self.bank_s, v_s), (self.bank_t, v_t)):
            bank[rows] = F.normalize(m * bank[rows] + (1 - m) * new, dim=1)
