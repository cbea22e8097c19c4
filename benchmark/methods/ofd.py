"""OFD: an overhaul of feature distillation: pre-activations of each stage, a margin, and no penalty where it does not matter.

    L = ce * CE + weight * sum over stages l = 1..n of 2^(l - n) * (1/B) sum over elements of d(C_l(P_s^l), max(P_t^l, m_l))
    d(s, t) = (s - t)^2 if s > t or t > 0, else 0           (a student below a negative target is free)
    m = E[x | x < 0] for x ~ N(beta, |gamma|) of the teacher's batch norm before the stage's ReLU, channel by channel:
        m = beta - |gamma| phi(beta / |gamma|) / Phi(-beta / |gamma|),   or -3 |gamma| where Phi <= 0.001

P: pre-activations. C_l = conv1x1 without bias and batch norm, trained with the student and dropped at test time, drawn from
N(0, 2 / c_t). After the last block's addition of a residual net, the batch norm is the one that ends its residual branch.

Where sizes differ the larger map is adaptive-average-pooled to the smaller, and networks of different numbers of stages are paired in
order (the original has pairs of equal sizes only: unverified).

Heo, Kim, Yun, Park, Kwak, Choi: A Comprehensive Overhaul of Feature Distillation. ICCV 2019, arXiv 1904.01866.
Constants: overhaul-distillation@76344a8 CIFAR-100 (loss / batch / 1000; median of 5 final models); margin, 2^(l - n), initialisation:
its distiller.py (unverified).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.methods._common import known, match_spatial, pairs_of_stages
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param
from models import Network
from models.network import PostActivationNetwork, PreActivationNetwork


def norms_before_relu(net: Network) -> list[nn.BatchNorm2d]:
    """The batch norm before the last ReLU of each stage (the norm that follows the stage in a WRN or DenseNet)."""
    if isinstance(net, PreActivationNetwork):
        return [*(stage.opening() for stage in net.stages()[1:]), net.final_norm()]
    assert isinstance(net, PostActivationNetwork)
    seen: list[nn.BatchNorm2d] = []
    hooks = [
        m.register_forward_hook(lambda module, *_: seen.append(module))
        for m in net.modules()
        if isinstance(m, nn.BatchNorm2d)
    ]
    found = []
    first = next(net.parameters())
    # under autocast: a frozen network's convolutions may be in bf16 and the rest of it in fp32 (`models.freeze`)
    with (
        torch.no_grad(),
        torch.autocast(first.device.type, torch.bfloat16, enabled=first.dtype == torch.bfloat16),
    ):
        x = net.run_stem(torch.zeros(1, 3, 32, 32, device=first.device, dtype=first.dtype))
        for stage in range(net.num_stages):
            x = net.run_stage(stage, x)[0]
            found.append(seen[-1])
    for hook in hooks:
        hook.remove()
    return found


def margin(norm: nn.BatchNorm2d) -> Tensor:
    """m `[C]`, in fp64."""
    sigma, mu = norm.weight.detach().double().abs(), norm.bias.detach().double()
    ratio = mu / sigma.clamp_min(1e-300)
    below = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    return torch.where(below > 0.001, mu - sigma * density / below.clamp_min(1e-300), -3 * sigma)


def partial_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum of d over elements. The target is the teacher's, above its margin."""
    counts = (student > teacher) | (teacher > 0)
    return ((student - teacher).square() * counts).sum()


@dataclass(frozen=True, kw_only=True)
class OFDConfig(MethodConfig):
    weight: float = param(
        1e-3, "weight of the sum over stages", "overhaul-distillation CIFAR-100, loss / 1000"
    )


class OFD(Method):
    name = "ofd"
    title = "OFD"
    formula = "CE + 1e-3 sum_l 2^(l-n) sum d(C_l(P_s^l), max(P_t^l, margin)) / B, pre-activations, d one-sided below zero"
    paper = "Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019"
    bibtex = """@inproceedings{heo2019comprehensive,
  title     = {A Comprehensive Overhaul of Feature Distillation},
  author    = {Heo, Byeongho and Kim, Jeesoo and Yun, Sangdoo and Park, Hyojin and Kwak, Nojun and Choi, Jin Young},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
  pages     = {1921--1930},
  year      = {2019}
}"""
    Config = OFDConfig

    @classmethod
    def needs(cls, config: OFDConfig) -> Needs:
        return Needs.of("preacts logits", "preacts")

    def __init__(self, config: OFDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = known(context.student, context.teacher)
        if context.teacher_net is None:
            raise ValueError("this method needs the teacher's batch norms")
        pairs = pairs_of_stages(student.stage_shapes, teacher.stage_shapes)
        self.connectors = nn.ModuleList()
        for number, (norm, (s, t)) in enumerate(
            zip(norms_before_relu(context.teacher_net), pairs, strict=False)
        ):
            conv = nn.Conv2d(s[0], t[0], 1, bias=False)
            nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / t[0]))
            self.connectors.append(nn.Sequential(conv, nn.BatchNorm2d(t[0])))
            self.register_buffer(f"margin_{number}", margin(norm).to(conv.weight)[:, None, None])

    def loss(self, step: Step) -> Terms:
        if not self.active("ofd"):
            return {}
        parts = []
        pairs = pairs_of_stages(step.student.preacts, step.teacher.preacts)
        for number, (connector, (p_s, p_t)) in enumerate(zip(self.connectors, pairs, strict=True)):
            p_s, p_t = match_spatial(p_s, p_t)
            target = torch.maximum(p_t, self.get_buffer(f"margin_{number}"))
            parts.append(partial_distance(connector(p_s), target) / 2 ** (len(pairs) - 1 - number))
        return {"ofd": torch.stack(parts).sum() / len(step.labels)}
