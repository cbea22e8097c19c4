"""Multi-level logit distillation (MLLD): match predictions by image, by class and across the batch.

    L = ce * CE(z_s, y) + strong_ce * CE(z_strong, y) + levels * (L_ins + L_class + L_batch)

    each L_x = sum over T in {temperature, 2, 3, 5, 6} of l_x(weak view, masked) + l_x(strong view, unmasked)
    l_ins    = T^2 * mean over images of KL(p_t || p_s)
    l_class  = mean over the C x C entries of (p_t' p_t - p_s' p_s)^2 / C
    l_batch  = mean over the B x B entries of (p_t p_t' - p_s p_s')^2 / B

- z_s, z_strong: the student's logits on the weak and on the strong view, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- p_s, p_t = softmax(z / T): probabilities of student and teacher, `[B, C]`; a prime marks the transpose.

Masks: the teacher's probabilities at T = 1 on the weak view decide which entries count. l_ins keeps the
images of which the teacher is unsure: its largest probability is at most the batch's median. l_batch keeps
the columns of these images. l_class keeps the columns of the classes whose probability, summed over the
batch, is at most the median of all classes. Masked entries count as zeros in the means.

Views: the weak view is the benchmark's crop and flip. The strong view adds to each image one geometric
change (rotation, shear or shift) and one change of tone (brightness, contrast, colour, solarise or
posterise), in the manner of RandAugment, which the original uses.

Modules: none. The method reads only logits.

Differences from the original: the paper and its code call the method MLKD. It is MLLD here because MLKD is
also the first name of DLKD. The published rows train for 480 epochs (960 for ShuffleV2), so rows of 240
epochs cannot be compared with them.

Constants: MLKD mdistiller/distillers/MLKD.py. All constants, the masks and the strong view are unverified.

Paper: Jin, Wang, Lin: Multi-Level Logit Distillation. CVPR 2023.
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
# Strength of the strong view's changes: magnitude 10 of RandAugment's 30. SHIFT is in half image widths.
ANGLE, SHEAR, SHIFT, TONE = math.radians(10), 0.1, 0.3, 0.3
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in a grey value


def _draw_strong(n: int, generator: torch.Generator) -> Tensor:
    """Draw `[n, 7]` in 0..1: row and column offset, flip, geometric change and sign, tone change and sign."""
    return torch.rand(n, 7, generator=generator)


def _make_strong(raw: RawBatch, draws: Tensor, _normal: Tensor) -> Tensor:
    """Flip, crop, change geometry and tone as drawn by `_draw_strong`; float32 `[B, 3, H, W]`, normalised."""
    offsets = (draws[:, :2] * (2 * PAD + 1)).long()
    images = batch_crop(batch_flip(raw.images, (draws[:, 2] < 0.5).long()), offsets).float()
    moved = reshape(images, (draws[:, 3] * 6).long(), 1 - 2 * (draws[:, 4] < 0.5).float())
    toned = retone(moved, (draws[:, 5] * 6).long(), 1 - 2 * (draws[:, 6] < 0.5).float())
    return raw.normalise(toned.round().clamp(0, 255).to(torch.uint8))


def reshape(images: Tensor, op: Tensor, sign: Tensor) -> Tensor:
    """Apply one geometric change to each image, by nearest neighbour, with black outside.

    images: `[B, H, W, 3]`.
    op: `[B]`, 0 none, 1 rotation, 2 and 3 shear, 4 and 5 shift.
    sign: `[B]`, 1 or -1.
    """

    def value_if(number: int, value: float) -> Tensor:
        return (op == number).float() * value * sign

    cos = 1 - (op == 1).float() * (1 - math.cos(ANGLE))
    sin = value_if(1, math.sin(ANGLE))
    x_row = (cos, -sin + value_if(2, SHEAR), value_if(4, SHIFT))
    y_row = (sin + value_if(3, SHEAR), cos, value_if(5, SHIFT))
    theta = torch.stack((*x_row, *y_row), dim=1).view(-1, 2, 3)
    x = images.permute(0, 3, 1, 2)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="nearest", align_corners=False).permute(0, 2, 3, 1)


def retone(images: Tensor, op: Tensor, sign: Tensor) -> Tensor:
    """Apply one change of tone to each image.

    images: `[B, H, W, 3]` in 0..255.
    op: `[B]`, 0 none, 1 brightness, 2 contrast, 3 colour, 4 solarise, 5 posterise to 5 bits.
    sign: `[B]`, 1 or -1.
    """
    factor = (1 + TONE * sign).view(-1, 1, 1, 1)
    grey = sum(images[..., c : c + 1] * weight for c, weight in enumerate(LUMA))
    assert isinstance(grey, Tensor)
    mean = grey.mean(dim=(1, 2, 3), keepdim=True)
    variants = (
        images,
        images * factor,
        mean + (images - mean) * factor,
        grey + (images - grey) * factor,
        torch.where(images >= 171, 255 - images, images),
        (images / 8).floor() * 8,
    )
    result = images
    for number, variant in enumerate(variants):
        result = torch.where((op == number).view(-1, 1, 1, 1), variant, result)
    return result


STRONG = View("strong", 1, _draw_strong, _make_strong)
"""Crop and flip, one geometric change and one change of tone."""


def not_above_median(x: Tensor) -> Tensor:
    """Return 1 where an entry is at most the median (mean of the middle two), else 0. `[n]` -> `[n]`."""
    ordered, n = x.sort().values, len(x)
    return (x <= (ordered[(n - 1) // 2] + ordered[n // 2]) / 2).to(x.dtype)


def instance_loss(z_s: Tensor, z_t: Tensor, t: float, mask: Tensor | None) -> Tensor:
    """Return l_ins at temperature t. Logits `[B, C]`, mask `[B]` -> scalar."""
    log_p_s, log_p_t = F.log_softmax(z_s / t, dim=1), F.log_softmax(z_t / t, dim=1)
    rows = F.kl_div(log_p_s, log_p_t, reduction="none", log_target=True).sum(dim=1) * t**2
    return (rows if mask is None else rows * mask).mean()


def class_loss(z_s: Tensor, z_t: Tensor, t: float, mask: Tensor | None) -> Tensor:
    """Return l_class at temperature t. Logits `[B, C]`, mask `[C]` -> scalar."""
    p_s, p_t = F.softmax(z_s / t, dim=1), F.softmax(z_t / t, dim=1)
    squares = (p_t.T @ p_t - p_s.T @ p_s).square() / z_s.shape[1]
    return (squares if mask is None else squares * mask).mean()


def batch_loss(z_s: Tensor, z_t: Tensor, t: float, mask: Tensor | None) -> Tensor:
    """Return l_batch at temperature t. Logits `[B, C]`, mask `[B]` -> scalar."""
    p_s, p_t = F.softmax(z_s / t, dim=1), F.softmax(z_t / t, dim=1)
    squares = (p_t @ p_t.T - p_s @ p_s.T).square() / z_s.shape[0]
    return (squares if mask is None else squares * mask).mean()


@dataclass(frozen=True, kw_only=True)
class MLLDConfig(MethodConfig):
    ce: float = param(
        0.1, "weight of the weak view's cross-entropy (1.0 in a combination)", "MLKD configs (unverified)"
    )
    strong_ce: float = param(0.1, "weight of the strong view's cross-entropy", "MLKD configs (unverified)")
    levels: float = param(0.9, "weight of each level: image, class and batch", "MLKD configs (unverified)")
    temperature: float = param(
        4.0, "first temperature; 2, 3, 5 and 6 are used as well", "MLKD configs (unverified)"
    )

    def __post_init__(self) -> None:
        check_range("mlld.temperature", self.temperature, 0.0, above=True)


class MLLD(Method):
    name = "mlld"
    title = "MLLD"
    formula = (
        "0.1 CE + 0.9 sum over T of (instance KL + class and batch correlations), "
        "on a weak (masked) and a strong view"
    )
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
        if self.is_active("mlld_strong"):
            terms["mlld_strong"] = F.cross_entropy(step.students["strong"].logits, step.labels)
        all_levels = {"mlld_instance": instance_loss, "mlld_class": class_loss, "mlld_batch": batch_loss}
        levels = {term: level for term, level in all_levels.items() if self.is_active(term)}
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
