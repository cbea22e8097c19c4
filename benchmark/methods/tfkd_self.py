"""TF-KD by self-training ("TF-KD self"): KD from a finished plain training of the same architecture.

    L = ce * CE(z, y) + weight * multiplier * T^2 * KL(softmax(z_t / T) || softmax(z / T))

- z, z_t: logits of the network and of its teacher, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- T: temperature.

The KL is summed over the classes and averaged over the batch, as in KD. The teacher is the plain training,
with seed 0, of the student's own network under the same protocol. Its weights are the checkpoint that the
protocol uses for teachers. The pair is therefore written `none:student`.

Modules: none. The method reads only logits.

Differences from the released code: it sets ce = 1 - alpha and weight = alpha; here they are two settings.
Its KL is the mean over all B x C elements, times a multiplier for each network; its multiplier of C equals
1 here, so its 50 on CIFAR-100 is 0.5.

Constants: experiments/kd_experiments/*/params.json of yuanli2333/Teacher-free-Knowledge-Distillation at
d000ab3, one file for each network. Defaults are those of ResNet18: alpha = 0.95, T = 6, multiplier 50. The
file of DenseNet121 has 0.9, 20 and 50. The file of ResNet50 has alpha = 0.95 and T = 6 but no
multiplier, and the other networks of this suite have no file: they take the defaults (unverified).

Paper: Yuan, Tay, Li, Wang, Feng: Revisiting Knowledge Distillation via Label Smoothing Regularization. CVPR
2020, arXiv 1909.11723.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmark.methods._common import check_range
from benchmark.methods._pairs import PairConstants
from benchmark.methods.base import Method, MethodConfig, Needs, Step, Terms, param
from benchmark.methods.kd import kd_loss


@dataclass(frozen=True, kw_only=True)
class TFKDSelfConfig(MethodConfig):
    ce: float = param(
        0.05,
        "weight of the cross-entropy, 1 - alpha (1.0 in a combination)",
        "TF-KD resnet18_self_teacher/params.json, alpha 0.95",
    )
    weight: float = param(
        0.95, "weight of the KL, alpha", "TF-KD resnet18_self_teacher/params.json, alpha 0.95"
    )
    temperature: float = param(
        6.0, "temperature T of both softmaxes", "TF-KD resnet18_self_teacher/params.json, temperature 6"
    )
    multiplier: float = param(
        0.5,
        "factor of the KL",
        "TF-KD resnet18_self_teacher/params.json, multiplier 50 on a mean over 100 classes",
    )

    def __post_init__(self) -> None:
        check_range("tfkd_self.temperature", self.temperature, 0.0, above=True)


NETWORKS = PairConstants(
    settings=("tfkd_self.ce", "tfkd_self.weight", "tfkd_self.temperature", "tfkd_self.multiplier"),
    pairs={"*:ResNet18": (0.05, 0.95, 6.0, 0.5), "*:DenseNet121": (0.1, 0.9, 20.0, 0.5)},
    source="Teacher-free-Knowledge-Distillation@d000ab3, kd_experiments/*/*_self_teacher/params.json",
)


class TFKDSelf(Method):
    name = "tfkd_self"
    title = "TF-KD (self)"
    formula = (
        "0.05 CE + 0.95 * 0.5 T^2 KL(softmax(z_t/T) || softmax(z/T)), "
        "the teacher a plain training of the same network, T = 6"
    )
    paper = "Yuan et al., Revisiting Knowledge Distillation via Label Smoothing Regularization, CVPR 2020"
    bibtex = """@inproceedings{yuan2020revisiting,
  title     = {Revisiting Knowledge Distillation via Label Smoothing Regularization},
  author    = {Yuan, Li and Tay, Francis E. H. and Li, Guilin and Wang, Tao and Feng, Jiashi},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2020}
}"""
    revision = 2
    combined_defaults = {"ce": 1.0}
    self_teacher = True
    pair_constants = (NETWORKS,)
    Config = TFKDSelfConfig

    @classmethod
    def needs(cls, config: TFKDSelfConfig) -> Needs:
        return Needs.of("logits", "logits")

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        return {"tfkd_self": config.weight * config.multiplier}

    def loss(self, step: Step) -> Terms:
        if not self.is_active("tfkd_self"):
            return {}
        return {"tfkd_self": kd_loss(step.student.logits, step.teacher.logits, self.config.temperature)}
