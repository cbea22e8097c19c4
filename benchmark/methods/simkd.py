"""SimKD: the student reuses the teacher's classifier; a projector learns to produce the teacher's last map.

    L = weight * mean((P(F_s) - F_t)^2)         (no cross-entropy, no softened outputs)
    at test time: logits = W_t pool(P(F_s)) + b_t

- F_s, F_t: last maps of student and teacher, `[B, channels, H, W]`. The teacher's map is taken after the
  last ReLU; its classifier reads the pooled value of this map. The larger map is adaptive-average-pooled to
  the smaller.
- W_t, b_t: the teacher's classifier, frozen.

Modules: the projector P is conv1x1 (c_s -> c_t/2)-BN-ReLU-conv3x3 (c_t/2 -> c_t/2)-BN-ReLU-conv1x1 (c_t/2
-> c_t)-BN-ReLU, without biases. As in the authors' code, the 3x3 convolution is a full one.

**The student has extra parameters at test time**: the trained projector, and the teacher's classifier in
place of its own. A record counts P under `method_params`. The student's own classifier is not trained, so
the curves have no training accuracy. A weights file holds P and the teacher's classifier beside the
student, under `at_test_simkd`.

Constants: weight = 1 and ce = 0 (SimKD@2b389c3 models/util.py and scripts, `--distill simkd -c 0 -d 0 -b 1`).
The rows f = 4 and f = 8 of the paper's table have c_t/4 and c_t/8 inner channels (`factor`).

Paper: Chen, Mei, Zhang, Wang, Feng, Chen: Knowledge Distillation with the Reused Teacher Classifier. CVPR
2022, arXiv 2203.14001.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._common import FrozenHead, check_range, match_spatial, require_networks
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param

if TYPE_CHECKING:
    from models import Features, NetInfo


def projector(c_s: int, c_t: int, factor: int) -> nn.Sequential:
    """Return P, which maps `[B, c_s, H, W]` to `[B, c_t, H, W]`, all positive, via c_t / factor channels."""
    mid = c_t // factor
    return nn.Sequential(
        nn.Conv2d(c_s, mid, 1, bias=False),
        nn.BatchNorm2d(mid),
        nn.ReLU(),
        nn.Conv2d(mid, mid, 3, padding=1, bias=False),
        nn.BatchNorm2d(mid),
        nn.ReLU(),
        nn.Conv2d(mid, c_t, 1, bias=False),
        nn.BatchNorm2d(c_t),
        nn.ReLU(),
    )


@dataclass(frozen=True, kw_only=True)
class SimKDConfig(MethodConfig):
    ce: float = param(
        0.0, "weight of the cross-entropy (0: the student's classifier is not used)", "SimKD scripts -c 0"
    )
    weight: float = param(1.0, "weight of the distance between the maps", "SimKD scripts -b 1")
    factor: int = param(
        2,
        "channels of the teacher's map divided by the projector's inner channels",
        "SimKD models/util.py factor=2",
    )

    def __post_init__(self) -> None:
        check_range("simkd.factor", self.factor, 1)


class SimKD(Method):
    name = "simkd"
    title = "SimKD"
    formula = (
        "mean((P(F_s) - F_t)^2), no CE; at test the teacher's classifier on pool(P(F_s)): extra parameters"
    )
    paper = "Chen et al., Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022"
    bibtex = """@inproceedings{chen2022knowledge,
  title     = {Knowledge Distillation with the Reused Teacher Classifier},
  author    = {Chen, Defang and Mei, Jian-Ping and Zhang, Hailin and Wang, Can and Feng, Yan and Chen, Chun},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {11933--11942},
  year      = {2022}
}"""
    at_test = (
        "the projector and the teacher's classifier "
        "(extra parameters; the student's own classifier is not trained)"
    )
    revision = 3
    Config = SimKDConfig

    @classmethod
    def skip(cls, config: SimKDConfig, student: NetInfo | None, teacher: NetInfo | None) -> str | None:
        if teacher is not None and teacher.stage_shapes[-1][0] != teacher.embedding_dim:
            return f"the teacher's classifier must read its last map; {teacher.name} has a layer in between"
        return None

    @classmethod
    def needs(cls, config: SimKDConfig) -> Needs:
        return Needs.of("stages logits", "preacts")

    def __init__(self, config: SimKDConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = require_networks(context.student, context.teacher)
        (c_s, *_), (c_t, size, _) = student.stage_shapes[-1], teacher.stage_shapes[-1]
        self.size = size
        self.projector = projector(c_s, c_t, config.factor)
        self.head = FrozenHead(context.teacher_net)

    def loss(self, step: Step) -> Terms:
        if not self.is_active("simkd"):
            return {}
        # The classifier of every network reads the ReLU of the last pre-activations. That is not always
        # `stages[-1]`: in a WRN, it precedes the final batch norm and ReLU.
        f_s, f_t = match_spatial(step.student.stages[-1], F.relu(step.teacher.preacts[-1]))
        return {"simkd": F.mse_loss(self.projector(f_s), f_t)}

    def predict(self, features: Features) -> Tensor:
        f_s = features.stages[-1]
        if f_s.shape[-2] > self.size:
            f_s = F.adaptive_avg_pool2d(f_s, self.size)
        return self.head(F.adaptive_avg_pool2d(self.projector(f_s), 1).flatten(1))
