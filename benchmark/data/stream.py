"""The stream of batches of a pack: order and augmentation come from the seed, the stage and the epoch alone.

So every method of a seed sees the same batches (common random numbers), whatever it is packed with, and a resumed run goes on
with the very batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmark.data.datasets import Split
from benchmark.data.samplers import Sampler
from benchmark.data.views import NORMAL, RawBatch, View, under
from benchmark.seeds import seed_of


@dataclass(frozen=True)
class Batch:
    """One step's images: `views[name]` is float32 `[copies * B, 3, H, W]`; labels and indices int64 `[B]`; `draws[name]` the random draws
    of each view, `[B, k]`."""

    views: dict[str, Tensor]
    labels: Tensor
    indices: Tensor
    draws: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchDraw:
    """What a batch is made from: its images' positions in the training set, and the random draws of its views."""

    indices: Tensor
    """Positions in the training set, int64 `[B]`."""
    draws: dict[str, Tensor]
    """By the name of the view, `[B, k]`."""

    def clone(self) -> BatchDraw:
        """Return a copy that shares no memory with this one."""
        return BatchDraw(self.indices.clone(), {name: d.clone() for name, d in self.draws.items()})

    def copy_(self, other: BatchDraw) -> None:
        """Copy the values of `other`, which has the same size, into this one's memory."""
        self.indices.copy_(other.indices)
        for name, d in self.draws.items():
            d.copy_(other.draws[name])


class Stream:
    """Batches of a training split that lies on the device as one uint8 tensor."""

    def __init__(
        self,
        split: Split,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        sampler: Sampler,
        batch_size: int,
        drop_last: bool,
        seed: int,
        augment: str = "crop-flip",
    ) -> None:
        self.images, self.labels = split.images, split.labels
        device = split.images.device
        self.mean, self.std = torch.tensor(mean, device=device), torch.tensor(std, device=device)
        self.sampler, self.batch_size, self.drop_last, self.seed = sampler, batch_size, drop_last, seed
        self.augment = augment
        self._labels_cpu = split.labels.cpu()

    def steps(self, stage: str, epoch: int) -> int:
        """Number of batches of an epoch."""
        return len(self._order(stage, epoch))

    def _order(self, stage: str, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(
            seed_of(self.seed, "order", self.sampler.name, stage, epoch)
        )
        return self.sampler.epoch(self._labels_cpu, self.batch_size, self.drop_last, generator)

    def epoch(
        self, stage: str, epoch: int, views: Iterable[View], drawn: Iterable[View] = ()
    ) -> Iterator[Batch]:
        """The batches of one epoch (counted from 1) with these views.

        drawn: views of which the draws are wanted and not the images.
        """
        views = list(views)
        for draw in self.draws(stage, epoch, views, drawn):
            yield self.batch(draw, views)

    def draws(
        self, stage: str, epoch: int, views: Iterable[View], drawn: Iterable[View] = ()
    ) -> Iterator[BatchDraw]:
        """What the batches of `epoch` are made from. All are drawn at once on the CPU and moved to the device."""
        device = self.images.device
        order = self._order(stage, epoch)
        total = sum(map(len, order))
        draws = {}
        for view in {v.name: under(self.augment, v) for v in (NORMAL, *drawn, *views)}.values():
            generator = torch.Generator().manual_seed(seed_of(self.seed, "view", view.name, stage, epoch))
            draws[view.name] = view.draw(total, generator).to(device)
        positions = torch.cat(order).to(device)
        start = 0
        for size in map(len, order):
            rows = slice(start, start + size)
            yield BatchDraw(positions[rows], {name: d[rows] for name, d in draws.items()})
            start += size

    def batch(self, draw: BatchDraw, views: Iterable[View]) -> Batch:
        """Make the batch of a draw on the device. No value is read on the host."""
        labels = self.labels[draw.indices]
        raw = RawBatch(self.images[draw.indices], labels, draw.indices, self.mean, self.std)
        normal = draw.draws[NORMAL.name]
        made = {v.name: under(self.augment, v).make(raw, draw.draws[v.name], normal) for v in views}
        return Batch(made, labels, draw.indices, draw.draws)
