"""CRD: contrastive representation distillation, with two memory banks.

    L = ce * CE + weight * (L_s + L_t)
    L_s = -(1/B) sum over anchors of [ log h(v, positive) + sum over K negatives of log(1 - h(v, negative)) ]
    h = p / (p + K/N),  p = exp(v . m / tau) / Z

v: the embedding (linear, then L2-normalised, d = 128) of the pooled features; both embeddings are trained, the teacher is not. m: rows of
a memory bank with a row for each training image. The student's embedding is scored against the bank of *teacher* embeddings (L_s), the
teacher's against the bank of *student* embeddings (L_t). The positive is the image's own row; the K = 16384 negatives are rows of other
classes ("exact" mode). Z = N times the mean of exp(v . m / tau) over the first batch, kept from then on, one for each bank. After the
scores each bank row of the batch becomes the normalised 0.5 old + 0.5 new. Banks carry no gradient; they start uniform in
+-1/sqrt(d/3).

tau is 0.07 in the code that produced the table and 0.1 in the paper (a five-seed reproduction saw no difference).

Scores are computed as one product of the embeddings with the whole bank, from which the candidates are gathered: the same values as
gathering K + 1 rows for each anchor first (`scores_by_rows`), in a fraction of the time and memory.

Negatives are drawn by the run's own generator on its device, in one of three ways chosen once from the class sizes (`Negatives`).

Tian, Krishnan, Isola: Contrastive Representation Distillation. ICLR 2020, arXiv 1910.10699.
Constants: RepDistiller crd/criterion.py, crd/memory.py, scripts (`--distill crd -a 0 -b 0.8`, CRD+KD `-a 1 -b 0.8`), train_student.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import check_range, known, with_gradient
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

if TYPE_CHECKING:
    from models import NetInfo

EPS = 1e-7


class Negatives(nn.Module):
    """Draws K training images of other classes for each row of a batch, uniformly.

    Images are kept in class order; of the M images of other classes a draw is a position 0..M-1, with the row's own class skipped.

    - fewer than K images of other classes (small data sets): with replacement.
    - classes of equal size (CIFAR): without replacement within a row: each row reads K consecutive entries, from a random start, of
      one random permutation of 0..M-1 that is drawn for the step. Every row's set is uniformly distributed; rows of one step share the
      permutation, so they are not independent of each other. (Independent draws for each row cost some hundred times more.)
    - else: without replacement and independent, by the K largest of random keys.
    """

    order: Tensor
    labels: Tensor
    count: Tensor
    start: Tensor

    def __init__(self, labels: Tensor, num_classes: int, k: int) -> None:
        super().__init__()
        counts = torch.bincount(labels.cpu(), minlength=num_classes)
        order = torch.argsort(labels.cpu(), stable=True)
        self.k = k
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("labels", labels.cpu(), persistent=False)
        self.register_buffer("count", counts, persistent=False)
        self.register_buffer("start", counts.cumsum(0) - counts, persistent=False)
        others = len(labels) - counts[counts > 0]
        self.others = int(others.min())
        if self.others < k:
            self.mode = "replacement"
        elif bool((others == others[0]).all()):
            self.mode = "window"
        else:
            self.mode = "keys"

    def forward(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Classes int64 `[B]` -> positions in the training set int64 `[B, K]`, none of the row's own class."""
        device, rows = labels.device, len(labels)
        if self.mode == "keys":
            keys = torch.rand(rows, len(self.labels), generator=generator, device=device)
            keys = keys.masked_fill(self.labels[None, :] == labels[:, None], -1.0)
            return keys.topk(self.k, dim=1, sorted=False).indices
        if self.mode == "window":
            deck = torch.randperm(self.others, generator=generator, device=device)
            begin = torch.randint(self.others, (rows, 1), generator=generator, device=device)
            ring = torch.cat([deck, deck[: self.k]]).int()
            position = ring.unfold(0, self.k, 1).index_select(0, begin[:, 0])
        else:
            others = len(self.labels) - self.count[labels][:, None]
            draw = torch.rand(rows, self.k, generator=generator, device=device, dtype=torch.float64)
            position = (draw * others).int()
        own, size = (x[labels][:, None].int() for x in (self.start, self.count))
        position += (position >= own) * size
        return self.order.take(position.long())


def scores(anchors: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """Dot products `[B, K + 1]` of anchors `[B, d]` with the bank rows `index` `[B, K + 1]`: product with all rows, then a gather."""
    return (anchors @ bank.t()).gather(1, index)


def scores_by_rows(anchors: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """The same by gathering rows first: `[B, K + 1, d]` in memory. The reference form."""
    return torch.einsum("bd,bkd->bk", anchors, bank[index])


def nce_loss(p: Tensor, n: int) -> Tensor:
    """`-(log h(positive) + sum log(1 - h(negative)))`, mean over rows. p: `[B, K + 1]`, the positive first; n: training images."""
    noise = (p.shape[1] - 1) / n
    positive = torch.log(p[:, 0] / (p[:, 0] + noise + EPS))
    negative = torch.log(noise / (p[:, 1:] + noise + EPS)).sum(1)
    return -(positive + negative).mean()


@torch.no_grad()
def nce_with_gradient(
    anchors: Tensor, bank: Tensor, z: Tensor, index: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """`nce_loss(exp(scores(anchors, bank, index) / temperature) / z, n)` and its gradient to the anchors, `[B, d]`, in one go.

    By hand, since B x n numbers are many: they are written once for the scores, and once more where they lie for the scores' gradient, which is
    (h - [positive]) / (temperature B). z: below 0 before the first batch, which sets it; no look is taken at its value.
    """
    n, noise = len(bank), (index.shape[1] - 1) / len(bank)
    every = anchors @ bank.t()
    p = every.gather(1, index).div_(temperature).exp_()
    z.copy_(torch.where(z < 0, p.mean() * n, z))
    p.div_(z)
    odds = p + (noise + EPS)
    h = p.div_(odds)
    value = (odds[:, 1:].div_(noise).log_().sum(1) - h[:, 0].log()).mean()
    part = 1 / (temperature * len(anchors))
    h.mul_(part)
    h[:, 0] -= part
    gradient = every.zero_().scatter_add_(1, index, h) @ bank
    return value, gradient


@dataclass(frozen=True, kw_only=True)
class CRDConfig(MethodConfig):
    weight: float = param(
        0.8, "weight of the contrastive term", "RepDistiller run_cifar_distill.sh --distill crd -b 0.8"
    )
    temperature: float = param(
        0.07, "temperature tau (the paper's: 0.1)", "RepDistiller train_student.py --nce_t 0.07"
    )
    negatives: int = param(16384, "negatives K of each anchor", "RepDistiller train_student.py --nce_k 16384")
    momentum: float = param(
        0.5, "part of the old row in a bank's update", "RepDistiller train_student.py --nce_m 0.5"
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
    formula = "CE + 0.8 (L_s + L_t), noise-contrastive: -(log h(pos) + sum_16384 log(1 - h(neg))), memory banks, tau = 0.07"
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
    def memory(cls, config: CRDConfig, num_train: int, num_classes: int, teacher: NetInfo | None) -> int:
        return 2 * num_train * config.dim

    @classmethod
    def needs(cls, config: CRDConfig) -> Needs:
        return Needs.of("embedding logits", "embedding")

    def __init__(self, config: CRDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = known(context.student, context.teacher)
        self.embed_s = nn.Linear(student.embedding_dim, config.dim)
        self.embed_t = nn.Linear(teacher.embedding_dim, config.dim)
        self.negatives = Negatives(context.train_labels, context.num_classes, config.negatives)
        bound = 1 / math.sqrt(config.dim / 3)
        for which in ("s", "t"):
            self.register_buffer(
                f"bank_{which}", torch.empty(context.num_train, config.dim).uniform_(-bound, bound)
            )
            self.register_buffer(f"z_{which}", torch.tensor(-1.0))
        self._new: tuple[Tensor, Tensor, Tensor] | None = None

    def loss(self, step: Step) -> Terms:
        if not self.active("crd"):
            return {}
        v_s = F.normalize(self.embed_s(step.student.embedding), dim=1)
        v_t = F.normalize(self.embed_t(step.teacher.embedding), dim=1)
        index = torch.cat([step.indices[:, None], self.negatives(step.labels, step.generator)], dim=1)
        total = self._one(v_s, self.bank_t, self.z_s, index) + self._one(v_t, self.bank_s, self.z_t, index)
        self._new = (step.indices, v_s.detach(), v_t.detach())
        return {"crd": total}

    def _one(self, anchors: Tensor, bank: Tensor, z: Tensor, index: Tensor) -> Tensor:
        value, gradient = nce_with_gradient(anchors.detach(), bank, z, index, self.config.temperature)
        return with_gradient(anchors, value, gradient)

    def after_step(self) -> None:
        """Updates the banks. Not earlier: the backward pass still reads them."""
        if self._new is None:
            return
        (rows, v_s, v_t), self._new = self._new, None
        m = self.config.momentum
        for bank, new in ((self.bank_s, v_s), (self.bank_t, v_t)):
            bank[rows] = F.normalize(m * bank[rows] + (1 - m) * new, dim=1)
