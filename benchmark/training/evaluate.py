"""Test-set evaluation: top-1, top-5 and mean cross-entropy, in batches that suit the device, one synchronisation at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.data.datasets import Split
from benchmark.data.views import normalise
from benchmark.training.execution import Execution
from models import Features, Network

BATCH = {"cpu": 100, "cuda": 500}
"""Images of a pass: on a GPU so many that it is filled, on a CPU so few that the maps stay in its caches (docs/speed.md)."""


@dataclass(frozen=True)
class Score:
    """top1, top5 in percent of the test set; loss: mean cross-entropy (nats)."""

    top1: float
    top5: float
    loss: float


@torch.no_grad()
def logits(
    net: Network,
    split: Split,
    mean: Tensor,
    std: Tensor,
    execution: Execution,
    predict: Callable[[Features], Tensor] | None = None,
) -> Tensor:
    """Logits float32 `[N, C]` of a split's images, in eval mode (the network's mode is put back)."""
    training = [m for m in net.modules() if m.training]
    net.eval()
    found = []
    for images in split.images.split(BATCH[execution.torch_device.type]):
        x = normalise(images, mean, std)
        with execution.autocast():
            out = net(x) if predict is None else predict(net.features(x))
        found.append(out.float())
    for m in training:
        m.training = True
    return torch.cat(found)


def score(z: Tensor, labels: Tensor) -> Score:
    """The score of logits `[N, C]` against labels `[N]`. Top-1 counts the first largest logit; non-finite logits count as wrong."""
    hits = z.topk(min(5, z.shape[1]), dim=1).indices == labels[:, None]
    finite = torch.isfinite(z).all(dim=1)
    top1, top5 = (hits[:, 0] & finite).sum(), (hits.any(dim=1) & finite).sum()
    numbers = torch.stack(
        [top1.double(), top5.double(), F.cross_entropy(z, labels, reduction="sum").double()]
    ).tolist()
    n = len(labels)
    return Score(100 * numbers[0] / n, 100 * numbers[1] / n, numbers[2] / n)


def per_class(z: Tensor, labels: Tensor) -> list[float]:
    """Top-1 in percent of the images of each class, from logits `[N, C]` and labels `[N]`; not finite, without images of it. Non-finite
    logits count as wrong."""
    right = (z.argmax(dim=1) == labels) & torch.isfinite(z).all(dim=1)
    counts = torch.zeros(2, z.shape[1], dtype=torch.float64, device=z.device)
    counts[0].index_add_(0, labels, right.double())
    counts[1].index_add_(0, labels, torch.ones_like(labels, dtype=torch.float64))
    return (100 * counts[0] / counts[1]).tolist()


def evaluate(
    net: Network,
    split: Split,
    mean: Tensor,
    std: Tensor,
    execution: Execution,
    predict: Callable[[Features], Tensor] | None = None,
) -> Score:
    """Top-1, top-5 (percent) and loss of a network on a split."""
    return score(logits(net, split, mean, std, execution, predict), split.labels)
