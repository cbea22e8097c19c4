"""The "correlation" row (CC) of the CRD benchmark: products of the differences of neighbouring images.

    L = ce * CE(z_s, y) + weight * mean_i sum_d |e_s - e_t|_{i,d} * |e_s - e_t|_{i+1,d}

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- e_s, e_t: linear embeddings of the pooled features of student and teacher, `[B, dim]`.
- i: a pair of neighbours in the batch; there are B - 1.
- d: a component of the embeddings.

Modules: one linear layer for the student and one for the teacher. Both are trained with the student, the
teacher's too, so a degenerate solution is possible.

Stability: the term is a square of both networks' features, so SGD with momentum 0.9 stays stable only while

    lr * 2 * weight * (|f_s|^2 + |f_t|^2) < 2 * (1 + 0.9),    f = the pooled features (of their common part)

CIFAR's lr of 0.05 leaves room for 1,900, ImageNet's 0.1 for 950. A teacher after a few steps (profile
`quick`) can be far above: its batch norms' running statistics lag behind its weights, so its features in
eval mode are ten to twenty times as large as in training. Then a run of CC diverges, and is recorded so.

Differences between paper and code: this is *not* the method of the cited paper, and a row of CC must not be
read as that method. The paper matches matrices of Taylor-expanded RBF kernels over the batch and has no
modules; `cckd` implements it.

Constants: RepDistiller distiller_zoo/CC.py, scripts/run_cifar_distill.sh (`-a 0 -b 0.02`), `--feat_dim 128`.
The weight behind the ImageNet rows that are printed is not known.

Paper: Peng, Jin, Liu, Li, Wu, Liu, Zhou, Zhang: Correlation Congruence for Knowledge Distillation. ICCV
2019, arXiv 1904.01802.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from benchmark.methods._common import check_range, require_networks
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param


@dataclass(frozen=True, kw_only=True)
class CCConfig(MethodConfig):
    weight: float = param(
        0.02,
        "weight of the correlation term",
        "RepDistiller run_cifar_distill.sh --distill correlation -b 0.02",
    )
    dim: int = param(128, "size of both embeddings", "RepDistiller train_student.py --feat_dim 128")

    def __post_init__(self) -> None:
        check_range("cc.dim", self.dim, 1)


class CC(Method):
    name = "cc"
    title = "CC"
    formula = (
        "CE + 0.02 mean_i sum_d |e_s - e_t|_{i,d} |e_s - e_t|_{i+1,d}, "
        "e = trained linear embedding of each network's pooled features"
    )
    paper = (
        "RepDistiller's variant of Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019"
    )
    bibtex = """@inproceedings{peng2019correlation,
  title     = {Correlation Congruence for Knowledge Distillation},
  author    = {Peng, Baoyun and Jin, Xiao and Liu, Jiaheng and Li, Dongsheng and Wu, Yichao and Liu, Yu and
               Zhou, Shunfeng and Zhang, Zhaoning},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
  pages     = {5007--5016},
  year      = {2019}
}"""
    Config = CCConfig

    @classmethod
    def needs(cls, config: CCConfig) -> Needs:
        return Needs.of("embedding logits", "embedding")

    def __init__(self, config: CCConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        student, teacher = require_networks(context.student, context.teacher)
        self.embed_s = nn.Linear(student.embedding_dim, config.dim)
        self.embed_t = nn.Linear(teacher.embedding_dim, config.dim)

    def loss(self, step: Step) -> Terms:
        if not self.is_active("cc"):
            return {}
        delta = (self.embed_s(step.student.embedding) - self.embed_t(step.teacher.embedding)).abs()
        return {"cc": (delta[:-1] * delta[1:]).sum(1).mean()}
