"""DarkRank: which images of the batch the teacher finds nearest to an image, and in which order.

    hard   L = ce * CE - weight * mean_i log P(pi_i | s_i)
    soft   L = ce * CE + weight * mean_i KL( P(. | t_i) || P(. | s_i) )       over all permutations of the `length` images
    s_ij = -alpha |f_i - f_j|^beta,     P(pi | s) = prod_k exp(s_pi(k)) / sum_{l >= k} exp(s_pi(l))        (Plackett-Luce)

f: the L2-normalised embeddings, s of the student's, t of the teacher's; for each image i of the batch the `length` other images that the
teacher puts nearest are ranked, pi_i is the teacher's order of them. Soft goes over all length! orders, so `length` stays small. No modules.

Chen, Wang, Zhang: DarkRank: Accelerating Deep Metric Learning via Cross Sample Similarities Transfer. AAAI 2018, arXiv 1707.01220.
Constants: alpha = 3, beta = 3 and length 4 from memory of lenscloth/RKD (unverified), which is made for metric learning; the weight beside a
classifier and the normalisation are unverified.
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
        "hard: likelihood of the teacher's order; soft: KL over all orders",
        "Chen et al.",
        allowed=("hard", "soft"),
    )
    alpha: float = param(
        3.0, "factor alpha of the scores", "Chen et al. / lenscloth/RKD, alpha = 3; unverified"
    )
    beta: float = param(
        3.0, "exponent beta of the distance", "Chen et al. / lenscloth/RKD, beta = 3; unverified"
    )
    length: int = param(4, "images that are ranked", "lenscloth/RKD, permute_len = 4; unverified")

    def __post_init__(self) -> None:
        check_range("darkrank.length", self.length, 2, 6)
        check_range("darkrank.alpha", self.alpha, 0.0, above=True)
        check_range("darkrank.beta", self.beta, 1.0)


def scores(embedding: Tensor, alpha: float, beta: float) -> Tensor:
    """`[B, d]` -> `[B, B]`: -alpha * distance^beta between the normalised rows."""
    f = F.normalize(embedding, dim=1)
    squared = 2 - 2 * f @ f.t()
    return -alpha * squared.clamp(min=1e-12) ** (beta / 2)


def log_likelihood(ordered: Tensor) -> Tensor:
    """`[..., L]` scores in the order in question -> `[...]`: log of its Plackett-Luce probability."""
    rest = torch.logcumsumexp(ordered.flip(-1), dim=-1).flip(-1)
    return (ordered - rest).sum(-1)


def _orders(length: int) -> Tensor:
    """`[length!, length]`: every order of so many images."""
    return torch.tensor(list(itertools.permutations(range(length))))


class DarkRank(Method):
    name = "darkrank"
    title = "DarkRank"
    formula = "CE - mean_i log P(teacher's order of the 4 nearest | student's scores), scores -3 |f_i - f_j|^3 (soft: KL over all orders)"
    paper = "Chen et al., DarkRank: Accelerating Deep Metric Learning via Cross Sample Similarities Transfer, AAAI 2018"
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
        if not self.active("darkrank"):
            return {}
        c: DarkRankConfig = self.config
        student, teacher = (scores(f.embedding, c.alpha, c.beta) for f in (step.student, step.teacher))
        own = torch.eye(len(teacher), dtype=torch.bool, device=teacher.device)
        length = min(c.length, len(teacher) - 1)
        nearest = teacher.masked_fill(own, float("-inf")).topk(length, dim=1).indices  # nearest first
        s, t = student.gather(1, nearest), teacher.gather(1, nearest)
        if c.kind == "hard":
            return {"darkrank": -log_likelihood(s).mean()}
        orders = self.orders if length == c.length else _orders(length).to(s.device)  # a tiny last batch
        p_s, p_t = (log_likelihood(x[:, orders]) for x in (s, t))
        return {"darkrank": F.kl_div(p_s, p_t, reduction="batchmean", log_target=True)}
