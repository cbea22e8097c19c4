"""LS: logit standardisation, a wrapper of the methods that read logits (`kd+ls`, `dkd+ls`, `ctkd+ls`, `mlld+ls`).

    z -> (z - mean of z) / (std of z + 1e-7)

row by row over the classes, for student and teacher, before the other method softens them; std with C - 1 in its denominator. The
cross-entropy with the labels, and the student at test time, keep the logits as they are. No modules, no loss of its own.

The temperature then is a base temperature, and the losses are small, so the wrapped methods get other constants, by pair as the file
names of the released logs have them (base temperature and weight; 2 and 9 for pairs without logs). KD keeps its 0.1 CE. For DKD
alpha = weight and beta = weight * the third number: the reading under which the first epoch's loss of the logs comes out
(unverified otherwise). For MLLD all logit terms are standardised; the released code does it to the instance term alone (unverified).

Sun, Ren, Li, Wang, Cao: Logit Standardization in Knowledge Distillation. CVPR 2024, arXiv 2403.01427.
Constants: logit-standardization-KD@f6e5aa5, logs (file names), README.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from benchmark.methods.base import Method, MethodConfig, Needs, Step, param

if TYPE_CHECKING:
    from models import Features

KD = {  # base temperature, weight; 2 and 9 elsewhere
    "ResNet50:MobileNetV2": (3.0, 1.0),
    "resnet110:resnet20": (4.0, 12.0),
    "resnet32x4:wrn_16_2": (3.0, 9.0),
    "resnet32x4:wrn_40_2": (3.0, 9.0),
    "vgg13:MobileNetV2": (3.0, 9.0),
    "vgg13:vgg8": (3.0, 9.0),
    "wrn_40_2:MobileNetV2": (3.0, 9.0),
}
DKD = {  # base temperature, weight, beta before the weight; 2, 9 and 8 elsewhere
    "ResNet50:MobileNetV2": (2.0, 15.0, 2.0),
    "resnet110:resnet20": (2.0, 15.0, 2.0),
    "resnet110:resnet32": (2.0, 15.0, 2.0),
    "resnet32x4:wrn_16_2": (2.0, 9.0, 2.0),
    "resnet32x4:wrn_40_2": (2.0, 9.0, 8.0),
    "resnet56:resnet20": (3.0, 18.0, 2.0),
    "vgg13:MobileNetV2": (3.0, 9.0, 2.0),
    "vgg13:vgg8": (2.0, 15.0, 2.0),
    "wrn_40_2:MobileNetV2": (2.0, 15.0, 2.0),
    "wrn_40_2:resnet8x4": (2.0, 18.0, 2.0),
    "wrn_40_2:wrn_16_2": (2.0, 12.0, 2.0),
    "wrn_40_2:wrn_40_1": (2.0, 12.0, 2.0),
}
MLLD = {  # base temperature, weight; 2 and 9 elsewhere
    "resnet32x4:ShuffleV2": (2.0, 6.0),
    "vgg13:MobileNetV2": (2.0, 6.0),
    "vgg13:vgg8": (2.0, 6.0),
}


def standardise(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """`[B, C]`, each row with mean 0 and standard deviation 1; a constant row gives zeros and a finite gradient."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1, keepdim=True) / (logits.shape[1] - 1)
    return centred / (variance.clamp_min(1e-24).sqrt() + eps)


@dataclass(frozen=True, kw_only=True)
class LSConfig(MethodConfig):
    eps: float = param(
        1e-7, "added to the standard deviation", "logit-standardization-KD mdistiller/distillers/KD.py"
    )


class LS(Method):
    name = "ls"
    title = "LS"
    formula = "X with z -> (z - mean z) / std z of both networks, row by row; base T = 2, weight 9"
    paper = "Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024"
    bibtex = """@inproceedings{sun2024logit,
  title     = {Logit Standardization in Knowledge Distillation},
  author    = {Sun, Shangquan and Ren, Wenqi and Li, Jingzhi and Wang, Rui and Cao, Xiaochun},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {15731--15740},
  year      = {2024}
}"""
    Config = LSConfig

    @classmethod
    def needs(cls, config: LSConfig) -> Needs:
        return Needs.of("logits", "logits")

    @classmethod
    def for_other(cls, other: str, teacher: str, student: str) -> Mapping[str, Any]:
        pair = f"{teacher}:{student}"
        if other == "kd":
            temperature, weight = KD.get(pair, (2.0, 9.0))
            return {"temperature": temperature, "weight": weight}
        if other == "dkd":
            temperature, weight, beta = DKD.get(pair, (2.0, 9.0, 8.0))
            return {"temperature": temperature, "alpha": weight, "beta": weight * beta}
        if other == "ctkd":
            return {"weight": 9.0}
        if other == "mlld":
            temperature, weight = MLLD.get(pair, (2.0, 9.0))
            return {"temperature": temperature, "levels": weight}
        return {}

    def transform(self, step: Step) -> Step:
        def one(f: Features) -> Features:
            """A teacher's pass that only other runs of the pack asked for may have no logits."""
            return f if f.logits is None else f._replace(logits=standardise(f.logits, self.config.eps))

        def change(passes: Mapping[str, Features]) -> dict[str, Features]:
            return {name: one(f) for name, f in passes.items()}

        return dataclasses.replace(step, students=change(step.students), teachers=change(step.teachers))
