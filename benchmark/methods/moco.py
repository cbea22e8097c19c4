"""MoCo-v2: pre-training without labels and without a teacher, for teachers of `seed` and `dlkd`.

    L = weight * mean_i CE( [q_i . k_i, q_i . queue] / tau, class 0 )

- q: the student's embedding of the view `normal`, mapped by the projector and L2-normalised, `[B, 128]`.
- k: the same of the view `second`, by the momentum encoder: a copy of the student and of its projector whose
  parameters follow theirs. No gradient reaches it.
- queue: k of the last 65,536 images (`queue`), at first random unit vectors.

After each step, the batch's k replace the oldest entries of the queue, and each parameter p_k of the momentum
encoder becomes momentum * p_k + (1 - momentum) * p_q. (The code does the latter at the beginning of the next
step, which is the same.) The batch size must divide the queue's size.

Modules: the projector, Linear(d, d)-ReLU-Linear(d, 128), which trains with the student and is stored with its
weights; the momentum encoder and the queue, which do not train.

The batch norms of both encoders are in train mode, each over its own batch. MoCo shuffles the images between
the batch norms of q and k because those of several GPUs normalise the parts of a batch separately, and the
part then tells which k belongs to q. On one device a batch norm sees the whole batch, so that a shuffle would
change nothing, and there is none. (MoCo's example for CIFAR-10 splits the batch on one device; that is not
done here.)

No label reaches the network. The cross-entropy (ce = 1) trains its classifier alone, as a monitor (see
benchmark/methods/_monitor.py); `--set moco.ce=0` leaves the classifier untrained.

Constants and schedule: facebookresearch/moco, README (`--mlp --moco-t 0.2 --aug-plus --cos`) and defaults of
main_moco.py: 200 epochs, learning rate 0.03 for batches of 256, cosine, weight decay 1e-4. The view is the
augmentation `contrast` (benchmark/data/views.py).

Paper: Chen, Fan, Girshick, He: Improved Baselines with Momentum Contrastive Learning. 2020, arXiv 2003.04297.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.data.views import NORMAL, SECOND
from benchmark.errors import InputError
from benchmark.methods._common import check_range
from benchmark.methods._monitor import Monitor
from benchmark.methods._queue import EmbeddingQueue, check_queue
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param
from models import mlp

if TYPE_CHECKING:
    from models import NetInfo


@dataclass(frozen=True, kw_only=True)
class MoCoConfig(MethodConfig):
    ce: float = param(
        1.0, "weight of the cross-entropy, which trains the classifier alone", "this suite; MoCo has none"
    )
    weight: float = param(1.0, "weight of the contrastive loss", "Chen et al., where it is the only term")
    queue: int = param(65536, "number of vectors in the queue", "MoCo main_moco.py, --moco-k 65536")
    temperature: float = param(0.2, "temperature tau", "MoCo README, --moco-t 0.2")
    momentum: float = param(0.999, "momentum of the second encoder", "MoCo main_moco.py, --moco-m 0.999")
    dim: int = param(128, "size of the projected vectors", "MoCo main_moco.py, --moco-dim 128")

    def __post_init__(self) -> None:
        check_range("moco.queue", self.queue, 2)
        check_range("moco.temperature", self.temperature, 0.0, above=True)
        check_range("moco.dim", self.dim, 1)
        if not 0 <= self.momentum < 1:
            raise InputError(f"moco.momentum={self.momentum}; allowed: 0 and more, below 1")


class MoCo(Method):
    name = "moco"
    title = "MoCo-v2"
    formula = (
        "CE([q . k, q . queue]/0.2, the first), k by a momentum encoder (0.999) from a second view, 65,536 "
        "earlier k; labels train the classifier alone"
    )
    paper = "Chen et al., Improved Baselines with Momentum Contrastive Learning, 2020"
    bibtex = """@misc{chen2020improved,
  title  = {Improved Baselines with Momentum Contrastive Learning},
  author = {Chen, Xinlei and Fan, Haoqi and Girshick, Ross and He, Kaiming},
  year   = {2020},
  note   = {arXiv:2003.04297}
}"""
    Config = MoCoConfig
    pretrains = True

    @classmethod
    def needs(cls, config: MoCoConfig) -> Needs:
        return Needs(student=frozenset({"embedding", "logits"}), views=(NORMAL,), images=(SECOND,))

    @classmethod
    def schedule(cls) -> dict[str, Any]:
        return {
            "epochs": 200,
            "milestones": (),
            "schedule": "cosine",
            "warm_up": 0,
            "lr": 0.03,
            "batch_size": 256,
            "weight_decay": 1e-4,
            "drop_last": True,
            "augment": "contrast",
        }

    @classmethod
    def buffer_elements(
        cls, config: MoCoConfig, num_train: int, num_classes: int, teacher: NetInfo | None
    ) -> int:
        return config.queue * config.dim

    def __init__(self, config: MoCoConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        check_queue("moco.queue", config.queue, context.batch_size)
        if context.student is None or context.student_net is None:
            raise ValueError("moco needs a student")
        d, student = context.student.embedding_dim, context.student_net
        self.projector = mlp(d, d, config.dim)
        self.encoder_k = copy.deepcopy(student).requires_grad_(False)
        self.projector_k = copy.deepcopy(self.projector).requires_grad_(False)
        self.queue = EmbeddingQueue(config.queue, config.dim)
        self._monitor = Monitor(context)
        # Tuples, not modules: the student's parameters do not belong to this method's state.
        classifier = {id(p) for p in student.linear_head().parameters()}
        self._followed = tuple(p for p in student.parameters() if id(p) not in classifier)
        of_copy = {id(p) for p in self.encoder_k.linear_head().parameters()}
        self._following = tuple(p for p in self.encoder_k.parameters() if id(p) not in of_copy)

    def saved_projector(self) -> nn.Module:
        return self.projector

    def task_loss(self, step: Step) -> Tensor | None:
        return self._monitor.loss(step)

    def loss(self, step: Step) -> Terms:
        if not self.is_active("moco"):
            return {}
        k = self._keys(step.images[SECOND.name])
        q = F.normalize(self.projector(step.student.embedding), dim=1)
        logits = self.queue.products(q, k) / self.config.temperature
        self.queue.append_later(k)
        return {"moco": F.cross_entropy(logits, torch.zeros_like(logits[:, 0], dtype=torch.int64))}

    @torch.no_grad()
    def _keys(self, images: Tensor) -> Tensor:
        """Return the momentum encoder's vectors of images: `[B, 3, H, W]` to `[B, 128]`."""
        first = next(self.encoder_k.parameters())
        with self.autocast():
            embedding = self.encoder_k.features(images.to(first.dtype), preacts=False).embedding
        return F.normalize(self.projector_k(embedding.to(first.dtype)), dim=1)

    def after_step(self) -> None:
        self.queue.write()
        following: list[Tensor] = [*self._following, *self.projector_k.parameters()]
        followed: list[Tensor] = [*self._followed, *self.projector.parameters()]
        torch._foreach_lerp_(following, followed, 1 - self.config.momentum)
