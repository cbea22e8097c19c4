"""TF-KD with a virtual teacher ("TF-KD reg"): distil from a hand-made distribution that favours the label.

    L = ce * CE(z, y) + weight * multiplier * KL(softmax(p / T) || softmax(z))
    p_c = correct if c = y else (1 - correct) / (C - 1)

- z: the network's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- p: the virtual teacher's probabilities, `[B, C]`.
- T: temperature of the virtual teacher.

The KL is summed over the classes and averaged over the batch. There is no teacher network. For TF-KD with a
trained network of the student's own architecture as teacher, see `tfkd_self`.

Modules: none.

Differences between paper and code: the loss follows the released code, not the text of the paper. The code
applies a softmax at temperature T to the *probabilities* p, so at T = 20 the target is nearly uniform. It
does not soften the student's outputs and has no factor T^2. It sets ce = 1 - alpha and weight = alpha; here
they are two settings. Its KL is the mean over all B x C elements, times a multiplier for each network; its
multiplier of 100 on CIFAR-100 equals 1 here.

Self-KD-Lib's code of the same name is another loss: CE + H(q, log softmax(z / T)) / T with label smoothing's
q over the other classes (eps = 0.1, T = 20). Its published value is therefore no reproduction of this row.

Constants: correct = 0.99, and experiments/base_experiments/*/params.json of
yuanli2333/Teacher-free-Knowledge-Distillation at d000ab3, one file for each network. Defaults are those of
ResNet18: alpha = 0.1, T = 20, multiplier 100. The file of DenseNet121 has alpha = 0.1 and T = 40
and `batch_mean` in place of a multiplier, which is read here as a multiplier of C (unverified). The other
networks of this suite have no file that fits: they take the defaults (unverified).

Paper: Yuan, Tay, Li, Wang, Feng: Revisiting Knowledge Distillation via Label Smoothing Regularization. CVPR
2020, arXiv 1909.11723.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import check_range, one_hot
from benchmark.methods._pairs import PairConstants
from benchmark.methods.base import Method, MethodConfig, Step, Terms, param


@dataclass(frozen=True, kw_only=True)
class TFKDConfig(MethodConfig):
    ce: float = param(
        0.9,
        "weight of the cross-entropy, 1 - alpha (1.0 in a combination)",
        "TF-KD base_resnet18/params.json, reg_alpha 0.1",
    )
    weight: float = param(
        0.1,
        "weight of the virtual teacher's KL, alpha",
        "TF-KD base_resnet18/params.json, reg_alpha 0.1",
    )
    temperature: float = param(
        20.0,
        "temperature T of the virtual teacher",
        "TF-KD base_resnet18/params.json, reg_temperature 20",
    )
    correct: float = param(
        0.99, "the virtual teacher's probability of the true class", "TF-KD loss_kd_regularization"
    )
    multiplier: float = param(
        1.0,
        "factor of the KL",
        "TF-KD base_resnet18/params.json, multiplier 100 on a mean over 100 classes",
    )

    def __post_init__(self) -> None:
        check_range("tfkd.temperature", self.temperature, 0.0, above=True)
        check_range("tfkd.correct", self.correct, 0.0, 1.0)


NETWORKS = PairConstants(
    settings=("tfkd.ce", "tfkd.weight", "tfkd.temperature", "tfkd.multiplier"),
    pairs={"*:ResNet18": (0.9, 0.1, 20.0, 1.0), "*:DenseNet121": (0.9, 0.1, 40.0, 1.0)},
    source="Teacher-free-Knowledge-Distillation@d000ab3, base_experiments/*/params.json",
)


class TFKD(Method):
    name = "tfkd"
    title = "TF-KD (virtual)"
    formula = "0.9 CE + 0.1 KL(softmax(p/T) || softmax(z)), p = 0.99 on the true class, T = 20"
    paper = "Yuan et al., Revisiting Knowledge Distillation via Label Smoothing Regularization, CVPR 2020"
    bibtex = """@inproceedings{yuan2020revisiting,
  title     = {Revisiting Knowledge Distillation via Label Smoothing Regularization},
  author    = {Yuan, Li and Tay, Francis E. H. and Li, Guilin and Wang, Tao and Feng, Jiashi},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2020}
}"""
    combined_defaults = {"ce": 1.0}
    pair_constants = (NETWORKS,)
    Config = TFKDConfig

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        return {"tfkd": config.weight * config.multiplier}

    def loss(self, step: Step) -> Terms:
        if not self.is_active("tfkd"):
            return {}
        z = step.student.logits
        target = virtual_teacher(z, step.labels, self.config.correct, self.config.temperature)
        return {"tfkd": F.kl_div(F.log_softmax(z, dim=1), target, reduction="batchmean")}


def virtual_teacher(logits: Tensor, labels: Tensor, correct: float, temperature: float) -> Tensor:
    """Return softmax(p / T) for the p of the formula above, `[B, C]`, in the shape and type of `logits`."""
    classes = logits.shape[1]
    labels_one_hot = one_hot(labels, classes, logits.dtype)
    p = labels_one_hot * correct + (1 - labels_one_hot) * ((1 - correct) / (classes - 1))
    return torch.softmax(p / temperature, dim=1)
