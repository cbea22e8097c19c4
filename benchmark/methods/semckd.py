"""SemCKD: every stage of the student learns from every stage of the teacher, as far as an attention says.

    L = ce * CE + weight * (1 / (B S)) sum over images, s, t  of a_{s,t} * mean((R_{s,t}(F_s) - F_t)^2)
    a_{s,.} = softmax over t of  q_s . k_t,   q_s = e_s(G_s), k_t = e_t(G_t)   (for each image)
    G = rows of the B x B product of the flattened maps;  e = Linear(B, B/2)-ReLU-Linear(B/2, B/4), L2-normalised

s, t run over the stages (S of the student); the larger map of a pair is adaptive-average-pooled to the smaller; R_{s,t} = conv1x1
(c_s -> 2 c_t)-BN-ReLU-conv3x3-BN-ReLU-conv1x1 (-> c_t), no biases. All of it is trained with the student and dropped at test time.

The embeddings e read a row of batch similarities, so their width is the batch. The original skips an epoch's incomplete last batch;
here its missing columns are zero (all methods see the same steps). The rows of the paper's table have CE 1 + KD 1 beside: `semckd+kd`.

Chen, Mei, Zhang, Wang, Wang, Feng, Chen: Cross-Layer Distillation with Semantic Calibration. AAAI 2021, arXiv 2012.03236.
Constants: SemCKD@ebe5db1 (`-b 400`); widths and forms from its models/util.py and distiller_zoo (unverified).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import check_range, known, match_spatial
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param


def regressor(c_s: int, c_t: int) -> nn.Sequential:
    """R: channels c_s -> c_t."""
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
    """e: rows of similarities `[B, at most width]` -> unit vectors `[B, width / factor]`."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        out = max(1, width // factor)
        self.width = width
        self.layers = nn.Sequential(nn.Linear(width, 2 * out), nn.ReLU(), nn.Linear(2 * out, out))

    def forward(self, maps: Tensor) -> Tensor:
        flat = maps.flatten(1)
        similar = flat @ flat.T
        return F.normalize(self.layers(F.pad(similar, (0, self.width - similar.shape[1]))), dim=1)


@dataclass(frozen=True, kw_only=True)
class SemCKDConfig(MethodConfig):
    weight: float = param(400.0, "weight of the cross-layer term", "SemCKD scripts --distill semckd -b 400")
    factor: int = param(
        4, "by which queries and keys are shorter than the batch", "SemCKD models/util.py (unverified)"
    )

    def __post_init__(self) -> None:
        check_range("semckd.factor", self.factor, 1)


class SemCKD(Method):
    name = "semckd"
    title = "SemCKD"
    formula = "CE + 400 mean_s sum_t a_{s,t} mean((R_{s,t}(F_s) - F_t)^2), a from batch similarities; the paper's rows add KD"
    paper = "Chen et al., Cross-Layer Distillation with Semantic Calibration, AAAI 2021"
    bibtex = """@inproceedings{chen2021cross,
  title     = {Cross-Layer Distillation with Semantic Calibration},
  author    = {Chen, Defang and Mei, Jian-Ping and Zhang, Yuan and Wang, Can and Wang, Zhe and Feng, Yan and Chen, Chun},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year      = {2021}
}"""
    Config = SemCKDConfig

    @classmethod
    def needs(cls, config: SemCKDConfig) -> Needs:
        return Needs.of("stages logits", "stages")

    def __init__(self, config: SemCKDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = known(context.student, context.teacher)
        b, f = context.batch_size, config.factor
        self.queries = nn.ModuleList(Embed(b, f) for _ in student.stage_shapes)
        self.keys = nn.ModuleList(Embed(b, f) for _ in teacher.stage_shapes)
        self.regressors = nn.ModuleList(
            nn.ModuleList(regressor(s[0], t[0]) for t in teacher.stage_shapes) for s in student.stage_shapes
        )

    def attention(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
        """`[B, S, T]`, each row over t summing to 1."""
        queries = torch.stack([e(f) for e, f in zip(self.queries, student, strict=True)], dim=1)
        keys = torch.stack([e(f) for e, f in zip(self.keys, teacher, strict=True)], dim=2)
        return torch.softmax(queries @ keys, dim=2)

    def loss(self, step: Step) -> Terms:
        if not self.active("semckd"):
            return {}
        student, teacher = step.student.stages, step.teacher.stages
        rows = []
        for regress, f_s in zip(self.regressors, student, strict=True):
            assert isinstance(regress, nn.ModuleList)
            distances = []
            for r, f_t in zip(regress, teacher, strict=True):
                source, target = match_spatial(f_s, f_t)
                distances.append((r(source) - target).square().flatten(1).mean(1))
            rows.append(torch.stack(distances, dim=1))
        weighted = self.attention(student, teacher) * torch.stack(rows, dim=1)
        return {"semckd": weighted.sum(dim=2).mean()}
