"""Multi-level logit distillation (MLLD): match predictions by image, by class and across the batch.

    L = ce * CE(z_w, y) + strong_ce * CE(z_s, y) + levels * (L_instance + L_class + L_batch)

    L_instance = a * sum over T in {4, 3, 5, 2, 6} of KD_T(weak)
                 + sum over T in {4, 3, 5} of KD_T(strong) + sum over T in {2, 6} of KD_T(weak)
    L_class    = c * sum over T in {4, 3, 5, 2, 6} of ||P' P - Q' Q||_F^2 / C      (weak view)
    L_batch    = a * sum over T in {4, 3, 5, 2, 6} of ||P P' - Q Q'||_F^2 / B      (weak view)

- z_w, z_s: the student's logits on the weak and on the strong view, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- KD_T = T^2 * KL(teacher || student) of the probabilities at temperature T, averaged over the images. The 4
  of each set is the setting `temperature`.
- P, Q: probabilities of teacher and student at temperature T, `[B, C]`; a prime marks the transpose.
- a: the share of the images of which the teacher is unsure: on the weak view at T = 1, its largest
  probability is at most the batch's median. About one half.
- c: the share of the classes whose probability, summed over the batch, is at most the median of all classes.

Views: the weak view is the benchmark's crop and flip. The strong view has a crop and flip of its own, two
operations of RandAugment and Cutout; benchmark/data/randaugment.py lists the 14 operations with their ranges.
The student runs each view in a pass of its own, so its batch norms use the statistics of one view.

Modules: none. The method reads only logits.

Differences between paper and code (this is the code): the paper masks out the images (classes) above the
median. The code multiplies the mask onto a loss that is already averaged, so no image is left out and only
the factors a and c remain. Two of the strong view's five temperatures read the weak view. Class and batch
matrices of the strong view are computed and dropped.

Differences from the original: the ranges of RandAugment's changes of tone, and Cutout's colour (the data
set's mean), are those of FixMatch's paper; the rotation of up to 30 degrees, shears and shifts of up to 0.3
and the size of Cutout are the code's. The paper and its code call the method MLKD; it is MLLD here because
MLKD is also the first name of DLKD.

Constants: MLKD mdistiller/distillers/MLKD.py and its configurations. Epochs and learning rate depend on the
pair (`pair_constants`): 240, 480 or 960 epochs, while the learning rate always drops after epochs 150, 180
and 210. `ls.py` has those of MLLD+LS, where only L_instance reads standardised logits.

Paper: Jin, Wang, Lin: Multi-Level Logit Distillation. CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.data.randaugment import STRONG
from benchmark.data.views import NORMAL
from benchmark.methods._common import check_range
from benchmark.methods._pairs import PairConstants
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param
from benchmark.methods.kd import kd_loss

# Temperatures beside `temperature`, by the view whose KL the unmasked terms of L_instance read.
STRONG_TEMPERATURES, WEAK_TEMPERATURES = (3.0, 5.0), (2.0, 6.0)

CONFIGS = "MLKD's released configurations"

SCHEDULE = PairConstants(
    settings=("protocol.epochs", "protocol.lr"),
    pairs={
        "*:*": (None, 0.025),
        "*:MobileNetV2": (None, 0.01),
        "*:ShuffleV1": (None, 0.01),
        "*:ShuffleV2": (None, 0.01),
        "ResNet50:MobileNetV2": (480, 0.01),
        "vgg13:MobileNetV2": (480, 0.01),
        "wrn_40_2:ShuffleV1": (480, 0.01),
        "resnet32x4:ShuffleV1": (960, 0.01),
        "resnet32x4:ShuffleV2": (960, 0.01),
    },
    source=f"{CONFIGS}; the milestones stay 150, 180 and 210",
)


def share_not_above_median(x: Tensor) -> Tensor:
    """Return the share of entries that are at most the median (mean of the middle two). `[n]` -> scalar."""
    ordered, n = x.sort().values, len(x)
    return (x <= (ordered[(n - 1) // 2] + ordered[n // 2]) / 2).to(x.dtype).mean()


def class_loss(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    """Return `||P' P - Q' Q||_F^2 / C` at temperature t. Logits `[B, C]` -> scalar."""
    q, p = F.softmax(student / t, dim=1), F.softmax(teacher / t, dim=1)
    return (p.T @ p - q.T @ q).square().sum() / p.shape[1]


def batch_loss(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    """Return `||P P' - Q Q'||_F^2 / B` at temperature t. Logits `[B, C]` -> scalar."""
    q, p = F.softmax(student / t, dim=1), F.softmax(teacher / t, dim=1)
    return (p @ p.T - q @ q.T).square().sum() / p.shape[0]


@dataclass(frozen=True, kw_only=True)
class MLLDConfig(MethodConfig):
    ce: float = param(
        0.1,
        "weight of the weak view's cross-entropy (1.0 in a combination)",
        CONFIGS,
    )
    strong_ce: float = param(0.1, "weight of the strong view's cross-entropy", CONFIGS)
    levels: float = param(0.9, "weight of each level: instance, class and batch", CONFIGS)
    temperature: float = param(4.0, "first temperature; 3, 5, 2 and 6 are used as well", CONFIGS)

    def __post_init__(self) -> None:
        check_range("mlld.temperature", self.temperature, 0.0, above=True)


class MLLD(Method):
    name = "mlld"
    title = "MLLD"
    formula = (
        "0.1 CE of a weak and a strong view + 0.9 sum over T in {2, 3, 4, 5, 6} of (T^2 KL of both views + "
        "class and batch matrices' squared distance)"
    )
    paper = "Jin et al., Multi-Level Logit Distillation, CVPR 2023"
    bibtex = """@inproceedings{jin2023multi,
  title     = {Multi-Level Logit Distillation},
  author    = {Jin, Ying and Wang, Jiaqi and Lin, Dahua},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {24276--24285},
  year      = {2023}
}"""
    revision = 3
    Config = MLLDConfig
    pair_constants = (SCHEDULE,)

    @classmethod
    def needs(cls, config: MLLDConfig) -> Needs:
        logits = frozenset({"logits"})
        return Needs(student=logits, teacher=logits, views=(NORMAL, STRONG), separate_passes=True)

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        w = config.levels
        return {"mlld_instance": w, "mlld_class": w, "mlld_batch": w, "mlld_strong": config.strong_ce}

    def loss(self, step: Step) -> Terms:
        terms: Terms = {}
        unwrapped = step.unwrapped  # with LS, only the instance term reads standardised logits
        if self.is_active("mlld_strong"):
            terms["mlld_strong"] = F.cross_entropy(unwrapped.students["strong"].logits, step.labels)
        if not any(self.is_active(term) for term in ("mlld_instance", "mlld_class", "mlld_batch")):
            return terms
        strong = (self.config.temperature, *STRONG_TEMPERATURES)
        temperatures = (*strong, *WEAK_TEMPERATURES)
        z_w, z_t = unwrapped.student.logits, unwrapped.teacher.logits
        p = F.softmax(z_t, dim=1)
        unsure, rare = (share_not_above_median(x) for x in (p.amax(dim=1), p.sum(dim=0)))
        if self.is_active("mlld_instance"):
            weak_view = step.student.logits, step.teacher.logits
            strong_view = step.students["strong"].logits, step.teachers["strong"].logits
            terms["mlld_instance"] = (
                unsure * _sum(kd_loss(*weak_view, t) for t in temperatures)
                + _sum(kd_loss(*strong_view, t) for t in strong)
                + _sum(kd_loss(*weak_view, t) for t in WEAK_TEMPERATURES)
            )
        if self.is_active("mlld_class"):
            terms["mlld_class"] = rare * _sum(class_loss(z_w, z_t, t) for t in temperatures)
        if self.is_active("mlld_batch"):
            terms["mlld_batch"] = unsure * _sum(batch_loss(z_w, z_t, t) for t in temperatures)
        return terms


def _sum(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()
