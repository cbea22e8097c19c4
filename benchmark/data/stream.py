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
class Rows:
    """What a batch is made from: positions in the training set, int64 `[B]`, and the random draws of each view by name, `[B, k]`."""

    indices: Tensor
    draws: dict[str, Tensor]

    def clone(self) -> Rows:
        """A copy in memory of its own."""
        return Rows(self.indices.clone(), {name: d.clone() for name, d in self.draws.items()})

    def copy_(self, other: Rows) -> None:
        """Takes over the values of `other`, of the same size, where they lie."""
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
        for rows in self.rows(stage, epoch, views, drawn):
            yield self.batch(rows, views)

    def rows(
        self, stage: str, epoch: int, views: Iterable[View], drawn: Iterable[View] = ()
    ) -> Iterator[Rows]:
        """What the batches of `epoch` are made from. Draws are made on the CPU, once, and moved to the device."""
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
            yield Rows(positions[rows], {name: d[rows] for name, d in draws.items()})
            start += size

    def batch(self, rows: Rows, views: Iterable[View]) -> Batch:
        """The batch of these rows, on the device: nothing here is looked at by the host."""
        labels = self.labels[rows.indices]
        raw = RawBatch(self.images[rows.indices], labels, rows.indices, self.mean, self.std)
        normal = rows.draws[NORMAL.name]
        made = {v.name: under(self.augment, v).make(raw, rows.draws[v.name], normal) for v in views}
        return Batch(made, labels, rows.indices, rows.draws)
