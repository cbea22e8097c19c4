"""SEED: match the student's similarities to a long queue of earlier images with the teacher's.

    L = weight * mean_i H( softmax(z_t . D_i / tau_t), softmax(z_s . D_i / tau_s) )
    D_i = [z_t(i), queue]

- z_t: the teacher's projected embedding, L2-normalised, `[B, 128]`. The projector is the one that the
  teacher was pre-trained with (`models.Network.projector`), frozen, with its batch norms in eval mode.
- z_s: the student's embedding, mapped by the head to the size of z_t and L2-normalised.
- queue: z_t of the last 65,536 images (`queue`), at first random unit vectors.
- D_i: the 1 + queue vectors that image i is compared with. The teacher's own column is z_t . z_t = 1.
- H: cross-entropy of two distributions over these.

After each step the batch replaces the oldest entries of the queue, so a batch is never compared with itself.
The batch size must divide the queue's size. A smaller last batch (`drop_last` off) wraps around its end.

Modules: the head, Linear(d, d)-ReLU-Linear(d, 128), which trains with the student and is dropped at test
time. The queue and its write position are buffers.

A teacher that was trained with labels has no projector. Its pooled embedding is compared then, and the head
maps to the embedding's size. The paper has no such teacher.

Labels: the paper uses none, and fits a linear classifier to the frozen embedding afterwards.
- labels = "classifier", the default: the labels are hidden from the student. Only its classifier is fitted,
  to the embedding while that is learnt (benchmark/methods/_monitor.py). Top-1 is that of this classifier.
- labels = "student": the cross-entropy (ce = 1) trains the whole student beside this term.

The protocol `seed` has the schedule, the views and the teacher (a MoCo-v2 pre-training) of the original.

Until revision 2, this method compared pooled embeddings with tau_t = 0.01, the student trained with labels,
and queues of any size were allowed. These settings give that form:

    seed.form=embedding seed.teacher_temperature=0.01 seed.labels=student

Constants: jacobswan1/SEED at f236cac: tools/opts.py (`--distill-t` 1e-4, `--temp` 0.2, `--queue` 65536,
`--dim` 128) and seed/builder.py (the head, the order of the queue's update, the own column). The weight is 1
because the code has no other term.

Paper: Fang, Wang, Wang, Zhang, Yang, Liu: SEED: Self-supervised Distillation For Visual Representation.
ICLR 2021, arXiv 2101.04731.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import check_range, require_networks
from benchmark.methods._monitor import LABELS, Monitor
from benchmark.methods._queue import EmbeddingQueue, check_queue
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param
from models import mlp

if TYPE_CHECKING:
    from models import NetInfo


@dataclass(frozen=True, kw_only=True)
class SEEDConfig(MethodConfig):
    weight: float = param(
        1.0,
        "weight of the SEED term",
        "Fang et al., where it is the only term; unverified beside a cross-entropy",
    )
    queue: int = param(65536, "number of vectors in the queue", "SEED tools/opts.py, --queue 65536")
    teacher_temperature: float = param(
        1e-4, "temperature tau_t of the teacher", "SEED tools/opts.py, --distill-t 1e-4"
    )
    student_temperature: float = param(
        0.2, "temperature tau_s of the student", "SEED tools/opts.py, --temp 0.2"
    )
    form: str = param(
        "projector",
        "what is compared: the outputs of the teacher's projector, or the pooled embeddings",
        "SEED seed/builder.py; embedding: this suite before revision 2",
        allowed=("projector", "embedding"),
    )
    labels: str = param(
        "classifier",
        "what the cross-entropy with the labels trains: the whole student, or only its classifier",
        "this suite; Fang et al. use no labels and fit a classifier afterwards",
        allowed=LABELS,
    )

    def __post_init__(self) -> None:
        check_range("seed.queue", self.queue, 2)
        check_range("seed.teacher_temperature", self.teacher_temperature, 0.0, above=True)
        check_range("seed.student_temperature", self.student_temperature, 0.0, above=True)


class SEED(Method):
    name = "seed"
    title = "SEED"
    formula = (
        "H(softmax(z_t . D/1e-4), softmax(z_s . D/0.2)), D = the teacher's projected embedding and a queue "
        "of 65,536 earlier ones; labels train the classifier alone"
    )
    paper = "Fang et al., SEED: Self-supervised Distillation For Visual Representation, ICLR 2021"
    bibtex = """@inproceedings{fang2021seed,
  title     = {{SEED}: Self-supervised Distillation For Visual Representation},
  author    = {Fang, Zhiyuan and Wang, Jianfeng and Wang, Lijuan and Zhang, Lei and Yang, Yezhou and
               Liu, Zicheng},
  booktitle = {International Conference on Learning Representations},
  year      = {2021}
}"""
    revision = 2
    Config = SEEDConfig

    @classmethod
    def buffer_elements(
        cls, config: SEEDConfig, num_train: int, num_classes: int, teacher: NetInfo | None
    ) -> int:
        """Return the size of a queue of pooled embeddings; that of projected ones is smaller."""
        return 0 if teacher is None else config.queue * teacher.embedding_dim

    @classmethod
    def needs(cls, config: SEEDConfig) -> Needs:
        return Needs.of("embedding logits", "embedding")

    def __init__(self, config: SEEDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = require_networks(context.student, context.teacher)
        d, out = student.embedding_dim, teacher.embedding_dim
        # the teacher's module: as an attribute it stays outside this method (see `Method.__setattr__`)
        self.projector: nn.Module | None = None
        if config.form == "projector":
            check_queue("seed.queue", config.queue, context.batch_size)
            if context.teacher_net is not None and context.teacher_net.projector is not None:
                self.projector = context.teacher_net.projector
                out = list(self.projector.parameters())[-1].shape[0]
        self.head = mlp(d, d, out)
        self.queue = EmbeddingQueue(config.queue, out)
        self._monitor = Monitor(context)

    def task_loss(self, step: Step) -> Tensor | None:
        return self._monitor.loss(step) if self.config.labels == "classifier" else None

    def loss(self, step: Step) -> Terms:
        if not self.is_active("seed"):
            return {}
        c: SEEDConfig = self.config
        z_s = F.normalize(self.head(step.student.embedding), dim=1)
        z_t = F.normalize(self._projected(step.teacher.embedding), dim=1)
        target = torch.softmax(self.queue.products(z_t, z_t) / c.teacher_temperature, dim=1)
        self.queue.append_later(z_t)
        return {"seed": F.cross_entropy(self.queue.products(z_s, z_t) / c.student_temperature, target)}

    def _projected(self, embedding: Tensor) -> Tensor:
        """Return the teacher's projector's output, `[B, d]` to `[B, 128]`; the embedding if it has none."""
        if self.projector is None:
            return embedding
        with torch.no_grad():
            out: Tensor = self.projector(embedding)
        return out

    def after_step(self) -> None:
        self.queue.write()
