"""The accuracy of the k nearest neighbours in the space of the pooled embedding.

Every test image takes a vote of the k training images with the largest cosine similarity s; a neighbour's
vote weighs exp(s / T) (Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination,
CVPR 2018). Nothing is trained, so nothing is random.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark import data
from benchmark.measures._features import Progress, embeddings, limited
from benchmark.measures.base import Measure, MeasureConfig, MeasureContext
from benchmark.methods import check_range, param

BLOCK = 256
"""Test images whose similarities are computed at once."""


@dataclass(frozen=True, kw_only=True)
class KnnConfig(MeasureConfig):
    k: int = param(20, "number of neighbours", "common in evaluations of self-supervised networks")
    temperature: float = param(0.07, "temperature T of the votes", "Wu et al. 2018")
    train_images: int = param(0, "training images, drawn at random; 0 = all", "ours")
    test_images: int = param(0, "test images, drawn at random; 0 = all", "ours")

    def __post_init__(self) -> None:
        check_range("knn.k", self.k, 1)
        check_range("knn.temperature", self.temperature, 0.0, above=True)
        for name in ("train_images", "test_images"):
            check_range(f"knn.{name}", getattr(self, name), 0)


class Knn(Measure):
    """Accuracy of the nearest neighbours."""

    name = "knn"
    title = "k-nearest neighbours"
    paper = "Wu et al., CVPR 2018"
    metric = "knn_top1"
    Config = KnnConfig
    profile_settings = {"quick": {"train_images": 512, "test_images": 256}}

    @classmethod
    def headline(cls, config: KnnConfig) -> str:
        return "knn_top1"

    @classmethod
    def passes(cls, config: KnnConfig, train: int, test: int) -> float:
        return float(min(config.train_images or train, train) + min(config.test_images or test, test))

    @classmethod
    def run(cls, config: KnnConfig, context: MeasureContext) -> dict[str, float]:
        target = context.load(context.target)
        splits = limited(target.train, config.train_images), limited(target.test, config.test_images)
        mean, std = (torch.tensor(x, device=context.device) for x in (context.mean, context.std))
        work = Progress(sum(len(s.labels) for s in splits), context.progress)
        train, test = (embeddings(context.net, s, mean, std, done=work.add) for s in splits)
        top1 = knn_top1(
            train,
            splits[0].labels.to(context.device),
            test,
            splits[1].labels.to(context.device),
            classes=data.info(context.target).num_classes,
            k=config.k,
            temperature=config.temperature,
        )
        return {"knn_top1": top1}


@torch.no_grad()
def knn_top1(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    classes: int,
    k: int,
    temperature: float,
) -> float:
    """Return the percentage of test embeddings `[M, D]` whose neighbours in `train` `[N, D]` vote right.

    With fewer than k training images, all vote.
    """
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    k, right = min(k, len(train)), torch.zeros((), dtype=torch.int64, device=test.device)
    for block, labels in zip(test.split(BLOCK), test_labels.split(BLOCK), strict=True):
        similarity, nearest = (block @ train.T).topk(k, dim=1)
        # relative to the largest, so that no vote overflows
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = weight.new_zeros(len(block), classes).scatter_add_(1, train_labels[nearest], weight)
        right += (votes.argmax(dim=1) == labels).sum()
    return 100 * right.item() / len(test)
