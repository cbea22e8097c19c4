"""Evaluation on the test set: top-1, top-5 and mean cross-entropy.

The images are passed in batches that suit the device. The host waits for the device once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark import longwork
from benchmark.data.datasets import Split
from benchmark.data.views import normalise
from benchmark.training import processes
from benchmark.training.execution import Execution
from benchmark.user_code import code_of_one_run
from models import Features, Network

BATCH = {"cpu": 100, "cuda": 500}
"""Images per pass: they fill a GPU, and their maps fit into the caches of a CPU (docs/speed.md)."""


@dataclass(frozen=True)
class Score:
    """The result of an evaluation."""

    top1: float
    """Percent of the images."""
    top5: float
    """Percent of the images."""
    loss: float
    """Mean cross-entropy, in nats."""


@torch.no_grad()
def logits(
    net: Network,
    split: Split,
    mean: Tensor,
    std: Tensor,
    execution: Execution,
    predict: Callable[[Features], Tensor] | None = None,
) -> Tensor:
    """Return the logits of a split's images, float32 `[N, C]`, in eval mode. The network's mode is restored.

    mean, std: the normalisation, `[3]` each. predict: makes logits from the network's features in float32;
    the default is the network's logits. It is called outside of autocast, as is the loss of a method: the
    modules that it uses are evaluated in the precision in which they are trained.

    Raises `RunCodeError` for an `InputError` or `OSError` of the network.
    """
    training = [m for m in net.modules() if m.training]
    net.eval()
    batches, what = [], f"network {net.name}"
    with longwork.task(f"evaluating {net.name}", len(split.labels), "images") as task:
        for images in split.batches(BATCH[execution.torch_device.type]):
            x = normalise(images, mean, std)
            if predict is None:
                with code_of_one_run(what), execution.autocast():
                    z = net(x)
            else:
                with code_of_one_run(what), execution.autocast():
                    features = net.features(x)
                z = predict(features.float32())
            batches.append(z.float())
            task.advance(len(images))
    for m in training:
        m.training = True
    return torch.cat(batches)


def score(z: Tensor, labels: Tensor) -> Score:
    """Return the score of logits `[N, C]` against labels `[N]`.

    Among equal logits, the first counts. An image with a logit that is not finite counts as wrong.
    """
    return _score(_sums(z, labels))


def _sums(z: Tensor, labels: Tensor) -> Tensor:
    """Return the sums over images that a score is made of: float64 `[4]`, the last is their number."""
    # not by `topk`, which gives equal logits in any order: those of bf16 are often equal
    right, classes = z.gather(1, labels[:, None]), torch.arange(z.shape[1], device=z.device)
    rank = ((z > right) | ((z == right) & (classes < labels[:, None]))).sum(dim=1)
    finite = torch.isfinite(z).all(dim=1)
    top1, top5 = (((rank < k) & finite).sum() for k in (1, 5))
    loss = F.cross_entropy(z, labels, reduction="sum")
    return torch.stack([top1.double(), top5.double(), loss.double(), torch.full_like(loss, len(z)).double()])


def _score(sums: Tensor) -> Score:
    top1, top5, loss, n = sums.tolist()
    return Score(100 * top1 / n, 100 * top5 / n, loss / n)


def per_class(z: Tensor, labels: Tensor) -> list[float]:
    """Return the top-1 of each class, in percent of its images, from logits `[N, C]` and labels `[N]`.

    NaN for a class without images. An image with a logit that is not finite counts as wrong.
    """
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
    """Return the score of a network on a split. See `logits` for the arguments.

    Processes that share the batches of the training share the images here, and their sums are added.
    """
    if not execution.is_shared or len(split.labels) < processes.current().count:
        return score(logits(net, split, mean, std, execution, predict), split.labels)
    team, n = processes.current(), len(split.labels)
    start, end = (n * number // team.count for number in (team.number, team.number + 1))
    mine = split.between(start, end)
    sums = _sums(logits(net, mine, mean, std, execution, predict), mine.labels)
    team.sum_(sums)
    return _score(sums)
