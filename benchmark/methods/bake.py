"""Batch knowledge ensembling (BAKE): each image's target is an average of the predictions for similar images.

    L = ce * CE(z, y) + weight * T^2 * KL(sg Q || softmax(z / T))
    Q = (1 - w) (I - w A)^-1 P,    P = softmax(z / T)
    A_ij = exp(f_i . f_j) / sum_{k != i} exp(f_i . f_k)  for i != j,    A_ii = 0

- z: the network's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- f: L2-normalised embeddings, `[B, D]`.
- A: similarities within the batch, `[B, B]`; each row sums to 1.
- Q: soft targets, `[B, C]`; each row sums to 1.
- w: share of the neighbours in Q.
- T: temperature.
- sg: stop-gradient.

KL is summed over the classes and averaged over the batch.

Batches: the method needs several images of a class in one batch. The sampler `FOURS` adds to each image three
others of its class (M = 3, fixed by the sampler). All of them count in both terms of the loss, so a batch has
four times the protocol's number of images, and an epoch shows four times the training set.

Modules: none.

The released code divides its batch size of 128 by M + 1, so its batches have 32 images and 96 others;
Self-KD-Lib does not, so its batches have 128 and 384. An epoch is the same: every image once, with M others.

Constants: yxgeee/BAKE at 07c4f66, small_scale/train.py (w = 0.5 and M = 3 on CIFAR, T = 4, weight 1); the
form of A is that of its knowledge_ensemble.

Paper: Ge, Zhang, Choi, Cheung, Zhao, Zhu, Wang, Zhao, Li: Self-distillation with Batch Knowledge Ensembling
Improves ImageNet Classification. arXiv 2104.13298, 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.data.samplers import FOURS
from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param


@dataclass(frozen=True, kw_only=True)
class BAKEConfig(MethodConfig):
    weight: float = param(1.0, "weight of the KL with the targets Q", "BAKE, lambda = 1")
    omega: float = param(0.5, "share w of the neighbours in the targets", "BAKE, omega = 0.5 on CIFAR-100")
    temperature: float = param(4.0, "temperature T of targets and predictions", "BAKE, temperature 4")

    def __post_init__(self) -> None:
        check_range("bake.omega", self.omega, 0.0, 0.99)
        check_range("bake.temperature", self.temperature, 0.0, above=True)


def propagated(features: Tensor, predictions: Tensor, omega: float) -> Tensor:
    """Return the targets Q `[B, C]` from embeddings `[B, D]` and predictions P `[B, C]`."""
    f = F.normalize(features, dim=1)
    identity = torch.eye(len(f), dtype=f.dtype, device=f.device)
    affinity = torch.exp(f @ f.t()) * (1 - identity)
    affinity = affinity / affinity.sum(1, keepdim=True)
    # `solve_ex` skips the check for a singular matrix, which would make the host wait for the device.
    # For w < 1, the matrix I - w A is diagonally dominant, hence not singular.
    solved: Tensor = torch.linalg.solve_ex(identity - omega * affinity, predictions)[0]
    return (1 - omega) * solved


class BAKE(Method):
    name = "bake"
    title = "BAKE"
    formula = (
        "CE + T^2 KL(sg Q || softmax(z/T)), Q = (1 - w)(I - w A)^-1 softmax(z/T), "
        "A from cosines in the batch, w = 0.5, T = 4"
    )
    paper = (
        "Ge et al., Self-distillation with Batch Knowledge Ensembling Improves ImageNet Classification, 2021"
    )
    bibtex = """@article{ge2021self,
  title   = {Self-distillation with Batch Knowledge Ensembling Improves ImageNet Classification},
  author  = {Ge, Yixiao and Zhang, Xiao and Choi, Ching Lam and Cheung, Ka Chun and Zhao, Peipei and
             Zhu, Feng and Wang, Xiaogang and Zhao, Rui and Li, Hongsheng},
  journal = {arXiv preprint arXiv:2104.13298},
  year    = {2021}
}"""
    revision = 2
    sampler = FOURS
    Config = BAKEConfig

    @classmethod
    def needs(cls, config: BAKEConfig) -> Needs:
        return Needs.of("embedding logits")

    def loss(self, step: Step) -> Terms:
        if not self.is_active("bake"):
            return {}
        t = self.config.temperature
        log_p = F.log_softmax(step.student.logits / t, dim=1)
        with torch.no_grad():
            target = propagated(step.student.embedding, log_p.exp(), self.config.omega)
        return {"bake": F.kl_div(log_p, target, reduction="batchmean") * t**2}
