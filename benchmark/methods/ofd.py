"""Overhaul of feature distillation (OFD): match pre-activations with a margin and a one-sided distance.

    L = ce * CE(z_s, y) + weight * sum over stages l = 1..n of 2^(l - n) * (1/B) sum over elements of d(s, t)
    s = C_l(P_s^l),  t = max(P_t^l, m_l)
    d(s, t) = (s - t)^2 if s > t or t > 0, else 0         (no penalty for a student below a negative target)
    m_l = E[x | x < 0] for x ~ N(beta, |gamma|)           (the margin, one value for each channel)
        = beta - |gamma| phi(beta / |gamma|) / Phi(-beta / |gamma|),   or -3 |gamma| where Phi <= 0.001

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- P_s^l, P_t^l: pre-activations (maps before the last ReLU) of stage l of student and teacher,
  `[B, c_s, H, W]` and `[B, c_t, H, W]`. The last stages are paired, then the ones before them, and so on for
  n pairs; the first stages of the network that has more are not used. Where the sizes differ, the teacher's
  map is adaptive-average-pooled to the student's size. The teacher runs in train mode.
- beta, gamma: bias and scale of the teacher's batch norm before that ReLU. In a residual network, where the
  ReLU follows an addition, this is the batch norm that ends the residual branch.
- phi, Phi: density and distribution function of the standard normal.

Modules: C_l is a 1x1 convolution (c_s -> c_t, no bias, initialised from N(0, 2 / c_t)) and batch norm. It
trains with the student and is dropped at test time. The margins are buffers.

Differences between paper and code: the authors' training loop puts the teacher into train mode, so that its
batch norms use the statistics of the batch, and so does mdistiller's OFD. The paper does not say so. The
running statistics of the authors' teacher move meanwhile, but no pass reads them; here they stay as they are,
and the other methods of a pack read the teacher in eval mode, in a pass of its own.

Sources of the details: clovaai/overhaul-distillation at 76344a8, CIFAR-100/distiller.py and
train_with_distillation.py (loss, margins, factors 2^(l - n), initialisation). It only has pairs with equal
numbers of stages and equal sizes; the alignment from the end and the pooling are mdistiller's at a08d46f
(distillers/OFD.py). Its recipe is not this suite's: 200 epochs of batch 128, Nesterov momentum, learning rate
0.1 divided by 10 at half and at three quarters, images padded by reflection.

Constants: weight = 1e-3 (CIFAR-100: loss / batch / 1000; its results are medians of 5 final models).

Paper: Heo, Kim, Yun, Park, Kwak, Choi: A Comprehensive Overhaul of Feature Distillation. ICCV 2019,
arXiv 1904.01866.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import require_networks
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param
from models import Network
from models.network import PostActivationNetwork, PreActivationNetwork

if TYPE_CHECKING:
    from models import NetInfo

S = TypeVar("S")
T = TypeVar("T")


def norms_before_relu(net: Network) -> list[nn.BatchNorm2d]:
    """Return the batch norm before each stage's last ReLU (in a WRN or DenseNet, it follows the stage).

    Raises `ValueError` for a network whose stages cannot be run one by one.
    """
    if isinstance(net, PreActivationNetwork):
        return [*(stage.first_norm() for stage in net.stages()[1:]), net.final_norm()]
    if not isinstance(net, PostActivationNetwork):
        raise ValueError(
            f"OFD reads the batch norm before each stage's last ReLU; derive the network {net.name} from "
            "PostActivationNetwork or PreActivationNetwork (models/network.py)"
        )
    executed: list[nn.BatchNorm2d] = []
    hooks = [
        m.register_forward_hook(lambda module, *_: executed.append(module))
        for m in net.modules()
        if isinstance(m, nn.BatchNorm2d)
    ]
    last_norms = []
    first = next(net.parameters())
    # Autocast: a frozen network's convolutions may be in bf16 and the rest in fp32 (see `models.freeze`).
    with (
        torch.no_grad(),
        torch.autocast(first.device.type, torch.bfloat16, enabled=first.dtype == torch.bfloat16),
    ):
        x = net.run_stem(torch.zeros(1, 3, 32, 32, device=first.device, dtype=first.dtype))
        for stage in range(net.num_stages):
            x = net.run_stage(stage, x)[0]
            last_norms.append(executed[-1])
    for hook in hooks:
        hook.remove()
    return last_norms


def margin(norm: nn.BatchNorm2d) -> Tensor:
    """Return the margin m of each channel of a batch norm, float64 `[C]`."""
    sigma, mu = norm.weight.detach().double().abs(), norm.bias.detach().double()
    ratio = mu / sigma.clamp_min(1e-300)
    below = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    return torch.where(below > 0.001, mu - sigma * density / below.clamp_min(1e-300), -3 * sigma)


def partial_distance(student: Tensor, target: Tensor) -> Tensor:
    """Return the sum of d over all elements of two maps `[B, c_t, H, W]`, a scalar."""
    penalised = (student > target) | (target > 0)
    return ((student - target).square() * penalised).sum()


def pair_from_the_end(student: Sequence[S], teacher: Sequence[T]) -> list[tuple[S, T]]:
    """Return the stages (maps or shapes) paired from the last one on, in order."""
    n = min(len(student), len(teacher))
    return list(zip(student[-n:], teacher[-n:], strict=True))


@dataclass(frozen=True, kw_only=True)
class OFDConfig(MethodConfig):
    weight: float = param(
        1e-3, "weight of the sum over stages", "overhaul-distillation, CIFAR-100: loss / 1000"
    )


class OFD(Method):
    name = "ofd"
    title = "OFD"
    formula = (
        "CE + 1e-3 sum_l 2^(l-n) sum d(C_l(P_s^l), max(P_t^l, margin)) / B, "
        "pre-activations, d one-sided below zero"
    )
    paper = "Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019"
    bibtex = """@inproceedings{heo2019comprehensive,
  title     = {A Comprehensive Overhaul of Feature Distillation},
  author    = {Heo, Byeongho and Kim, Jeesoo and Yun, Sangdoo and Park, Hyojin and Kwak, Nojun and
               Choi, Jin Young},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
  pages     = {1921--1930},
  year      = {2019}
}"""
    revision = 2
    Config = OFDConfig

    @classmethod
    def skip(cls, config: OFDConfig, student: NetInfo | None, teacher: NetInfo | None) -> str | None:
        if teacher is not None and teacher.by_hooks:
            return (
                f"OFD reads the batch norm before each stage's last ReLU, which {teacher.name} does not name"
            )
        return None

    @classmethod
    def needs(cls, config: OFDConfig) -> Needs:
        return Needs(frozenset({"preacts", "logits"}), teacher_in_train=frozenset({"preacts"}))

    def __init__(self, config: OFDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = require_networks(context.student, context.teacher)
        if context.teacher_net is None:
            raise ValueError("ofd needs the teacher's network: it reads the batch norms")
        pairs = pair_from_the_end(student.stage_shapes, teacher.stage_shapes)
        norms = norms_before_relu(context.teacher_net)[-len(pairs) :]
        self.connectors = nn.ModuleList()
        for number, (norm, (s, t)) in enumerate(zip(norms, pairs, strict=True)):
            conv = nn.Conv2d(s[0], t[0], 1, bias=False)
            nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / t[0]))
            self.connectors.append(nn.Sequential(conv, nn.BatchNorm2d(t[0])))
            self.register_buffer(f"margin_{number}", margin(norm).to(conv.weight)[:, None, None])

    def loss(self, step: Step) -> Terms:
        if not self.is_active("ofd"):
            return {}
        parts = []
        pairs = pair_from_the_end(step.student.preacts, step.teacher_in_train.preacts)
        for number, (connector, (p_s, p_t)) in enumerate(zip(self.connectors, pairs, strict=True)):
            if p_t.shape[-2:] != p_s.shape[-2:]:
                p_t = F.adaptive_avg_pool2d(p_t, (p_s.shape[-2], p_s.shape[-1]))
            target = torch.maximum(p_t, self.get_buffer(f"margin_{number}"))
            parts.append(partial_distance(connector(p_s), target) / 2 ** (len(pairs) - 1 - number))
        return {"ofd": torch.stack(parts).sum() / len(step.student.preacts[0])}
