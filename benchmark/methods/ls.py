"""Logit standardisation (LS): a wrapper that standardises the logits another method reads, as in `kd+ls`.

    z -> (z - mean(z)) / (std(z) + eps)

- z: the logits of one image, `[C]`. Mean and standard deviation run over its C classes.
- std: with C - 1 in the denominator.
- eps: 1e-7.

The logits of both student and teacher are standardised before the wrapped method divides them by its
temperature. The cross-entropy with the labels, and the student at test time, use the original logits. The
wrapper has no loss of its own; besides KD and DKD it is used as `ctkd+ls` and `mlld+ls`.

Modules: none.

Constants: with LS, the wrapped method's temperature is the base temperature of standardised logits, and its
loss is small, so the wrapped methods get other constants. `pair_constants` lists the base temperature and
weight of each pair, read from the file names of the released logs; pairs without a log get temperature 2
and weight 9.
- KD keeps ce = 0.1.
- DKD: alpha = weight, and beta = weight * the third number of a log's name (8 without a log), because
  tools/train.py multiplies both by the weight.
- MLLD: the runs have 480 epochs (960 for ShuffleV2), and the learning rates of MLLD. Only its instance term
  reads standardised logits, as in the released code (mdistiller/distillers/MLKD.py); its class and batch
  terms, its masks and both cross-entropies read the original ones.
- CTKD: its rows were run with CTKD's code and not with mdistiller's.
Source: sunshangquan/logit-standardization-KD at f6e5aa5, file names and lengths of its logs, and its README.

Paper: Sun, Ren, Li, Wang, Cao: Logit Standardization in Knowledge Distillation. CVPR 2024, arXiv 2403.01427.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from benchmark.methods._pairs import PairConstants
from benchmark.methods.base import Method, MethodConfig, Needs, Step, param

if TYPE_CHECKING:
    from models import Features

LOGS = "logit-standardization-KD@f6e5aa5, file names of its logs; *:*: its README"

KD = PairConstants(
    settings=("kd.temperature", "kd.weight"),
    pairs={
        "*:*": (2.0, 9.0),
        "ResNet50:MobileNetV2": (3.0, 1.0),
        "resnet110:resnet20": (4.0, 12.0),
        "resnet32x4:wrn_16_2": (3.0, 9.0),
        "resnet32x4:wrn_40_2": (3.0, 9.0),
        "vgg13:MobileNetV2": (3.0, 9.0),
        "vgg13:vgg8": (3.0, 9.0),
        "wrn_40_2:MobileNetV2": (3.0, 9.0),
    },
    source=LOGS,
)
DKD = PairConstants(
    settings=("dkd.temperature", "dkd.alpha", "dkd.beta"),
    pairs={
        "*:*": (2.0, 9.0, 72.0),
        "ResNet50:MobileNetV2": (2.0, 15.0, 30.0),
        "resnet110:resnet20": (2.0, 15.0, 30.0),
        "resnet110:resnet32": (2.0, 15.0, 30.0),
        "resnet32x4:wrn_16_2": (2.0, 9.0, 18.0),
        "resnet32x4:wrn_40_2": (2.0, 9.0, 72.0),
        "resnet56:resnet20": (3.0, 18.0, 36.0),
        "vgg13:MobileNetV2": (3.0, 9.0, 18.0),
        "vgg13:vgg8": (2.0, 15.0, 30.0),
        "wrn_40_2:MobileNetV2": (2.0, 15.0, 30.0),
        "wrn_40_2:resnet8x4": (2.0, 18.0, 36.0),
        "wrn_40_2:wrn_16_2": (2.0, 12.0, 24.0),
        "wrn_40_2:wrn_40_1": (2.0, 12.0, 24.0),
    },
    source=LOGS,
)
CTKD = PairConstants(settings=("ctkd.weight",), pairs={"*:*": (9.0,)}, source=LOGS)
MLLD = PairConstants(
    settings=("mlld.temperature", "mlld.levels", "protocol.epochs"),
    pairs={
        "*:*": (2.0, 9.0, 480),
        "resnet32x4:ShuffleV2": (2.0, 6.0, 960),
        "vgg13:MobileNetV2": (2.0, 6.0, 480),
        "vgg13:vgg8": (2.0, 6.0, 480),
    },
    source=f"{LOGS}; epochs: the logs' lengths, in which the loss falls after epochs 150, 180 and 210",
)


def standardise(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """Scale each row to mean 0 and standard deviation 1, `[B, C]` -> `[B, C]`.

    A constant row gives zeros and a finite gradient.
    """
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
    pair_constants = (KD, DKD, CTKD, MLLD)

    @classmethod
    def needs(cls, config: LSConfig) -> Needs:
        return Needs.of("logits", "logits")

    def transform(self, step: Step) -> Step:
        def standardise_logits(features: Features) -> Features:
            # A teacher pass that only other runs of the pack need may lack the logits.
            if not features.has("logits"):
                return features
            return features.replace(logits=standardise(features.logits, self.config.eps))

        return dataclasses.replace(
            step,
            students={view: standardise_logits(features) for view, features in step.students.items()},
            teachers={view: standardise_logits(features) for view, features in step.teachers.items()},
        )
