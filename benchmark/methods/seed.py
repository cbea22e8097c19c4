"""SEED: match the student's similarities to a long queue of earlier images with the teacher's.

    L = ce * CE + weight * mean_i H( softmax(z_t . D_i / tau_t), softmax(z_s . D_i / tau_s) )
    D_i = [z_t(i), queue]

- z_t: the teacher's embedding, L2-normalised, `[B, d]`.
- z_s: the student's embedding, mapped by the head to the teacher's size d and L2-normalised, `[B, d]`.
- queue: the teacher's embeddings of the last 65,536 images (`queue`), at first random unit vectors.
- D_i: the 1 + queue embeddings that image i is compared with.
- H: cross-entropy of two distributions over these.
- CE: cross-entropy of the student's logits with the labels.

After each step the batch replaces the oldest entries of the queue.

Modules: the head, Linear-ReLU-Linear, which trains with the student and is dropped at test time. The queue
and its write position are buffers.

Differences from the original: the paper uses no labels. Its teacher is self-supervised, this term is the
only loss, and a linear classifier is fitted to the frozen embedding afterwards. Here:
- Only the embedding of the teacher is read. TEACHERS= supplies a self-supervised teacher: a checkpoint of
  one of the suite's networks, whose classifier may hold any values, for example zeros. (The Teacher row of
  a table then measures that classifier and is meaningless.)
- labels = "student" is the default, as in the rest of the tables: the cross-entropy (ce = 1) trains the
  whole student beside this term.
- labels = "classifier" (`--set seed.labels=classifier`) hides the labels from the student. Only its
  classifier is fitted to the embedding, while the embedding is learnt. The gradient stops there, so the rest
  of the student does not depend on any label. Top-1 is then that of a linear probe trained alongside, a
  common monitor in self-supervised learning. The paper fits its classifier to convergence afterwards, which
  is not done here.
- Not covered: training a self-supervised teacher (MoCo, SwAV, ...), the paper's views, its schedule without
  labels and the nearest-neighbour evaluation.

- The released code compares the outputs of the teacher's projector (MoCo's or SwAV's), not its embeddings,
  and divides the teacher's similarities by 1e-4 (seed/builder.py, `temp`), where this file has 0.01.

Constants: queue = 65536 and tau_s = 0.2 (jacobswan1/SEED at f236cac, README). tau_t = 0.01, the form of the
head and the weight are unverified.

Paper: Fang, Wang, Wang, Zhang, Yang, Liu: SEED: Self-supervised Distillation For Visual Representation.
ICLR 2021, arXiv 2101.04731.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import check_range, require_networks
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

if TYPE_CHECKING:
    from models import NetInfo


@dataclass(frozen=True, kw_only=True)
class SEEDConfig(MethodConfig):
    weight: float = param(
        1.0,
        "weight of the SEED term",
        "Fang et al., where it is the only term; unverified beside a cross-entropy",
    )
    queue: int = param(65536, "number of embeddings in the queue", "jacobswan1/SEED README, 65536")
    teacher_temperature: float = param(
        0.01, "temperature tau_t of the teacher", "Fang et al., 0.01; unverified"
    )
    student_temperature: float = param(
        0.2, "temperature tau_s of the student", "jacobswan1/SEED README, --temp 0.2"
    )
    labels: str = param(
        "student",
        "what the cross-entropy with the labels trains: the whole student, or only its classifier",
        "this suite; Fang et al. use no labels and fit a classifier afterwards",
        allowed=("student", "classifier"),
    )

    def __post_init__(self) -> None:
        check_range("seed.queue", self.queue, 2)
        check_range("seed.teacher_temperature", self.teacher_temperature, 0.0, above=True)
        check_range("seed.student_temperature", self.student_temperature, 0.0, above=True)


class SEED(Method):
    name = "seed"
    title = "SEED"
    formula = (
        "CE + H(softmax(z_t . D/0.01), softmax(z_s . D/0.2)), "
        "D = the teacher's embedding and a queue of 65,536 earlier ones"
    )
    paper = "Fang et al., SEED: Self-supervised Distillation For Visual Representation, ICLR 2021"
    bibtex = """@inproceedings{fang2021seed,
  title     = {{SEED}: Self-supervised Distillation For Visual Representation},
  author    = {Fang, Zhiyuan and Wang, Jianfeng and Wang, Lijuan and Zhang, Lei and Yang, Yezhou and
               Liu, Zicheng},
  booktitle = {International Conference on Learning Representations},
  year      = {2021}
}"""
    Config = SEEDConfig
    bank: Tensor
    place: Tensor

    @classmethod
    def buffer_elements(
        cls, config: SEEDConfig, num_train: int, num_classes: int, teacher: NetInfo | None
    ) -> int:
        return 0 if teacher is None else config.queue * teacher.embedding_dim

    @classmethod
    def needs(cls, config: SEEDConfig) -> Needs:
        return Needs.of("embedding logits", "embedding")

    def __init__(self, config: SEEDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = require_networks(context.student, context.teacher)
        d, out = student.embedding_dim, teacher.embedding_dim
        self.head = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, out))
        self.register_buffer("bank", F.normalize(torch.randn(config.queue, out), dim=1))
        self.register_buffer("place", torch.tensor(0))  # where the next batch is written
        # The teacher's embeddings of the current batch, until `after_step` puts them into the queue.
        self._new: Tensor | None = None
        # A function, not the module: the classifier belongs to the student and not to this method's state.
        self._classifier: Callable[[], nn.Linear] | None = (
            None if context.student_net is None else context.student_net.linear_head
        )

    def task_loss(self, step: Step) -> Tensor | None:
        if self.config.labels == "student":
            return None
        assert self._classifier is not None
        classifier = self._classifier()
        logits = F.linear(step.student.embedding.detach(), classifier.weight, classifier.bias)
        return F.cross_entropy(logits, step.labels)

    def loss(self, step: Step) -> Terms:
        if not self.is_active("seed"):
            return {}
        c: SEEDConfig = self.config
        z_s = F.normalize(self.head(step.student.embedding), dim=1)
        z_t = F.normalize(step.teacher.embedding, dim=1)
        similar_s, similar_t = (self._similarities(z, z_t) for z in (z_s, z_t))
        target = torch.softmax(similar_t / c.teacher_temperature, dim=1)
        self._new = z_t
        return {"seed": F.cross_entropy(similar_s / c.student_temperature, target)}

    def _similarities(self, z: Tensor, z_t: Tensor) -> Tensor:
        """Return the products with the teacher's embedding of the same image and with the queue.

        z, z_t: `[B, d]`. The result is `[B, 1 + queue]`.
        """
        return torch.cat([(z * z_t).sum(1, keepdim=True), z @ self.bank.t()], dim=1)

    def after_step(self) -> None:
        """Replace the oldest entries of the queue by the batch, after the backward pass has read them."""
        if self._new is None:
            return
        new, self._new = self._new[-len(self.bank) :], None
        rows = (self.place + torch.arange(len(new), device=self.place.device)) % len(self.bank)
        self.bank[rows] = new.to(self.bank.dtype)
        self.place.add_(len(new)).remainder_(len(self.bank))
