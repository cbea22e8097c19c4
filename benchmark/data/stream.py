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
from benchmark.runs import seed_of


@dataclass(frozen=True)
class Batch:
    """One step's images: `views[name]` is float32 `[copies * B, 3, H, W]`; labels and indices int64 `[B]`; `draws[name]` the random draws
    of each view, `[B, k]`."""

    views: dict[str, Tensor]
    labels: Tensor
    indices: Tensor
    draws: dict[str, Tensor] = field(default_factory=dict)


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
        generator = torch.Generator().manual_seed(seed_of(self.seed, "order", self.sampler.name, stage, epoch))
        return self.sampler.epoch(self._labels_cpu, self.batch_size, self.drop_last, generator)

    def epoch(self, stage: str, epoch: int, views: Iterable[View], drawn: Iterable[View] = ()) -> Iterator[Batch]:
        """The batches of one epoch (counted from 1) with these views. Draws are made on the CPU, once, and moved to the device.

        drawn: views of which the draws are wanted and not the images.
        """
        wanted = {v.name: under(self.augment, v) for v in views}
        device = self.images.device
        order = self._order(stage, epoch)
        total = sum(map(len, order))
        draws = {}
        others = {v.name: under(self.augment, v) for v in (NORMAL, *drawn)}
        for view in {**others, **wanted}.values():
            generator = torch.Generator().manual_seed(seed_of(self.seed, "view", view.name, stage, epoch))
            draws[view.name] = view.draw(total, generator).to(device)
        positions = torch.cat(order).to(device)
        start = 0
        for size in map(len, order):
            rows = slice(start, start + size)
            index = positions[rows]
            labels = self.labels[index]
            raw = RawBatch(self.images[index], labels, index, self.mean, self.std)
            normal = draws[NORMAL.name][rows]
            made = {name: v.make(raw, draws[name][rows], normal) for name, v in wanted.items()}
            yield Batch(made, labels, index, {name: d[rows] for name, d in draws.items()})
            start += size
