"""DarkRank: rank the images of a batch by their distance to an image as the teacher does.

    hard    L = ce * CE(z_s, y) - weight * mean_i log P(pi_i | s_i)
    soft    L = ce * CE(z_s, y) + weight * mean_i KL(P(. | t_i) || P(. | s_i))
    s_ij = -alpha |f_i - f_j|^beta
    P(pi | s) = prod_k exp(s_pi(k)) / sum_{l >= k} exp(s_pi(l))    (Plackett-Luce)

- z_s: the student's logits, `[B, C]` (B images, C classes).
- y: labels, `[B]`.
- f: L2-normalised embeddings, `[B, D]`.
- s, t: scores of the student's and of the teacher's embeddings, `[B, B]`.
- pi: an order of images; pi_i is the teacher's order for image i.

For each image i of the batch, the `length` other images that are nearest to it in the teacher's embedding
are ranked. The soft form sums over all length! orders, so `length` has to be small.

Modules: none.

Constants: alpha = 3, beta = 3 and length = 4 are the defaults of HardDarkRank in lenscloth/RKD at 0a6c3c0
(metric/loss.py), which is made for metric learning. Its run scripts (run_distill.py) pass alpha = 2 and
beta = 3 by default, and give both networks L2-normalised embeddings. The soft form is not part of that code.
The weight relative to the cross-entropy is unverified: the scripts' default is 0, beside a triplet loss.

Paper: Chen, Wang, Zhang: DarkRank: Accelerating Deep Metric Learning via Cross Sample Similarities
Transfer. AAAI 2018, arXiv 1707.01220.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.methods._common import check_range
from benchmark.methods.base import Method, MethodConfig, MethodContext, Needs, Step, Terms, param


@dataclass(frozen=True, kw_only=True)
class DarkRankConfig(MethodConfig):
    weight: float = param(1.0, "weight of the ranking term", "unverified")
    kind: str = param(
        "hard",
        "form of the loss; hard: likelihood of the teacher's order, soft: KL over all orders",
        "Chen et al.",
        allowed=("hard", "soft"),
    )
    alpha: float = param(
        3.0,
        "factor alpha of the scores (2 in the run scripts)",
        "lenscloth/RKD metric/loss.py, HardDarkRank alpha=3",
    )
    beta: float = param(
        3.0, "exponent beta of the distance", "lenscloth/RKD metric/loss.py, HardDarkRank beta=3"
    )
    length: int = param(
        4, "number of ranked images", "lenscloth/RKD metric/loss.py, HardDarkRank permute_len=4"
    )

    def __post_init__(self) -> None:
        check_range("darkrank.length", self.length, 2, 6)
        check_range("darkrank.alpha", self.alpha, 0.0, above=True)
        check_range("darkrank.beta", self.beta, 1.0)


def scores(embedding: Tensor, alpha: float, beta: float) -> Tensor:
    """Return -alpha * distance^beta between the normalised rows of embeddings `[B, D]` -> `[B, B]`."""
    f = F.normalize(embedding, dim=1)
    squared = 2 - 2 * f @ f.t()
    return -alpha * squared.clamp(min=1e-12) ** (beta / 2)


def log_likelihood(ordered: Tensor) -> Tensor:
    """Return the log of an order's Plackett-Luce probability: scores in that order `[..., L]` -> `[...]`."""
    rest = torch.logcumsumexp(ordered.flip(-1), dim=-1).flip(-1)
    return (ordered - rest).sum(-1)


def _orders(length: int) -> Tensor:
    """Return all permutations of `length` images: int64 `[length!, length]`."""
    return torch.tensor(list(itertools.permutations(range(length))))


class DarkRank(Method):
    name = "darkrank"
    title = "DarkRank"
    formula = (
        "CE - mean_i log P(teacher's order of the 4 nearest | student's scores), scores -3 |f_i - f_j|^3 "
        "(soft: KL over all orders)"
    )
    paper = (
        "Chen et al., DarkRank: Accelerating Deep Metric Learning via Cross Sample Similarities Transfer, "
        "AAAI 2018"
    )
    bibtex = """@inproceedings{chen2018darkrank,
  title     = {{DarkRank}: Accelerating Deep Metric Learning via Cross Sample Similarities Transfer},
  author    = {Chen, Yuntao and Wang, Naiyan and Zhang, Zhaoxiang},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2018}
}"""
    Config = DarkRankConfig
    orders: Tensor

    @classmethod
    def needs(cls, config: DarkRankConfig) -> Needs:
        return Needs.of("embedding logits", "embedding")

    def __init__(self, config: DarkRankConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        self.register_buffer("orders", _orders(config.length), persistent=False)

    def loss(self, step: Step) -> Terms:
        if not self.is_active("darkrank"):
            return {}
        c: DarkRankConfig = self.config
        student, teacher = (scores(f.embedding, c.alpha, c.beta) for f in (step.student, step.teacher))
        itself = torch.eye(len(teacher), dtype=torch.bool, device=teacher.device)
        length = min(c.length, len(teacher) - 1)  # an epoch's last batch may be smaller than `length`
        nearest = teacher.masked_fill(itself, float("-inf")).topk(length, dim=1).indices  # nearest first
        s, t = student.gather(1, nearest), teacher.gather(1, nearest)
        if c.kind == "hard":
            return {"darkrank": -log_likelihood(s).mean()}
        orders = self.orders if length == c.length else _orders(length).to(s.device)
        p_s, p_t = (log_likelihood(x[:, orders]) for x in (s, t))
        return {"darkrank": F.kl_div(p_s, p_t, reduction="batchmean", log_target=True)}
