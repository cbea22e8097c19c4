"""Attention transfer (AT): match the attention maps of corresponding stages.

    L = ce * CE(z_s, y) + weight * sum_l mean((Q(F_s^l) - Q(F_t^l))^2)
    Q(F) = l2norm(vec(mean over channels of F^2))

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- F_s^l, F_t^l: maps of stage l of student and teacher, `[B, channels, H, W]`; the larger is
  adaptive-average-pooled to the size of the smaller.
- Q(F): attention map, a unit vector for each image, `[B, H*W]`.

If one network has more stages, its last ones are not used.

Modules: none.

Differences between paper and code: the code takes the mean over batch and positions, where the paper sums
over the positions. The weight of 1000 makes up for it.

Constants: RepDistiller distiller_zoo/AT.py, scripts/run_cifar_distill.sh (`-a 0 -b 1000`).

Paper: Zagoruyko, Komodakis: Paying More Attention to Attention. ICLR 2017, arXiv 1612.03928, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from benchmark.methods._common import attention, match_spatial, pair_stages
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param


@dataclass(frozen=True, kw_only=True)
class ATConfig(MethodConfig):
    weight: float = param(
        1000.0,
        "weight of the attention term",
        "RepDistiller run_cifar_distill.sh --distill attention -b 1000",
    )


class AT(Method):
    name = "at"
    title = "AT"
    formula = "CE + 1000 sum_l mean((Q(F_s^l) - Q(F_t^l))^2), Q(F) = l2norm(vec(mean_c F_c^2))"
    paper = "Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017"
    bibtex = """@inproceedings{zagoruyko2017paying,
  title     = {Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks
               via Attention Transfer},
  author    = {Zagoruyko, Sergey and Komodakis, Nikos},
  booktitle = {International Conference on Learning Representations},
  year      = {2017}
}"""
    Config = ATConfig

    @classmethod
    def needs(cls, config: ATConfig) -> Needs:
        return Needs.of("stages logits", "stages")

    def loss(self, step: Step) -> Terms:
        if not self.is_active("at"):
            return {}
        distances = []
        for f_s, f_t in pair_stages(step.student.stages, step.teacher.stages):
            f_s, f_t = match_spatial(f_s, f_t)
            distances.append(F.mse_loss(attention(f_s), attention(f_t)))
        return {"at": torch.stack(distances).sum()}
