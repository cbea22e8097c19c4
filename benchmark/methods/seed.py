"""SEED: the student is to see an image among a long queue of earlier ones as the teacher does.

    L = ce * CE + weight * mean_i H( softmax(z_t . D_i / tau_t), softmax(z_s . D_i / tau_s) ),    D_i = [z_t(i), queue]

z_t: the teacher's embedding, z_s: the student's behind a head Linear-ReLU-Linear to the teacher's size, both L2-normalised; the queue holds the
teacher's embeddings of the last `queue` images (65,536), random unit vectors at first. After the step the batch takes the place of the
oldest. Trained with the student: the head. The queue and its place are buffers.

The paper has no labels: a self-supervised teacher, this term alone, and a linear classifier fitted afterwards on the frozen embedding. Here

- of the teacher only the embedding is read. A self-supervised one is given by TEACHERS=: a checkpoint of one of the suite's networks whose
  classifier may hold anything, zeros say (the tables' Teacher row then measures that classifier and means nothing);
- labels = "classifier" (`--set seed.labels=classifier`) keeps the labels from the student: its classifier is fitted to the embedding while that
  is learnt, the gradient goes no further, and no bit of the rest depends on a label. Top-1 is then that of a linear probe that learnt
  along, usual as a monitor of self-supervision; the paper fits its own to the end afterwards, which is not done here;
- labels = "student", as everything else in the tables, trains all of the student with the cross-entropy (ce = 1) beside this term.

Not covered: training a self-supervised teacher (MoCo, SwAV ...), the paper's views and its schedule without labels, the nearest-neighbour test.

Fang, Wang, Wang, Zhang, Yang, Liu: SEED: Self-supervised Distillation For Visual Representation. ICLR 2021, arXiv 2101.04731.
Constants: queue 65536 (jacobswan1/SEED README); tau_t = 0.01, tau_s = 0.2, the head's form and the weight are unverified.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import check_range, known
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

if TYPE_CHECKING:
    from models import NetInfo


@dataclass(frozen=True, kw_only=True)
class SEEDConfig(MethodConfig):
    weight: float = param(
        1.0, "weight of the term", "Fang et al., the only term; beside a classifier unverified"
    )
    queue: int = param(65536, "embeddings that the queue holds", "jacobswan1/SEED README, 65536")
    teacher_temperature: float = param(0.01, "tau of the teacher", "Fang et al., 0.01; unverified")
    student_temperature: float = param(0.2, "tau of the student", "Fang et al., 0.2; unverified")
    labels: str = param(
        "student",
        "what the cross-entropy with the labels trains: all of the student, or its classifier alone on an embedding without labels",
        "the suite's; Fang et al. have no labels and fit a classifier afterwards",
        allowed=("student", "classifier"),
    )

    def __post_init__(self) -> None:
        check_range("seed.queue", self.queue, 2)
        check_range("seed.teacher_temperature", self.teacher_temperature, 0.0, above=True)
        check_range("seed.student_temperature", self.student_temperature, 0.0, above=True)


class SEED(Method):
    name = "seed"
    title = "SEED"
    formula = "CE + H(softmax(z_t . D/0.01), softmax(z_s . D/0.2)), D = the teacher's embedding and a queue of 65,536 earlier ones"
    paper = "Fang et al., SEED: Self-supervised Distillation For Visual Representation, ICLR 2021"
    bibtex = """@inproceedings{fang2021seed,
  title     = {{SEED}: Self-supervised Distillation For Visual Representation},
  author    = {Fang, Zhiyuan and Wang, Jianfeng and Wang, Lijuan and Zhang, Lei and Yang, Yezhou and Liu, Zicheng},
  booktitle = {International Conference on Learning Representations},
  year      = {2021}
}"""
    Config = SEEDConfig
    bank: Tensor
    place: Tensor

    @classmethod
    def memory(cls, config: SEEDConfig, num_train: int, num_classes: int, teacher: NetInfo | None) -> int:
        return 0 if teacher is None else config.queue * teacher.embedding_dim

    @classmethod
    def needs(cls, config: SEEDConfig) -> Needs:
        return Needs.of("embedding logits", "embedding")

    def __init__(self, config: SEEDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = known(context.student, context.teacher)
        d, out = student.embedding_dim, teacher.embedding_dim
        self.head = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, out))
        self.register_buffer("bank", F.normalize(torch.randn(config.queue, out), dim=1))
        self.register_buffer("place", torch.tensor(0))
        self._new: Tensor | None = None
        # asked of the student at each step: the classifier is its module, not one of ours
        self._classifier: Callable[[], nn.Linear] | None = (
            None if context.student_net is None else context.student_net.linear_head
        )

    def task_loss(self, step: Step) -> Tensor | None:
        if self.config.labels == "student":
            return None
        assert self._classifier is not None
        classifier = self._classifier()
        return F.cross_entropy(
            F.linear(step.student.embedding.detach(), classifier.weight, classifier.bias), step.labels
        )

    def loss(self, step: Step) -> Terms:
        if not self.active("seed"):
            return {}
        c: SEEDConfig = self.config
        z_s = F.normalize(self.head(step.student.embedding), dim=1)
        z_t = F.normalize(step.teacher.embedding, dim=1)
        against_s, against_t = (self._against(z, z_t) for z in (z_s, z_t))
        target = torch.softmax(against_t / c.teacher_temperature, dim=1)
        self._new = z_t
        return {"seed": F.cross_entropy(against_s / c.student_temperature, target)}

    def _against(self, z: Tensor, z_t: Tensor) -> Tensor:
        """`[B, 1 + queue]`: products with the image's own teacher embedding and with the queue."""
        return torch.cat([(z * z_t).sum(1, keepdim=True), z @ self.bank.t()], dim=1)

    def after_step(self) -> None:
        """The batch takes the oldest places. Not earlier: the backward pass still reads the queue."""
        if self._new is None:
            return
        new, self._new = self._new[-len(self.bank) :], None
        rows = (self.place + torch.arange(len(new), device=self.place.device)) % len(self.bank)
        self.bank[rows] = new.to(self.bank.dtype)
        self.place.add_(len(new)).remainder_(len(self.bank))
