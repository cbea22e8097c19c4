"""MLLD: multi-level logit distillation: instance, class and batch, at several temperatures, on a weak and a strong view.

    L = ce * (CE(weak) + CE(strong)) + levels * (L_ins + L_class + L_batch),      p = softmax(z / T)
    each level = sum over T in {temperature, 2, 3, 5, 6} of its term on the weak view, masked, + on the strong view, not masked
    L_ins   = T^2 * mean over images of KL(p_t || p_s)                  masked: images of which the teacher is not sure
    L_class = mean over C x C of (p_t' p_t - p_s' p_s)^2 / C            masked: columns of classes with little total confidence
    L_batch = mean over B x B of (p_t p_t' - p_s p_s')^2 / B            masked: columns of images of which it is not sure

Not sure: the teacher's largest p (T = 1) on the weak view is at most the batch's median; classes by the sum of p over the batch, likewise.
Masked entries count as zeros. The weak view is the benchmark's crop and flip; the strong one has, beside, one change of shape (rotation,
shear or shift) and one of tone (brightness, contrast, colour, solarise, posterise) an image, in the manner of RandAugment, which the
original uses. Logits only; no modules.

Called MLKD in its paper and code, and MLLD here, since MLKD is also DLKD's first name. The published rows train 480 epochs (960 for ShuffleV2),
so rows of 240 cannot be compared with them. All constants, masks and the strong view are unverified.

Jin, Wang, Lin: Multi-Level Logit Distillation. CVPR 2023.
Constants: MLKD mdistiller/distillers/MLKD.py (unverified).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.data.views import NORMAL, PAD, RawBatch, View, batch_crop, batch_flip
from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param

TEMPERATURES = (2.0, 3.0, 5.0, 6.0)
ANGLE, SHEAR, SHIFT, TONE = (
    math.radians(10),
    0.1,
    0.3,
    0.3,
)  # magnitude 10 of RandAugment's 30; the shift in half image widths
LUMA = (0.299, 0.587, 0.114)


def _draw_strong(n: int, generator: torch.Generator) -> Tensor:
    """`[n, 7]` in 0..1: row and column offset, flip, shape, its sign, tone, its sign."""
    return torch.rand(n, 7, generator=generator)


def _make_strong(raw: RawBatch, draws: Tensor, _normal: Tensor) -> Tensor:
    offsets = (draws[:, :2] * (2 * PAD + 1)).long()
    images = batch_crop(batch_flip(raw.images, (draws[:, 2] < 0.5).long()), offsets).float()
    moved = reshape(images, (draws[:, 3] * 6).long(), 1 - 2 * (draws[:, 4] < 0.5).float())
    toned = retone(moved, (draws[:, 5] * 6).long(), 1 - 2 * (draws[:, 6] < 0.5).float())
    return raw.normalise(toned.round().clamp(0, 255).to(torch.uint8))


def reshape(images: Tensor, op: Tensor, sign: Tensor) -> Tensor:
    """`[B, H, W, 3]`, op `[B]`: 0 nothing, 1 rotation, 2 and 3 shear, 4 and 5 shift; nearest neighbour, black outside."""

    def when(k: int, value: float) -> Tensor:
        return (op == k).float() * value * sign

    cos = 1 - (op == 1).float() * (1 - math.cos(ANGLE))
    sin = when(1, math.sin(ANGLE))
    rows = (cos, -sin + when(2, SHEAR), when(4, SHIFT), sin + when(3, SHEAR), cos, when(5, SHIFT))
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    x = images.permute(0, 3, 1, 2)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="nearest", align_corners=False).permute(0, 2, 3, 1)


def retone(images: Tensor, op: Tensor, sign: Tensor) -> Tensor:
    """`[B, H, W, 3]` in 0..255, op `[B]`: 0 nothing, 1 brightness, 2 contrast, 3 colour, 4 solarise, 5 posterise to 5 bits."""
    factor = (1 + TONE * sign).view(-1, 1, 1, 1)
    grey = sum(images[..., c : c + 1] * weight for c, weight in enumerate(LUMA))
    assert isinstance(grey, Tensor)
    mean = grey.mean(dim=(1, 2, 3), keepdim=True)
    changed = (
        images,
        images * factor,
        mean + (images - mean) * factor,
        grey + (images - grey) * factor,
        torch.where(images >= 171, 255 - images, images),
        (images / 8).floor() * 8,
    )
    out = images
    for k, other in enumerate(changed):
        out = torch.where((op == k).view(-1, 1, 1, 1), other, out)
    return out


STRONG = View("strong", 1, _draw_strong, _make_strong)


def not_above_median(x: Tensor) -> Tensor:
    """`[n]` -> 1 where an entry is at most the median (mean of the middle two), else 0."""
    ordered, n = x.sort().values, len(x)
    return (x <= (ordered[(n - 1) // 2] + ordered[n // 2]) / 2).to(x.dtype)


def instance_loss(z_s: Tensor, z_t: Tensor, t: float, mask: Tensor | None) -> Tensor:
    """L_ins at one temperature; mask `[B]`."""
    log_q, log_p = F.log_softmax(z_s / t, dim=1), F.log_softmax(z_t / t, dim=1)
    rows = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1) * t**2
    return (rows if mask is None else rows * mask).mean()


def class_loss(z_s: Tensor, z_t: Tensor, t: float, mask: Tensor | None) -> Tensor:
    """L_class at one temperature; mask `[C]`."""
    p_s, p_t = F.softmax(z_s / t, dim=1), F.softmax(z_t / t, dim=1)
    found = (p_t.T @ p_t - p_s.T @ p_s).square() / z_s.shape[1]
    return (found if mask is None else found * mask).mean()


def batch_loss(z_s: Tensor, z_t: Tensor, t: float, mask: Tensor | None) -> Tensor:
    """L_batch at one temperature; mask `[B]`."""
    p_s, p_t = F.softmax(z_s / t, dim=1), F.softmax(z_t / t, dim=1)
    found = (p_t @ p_t.T - p_s @ p_s.T).square() / z_s.shape[0]
    return (found if mask is None else found * mask).mean()


@dataclass(frozen=True, kw_only=True)
class MLLDConfig(MethodConfig):
    ce: float = param(
        0.1, "weight of the weak view's cross-entropy (1.0 in a combination)", "MLKD configs (unverified)"
    )
    strong_ce: float = param(0.1, "weight of the strong view's cross-entropy", "MLKD configs (unverified)")
    levels: float = param(0.9, "weight of each of the three levels", "MLKD configs (unverified)")
    temperature: float = param(
        4.0, "the first temperature; 2, 3, 5 and 6 are added", "MLKD configs (unverified)"
    )

    def __post_init__(self) -> None:
        check_range("mlld.temperature", self.temperature, 0.0, above=True)


class MLLD(Method):
    name = "mlld"
    title = "MLLD"
    formula = "0.1 CE + 0.9 sum over T of (instance KL + class and batch correlations), on a weak (masked) and a strong view"
    paper = "Jin et al., Multi-Level Logit Distillation, CVPR 2023"
    bibtex = """@inproceedings{jin2023multi,
  title     = {Multi-Level Logit Distillation},
  author    = {Jin, Ying and Wang, Jiaqi and Lin, Dahua},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {24276--24285},
  year      = {2023}
}"""
    Config = MLLDConfig

    @classmethod
    def needs(cls, config: MLLDConfig) -> Needs:
        return Needs.of("logits", "logits", (NORMAL, STRONG))

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        w = config.levels
        return {"mlld_instance": w, "mlld_class": w, "mlld_batch": w, "mlld_strong": config.strong_ce}

    def loss(self, step: Step) -> Terms:
        terms: Terms = {}
        if self.active("mlld_strong"):
            terms["mlld_strong"] = F.cross_entropy(step.students["strong"].logits, step.labels)
        all_levels = {"mlld_instance": instance_loss, "mlld_class": class_loss, "mlld_batch": batch_loss}
        levels = {term: level for term, level in all_levels.items() if self.active(term)}
        if not levels:
            return terms
        (weak_s, weak_t), (strong_s, strong_t) = (
            (step.students[v].logits, step.teachers[v].logits) for v in ("normal", "strong")
        )
        p = F.softmax(weak_t, dim=1)
        unsure, rare = not_above_median(p.max(dim=1).values), not_above_median(p.sum(dim=0))
        for term, level in levels.items():
            mask = rare if term == "mlld_class" else unsure
            parts = [
                level(weak_s, weak_t, t, mask) + level(strong_s, strong_t, t, None)
                for t in (self.config.temperature, *TEMPERATURES)
            ]
            terms[term] = torch.stack(parts).sum()
        return terms
