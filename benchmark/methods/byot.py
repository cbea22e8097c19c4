"""Be your own teacher (BYOT): the deepest classifier of a network teaches classifiers on its earlier stages.

    L = ce * CE(z, y) + sum_i [ early * CE(c_i, y) + soft * T^2 * KL(softmax(sg z / T) || softmax(c_i / T))
                                + hint * sum over batch and channels of (e_i - sg e)^2 [e_i > 0 or e > 0] ]

- i: a stage; the sum runs over all stages but the last.
- z: the network's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- e: the network's embedding, `[B, D]`.
- e_i: embedding of stage i after its bottleneck, `[B, D]`.
- c_i = Linear(e_i): logits of stage i, `[B, C]`.
- sg: stop-gradient.
- [.]: 1 where the condition holds, else 0.

KL and CE are averaged over the batch, while the hint is a *sum* over it. ce = early = 1 - alpha and
soft = alpha, with alpha = 0.1.

Modules: for each earlier stage a bottleneck and a linear classifier. The bottleneck is a 1x1 convolution to
a quarter of e's channels, a k x k convolution with stride k, which brings the map to the last stage's size,
and a 1x1 convolution to e's channels, each with batch norm and ReLU, followed by average pooling. They
train with the network and are dropped at test time, so the reported number is the deepest classifier's
("classifier 4/4"). Their convolutions are initialised by He's rule (fan-out) and have no biases, which the
batch norms after them would cancel.

Differences from the original: the paper's ensemble of the classifiers is not implemented. Self-KD-Lib's BYOT
has other weights (1 for every cross-entropy and KL, 0.05 for the *mean* squared difference of the
embeddings), so its published value is no reproduction of this row.

Constants and modules: luanyunteng/pytorch-be-your-own-teacher at 8045079, train.py and models/resnet.py
(alpha 0.1, T 3, beta 1e-6), which is unofficial.

Paper: Zhang, Song, Gao, Chen, Bao, Ma: Be Your Own Teacher: Improve the Performance of Convolutional Neural
Networks via Self Distillation. ICCV 2019, arXiv 1905.08094.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param
from benchmark.methods.kd import kd_loss

if TYPE_CHECKING:
    from models import NetInfo


@dataclass(frozen=True, kw_only=True)
class BYOTConfig(MethodConfig):
    ce: float = param(
        0.9,
        "weight of the deepest classifier's cross-entropy, 1 - alpha (1.0 in a combination)",
        "luanyunteng, alpha 0.1",
    )
    early: float = param(
        0.9, "weight of the earlier classifiers' cross-entropies, 1 - alpha", "luanyunteng, alpha 0.1"
    )
    soft: float = param(0.1, "weight alpha of the KL with the deepest classifier", "luanyunteng, alpha 0.1")
    hint: float = param(
        1e-6, "weight beta of the distance to the deepest embedding", "luanyunteng, beta 1e-6"
    )
    temperature: float = param(3.0, "temperature T of both softmaxes", "luanyunteng, temperature 3")

    def __post_init__(self) -> None:
        for name in ("early", "soft", "hint"):
            check_range(f"byot.{name}", getattr(self, name), 0.0)
        check_range("byot.temperature", self.temperature, 0.0, above=True)


def bottleneck(channels: int, outputs: int, shrink: int) -> nn.Sequential:
    """Build a bottleneck: map `[B, channels, H, W]` -> embedding `[B, outputs]`. shrink: kernel size k."""
    middle = max(1, outputs // 4)

    def layer(inputs: int, out: int, kernel: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, out, kernel, kernel, bias=False), nn.BatchNorm2d(out), nn.ReLU()]

    layers = [*layer(channels, middle, 1), *layer(middle, middle, shrink), *layer(middle, outputs, 1)]
    for module in layers:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class BYOT(Method):
    name = "byot"
    title = "BYOT"
    formula = (
        "0.9 CE + sum_i 0.9 CE(c_i) + 0.1 T^2 KL(softmax(sg z/T) || softmax(c_i/T)) "
        "+ 1e-6 |e_i - sg e|^2, T = 3"
    )
    paper = "Zhang et al., Be Your Own Teacher, ICCV 2019"
    bibtex = """@inproceedings{zhang2019be,
  title     = {Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via
               Self Distillation},
  author    = {Zhang, Linfeng and Song, Jiebo and Gao, Anni and Chen, Jingwei and Bao, Chenglong and
               Ma, Kaisheng},
  booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
  year      = {2019}
}"""
    revision = 2
    combined_defaults = {"ce": 1.0}
    Config = BYOTConfig

    @classmethod
    def skip(cls, config: BYOTConfig, student: NetInfo | None, teacher: NetInfo | None) -> str | None:
        if student is not None and len(student.stage_shapes) < 2:
            return "BYOT needs a student with at least two stages"
        return None

    @classmethod
    def needs(cls, config: BYOTConfig) -> Needs:
        return Needs.of("stages embedding logits" if config.hint else "stages logits")

    def __init__(self, config: BYOTConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        if context.student is None:
            raise ValueError("byot needs a student")
        *early, last = context.student.stage_shapes
        out = context.student.embedding_dim
        self.bottlenecks = nn.ModuleList(bottleneck(c, out, max(1, size // last[1])) for c, size, _ in early)
        self.classifiers = nn.ModuleList(nn.Linear(out, context.num_classes) for _ in early)

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        c: BYOTConfig = config
        return {"byot_early": c.early, "byot_soft": c.soft, "byot_hint": c.hint}

    def loss(self, step: Step) -> Terms:
        active = [term for term in self.weights(self.config) if self.is_active(term)]
        if not active:
            return {}
        embeddings = [b(x) for b, x in zip(self.bottlenecks, step.student.stages, strict=False)]
        outputs = [classify(e) for classify, e in zip(self.classifiers, embeddings, strict=True)]
        by_stage: dict[str, list[Tensor]] = {}
        if "byot_early" in active:
            by_stage["byot_early"] = [F.cross_entropy(c, step.labels) for c in outputs]
        if "byot_soft" in active:
            z, t = step.student.logits.detach(), self.config.temperature
            by_stage["byot_soft"] = [kd_loss(c, z, t) for c in outputs]
        if "byot_hint" in active:
            by_stage["byot_hint"] = [_hint(e, step.student.embedding.detach()) for e in embeddings]
        return {term: sum(losses[1:], losses[0]) for term, losses in by_stage.items()}


def _hint(early: Tensor, deepest: Tensor) -> Tensor:
    """Sum of the squared differences where either value is positive. Embeddings `[B, D]` -> scalar."""
    return ((early - deepest).square() * ((early > 0) | (deepest > 0))).sum()
