"""SemCKD: each stage of the student learns from all stages of the teacher, weighted by an attention.

    L = ce * CE(z_s, y) + weight * (1 / (B S)) sum over images, s, t of a_{s,t} * mean((R_{s,t}(F_s) - F_t)^2)
    a_{s,.} = softmax over t of q_s . k_t,   q_s = e_s(G_s),   k_t = e_t(G_t)              (for each image)
    G = F F^T,   F flattened to [B, channels*H*W]

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- F_s, F_t: maps of stage s of the student and stage t of the teacher, `[B, channels, H, W]`; the larger map
  of a pair is adaptive-average-pooled to the smaller.
- G: similarities of the images of the batch, `[B, B]`; e reads the row of an image.
- a_{s,t}: the attention, `[B, S, T]` (S, T: numbers of stages of student and teacher).

Modules: R_{s,t} is conv1x1 (c_s -> 2 c_t)-BN-ReLU-conv3x3-BN-ReLU-conv1x1 (-> c_t), without biases. e is
Linear(B, B/2)-ReLU-Linear(B/2, B/4), followed by an L2 normalisation. All train with the student and are
dropped at test time.

Differences from the original: e reads a row of B similarities, so its input has the width of a batch. The
original skips the incomplete last batch of an epoch. Here its missing columns are filled with zeros, so
that all methods are trained on the same steps.

Constants: weight = 400 (DefangChen/SemCKD at ebe5db1, `-b 400`); widths and forms of the modules are those of
its models/util.py, the loss that of distiller_zoo/SemCKD.py. The rows of the paper's table add KD with weight
1 to CE with weight 1: `semckd+kd`.

Paper: Chen, Mei, Zhang, Wang, Wang, Feng, Chen: Cross-Layer Distillation with Semantic Calibration. AAAI
2021, arXiv 2012.03236.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import check_range, match_spatial, require_networks
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param


def regressor(c_s: int, c_t: int) -> nn.Sequential:
    """Return R, which maps `[B, c_s, H, W]` to `[B, c_t, H, W]`."""
    mid = 2 * c_t
    return nn.Sequential(
        nn.Conv2d(c_s, mid, 1, bias=False),
        nn.BatchNorm2d(mid),
        nn.ReLU(),
        nn.Conv2d(mid, mid, 3, padding=1, bias=False),
        nn.BatchNorm2d(mid),
        nn.ReLU(),
        nn.Conv2d(mid, c_t, 1, bias=False),
    )


class Embed(nn.Module):
    """The embedding e, with the computation of the similarities that it reads.

    Maps of at most `width` images, `[B, channels, H, W]` -> unit vectors, `[B, width / factor]`.
    """

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        out = max(1, width // factor)
        self.width = width
        self.layers = nn.Sequential(nn.Linear(width, 2 * out), nn.ReLU(), nn.Linear(2 * out, out))

    def forward(self, maps: Tensor) -> Tensor:
        flat = maps.flatten(1)
        similarities = flat @ flat.T
        padded = F.pad(similarities, (0, self.width - similarities.shape[1]))
        return F.normalize(self.layers(padded), dim=1)


@dataclass(frozen=True, kw_only=True)
class SemCKDConfig(MethodConfig):
    weight: float = param(400.0, "weight of the cross-layer term", "SemCKD scripts --distill semckd -b 400")
    factor: int = param(
        4, "batch size divided by the length of queries and keys", "SemCKD models/util.py, SelfA factor = 4"
    )

    def __post_init__(self) -> None:
        check_range("semckd.factor", self.factor, 1)


class SemCKD(Method):
    name = "semckd"
    title = "SemCKD"
    formula = (
        "CE + 400 mean_s sum_t a_{s,t} mean((R_{s,t}(F_s) - F_t)^2), "
        "a from batch similarities; the paper's rows add KD"
    )
    paper = "Chen et al., Cross-Layer Distillation with Semantic Calibration, AAAI 2021"
    bibtex = """@inproceedings{chen2021cross,
  title     = {Cross-Layer Distillation with Semantic Calibration},
  author    = {Chen, Defang and Mei, Jian-Ping and Zhang, Yuan and Wang, Can and Wang, Zhe and
               Feng, Yan and Chen, Chun},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year      = {2021}
}"""
    Config = SemCKDConfig

    @classmethod
    def needs(cls, config: SemCKDConfig) -> Needs:
        return Needs.of("stages logits", "stages")

    def __init__(self, config: SemCKDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = require_networks(context.student, context.teacher)
        b, f = context.batch_size, config.factor
        self.queries = nn.ModuleList(Embed(b, f) for _ in student.stage_shapes)
        self.keys = nn.ModuleList(Embed(b, f) for _ in teacher.stage_shapes)
        self.regressors = nn.ModuleList(
            nn.ModuleList(regressor(s[0], t[0]) for t in teacher.stage_shapes) for s in student.stage_shapes
        )

    def attention(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
        """Return a, `[B, S, T]` for S and T stages; it sums to 1 over the T stages of the teacher."""
        queries = torch.stack([e(f) for e, f in zip(self.queries, student, strict=True)], dim=1)
        keys = torch.stack([e(f) for e, f in zip(self.keys, teacher, strict=True)], dim=2)
        return torch.softmax(queries @ keys, dim=2)

    def loss(self, step: Step) -> Terms:
        if not self.is_active("semckd"):
            return {}
        student, teacher = step.student.stages, step.teacher.stages
        by_stage = []  # for each stage of the student: its distances to the teacher's stages, [B, T]
        for regressors, f_s in zip(self.regressors, student, strict=True):
            assert isinstance(regressors, nn.ModuleList)
            distances = []
            for regress, f_t in zip(regressors, teacher, strict=True):
                source, target = match_spatial(f_s, f_t)
                distances.append((regress(source) - target).square().flatten(1).mean(1))
            by_stage.append(torch.stack(distances, dim=1))
        weighted = self.attention(student, teacher) * torch.stack(by_stage, dim=1)
        return {"semckd": weighted.sum(dim=2).mean()}
