"""The stream of batches that a pack is trained on.

Order and augmentation depend only on the seed, the stage and the epoch. All methods of a seed therefore train
on the same batches (common random numbers), whatever their pack, and a resumed run continues with the batches
that it would have had.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmark.data import mixup
from benchmark.data.datasets import Split
from benchmark.data.portions import Portion
from benchmark.data.samplers import Sampler, join
from benchmark.data.views import NORMAL, RawBatch, View, view_for
from benchmark.seeds import seed_of


@dataclass(frozen=True)
class Batch:
    """The images of one step."""

    views: dict[str, Tensor]
    """Views by name, float32 `[copies * B, 3, H, W]`."""

    labels: Tensor
    """int64 `[B]`."""

    indices: Tensor
    """Positions in the training set, int64 `[B]`."""

    draws: dict[str, Tensor] = field(default_factory=dict)
    """Random draws of the views by name, `[B, k]`."""

    first: int = 0
    """Number of rows in the first part of the batch, for samplers whose batches have two; else all rows."""

    mix: Tensor | None = None
    """The share that each image has of itself if the recipe mixes images, a scalar (mixup.py)."""

    portion: Portion | None = None
    """The rows whose views this process has, if several share the batch; None: all rows. Labels, indices and
    draws are those of the whole batch."""


@dataclass(frozen=True)
class BatchDraw:
    """The random choices that define a batch: its images, and the random draws of its views."""

    indices: Tensor
    """Positions in the training set, int64 `[B]`."""

    draws: dict[str, Tensor]
    """Random draws of the views by name, `[B, k]`."""

    first: int = 0
    """Number of rows in the first part of the batch."""

    images: dict[str, Tensor] = field(default_factory=dict)
    """Of images in files: the views before normalisation by name, uint8 `[copies * B, H, H, 3]`."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and of those in the first part. What is captured for one shape fits no other."""
        return len(self.indices), self.first

    def of(self, portion: Portion) -> BatchDraw:
        """Return the draw of a portion of the batch."""
        rows = portion.rows.to(self.indices.device)
        draws = {n: d[rows] for n, d in self.draws.items()}
        images = {n: portion.of(t, len(t) // portion.total) for n, t in self.images.items()}
        return BatchDraw(self.indices[rows], draws, portion.first, images)

    def clone(self) -> BatchDraw:
        """Return a copy that shares no memory."""
        draws = {name: d.clone() for name, d in self.draws.items()}
        images = {name: t.clone() for name, t in self.images.items()}
        return BatchDraw(self.indices.clone(), draws, self.first, images)

    def copy_(self, other: BatchDraw) -> None:
        """Copy the values of `other`, which has the same size, into this object's memory."""
        self.indices.copy_(other.indices)
        for name, d in self.draws.items():
            d.copy_(other.draws[name])
        for name, t in self.images.items():
            t.copy_(other.images[name])


class Stream:
    """The batches of a training split, which is on the device as one uint8 tensor."""

    def __init__(
        self,
        split: Split,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        sampler: Sampler,
        batch_size: int,
        drop_last: bool,
        seed: int,
        augment: str = "crop-flip",
        mixup: float = 0.0,
    ) -> None:
        self.images, self.labels = split.images, split.labels
        device = split.images.device
        self.mean, self.std = torch.tensor(mean, device=device), torch.tensor(std, device=device)
        self.sampler, self.batch_size, self.drop_last, self.seed = sampler, batch_size, drop_last, seed
        self.augment, self.mixup, self.size = augment, mixup, split.images.shape[1]
        self._labels_cpu = split.labels.cpu()

    def steps(self, stage: str, epoch: int) -> int:
        """Return the number of batches of an epoch."""
        return len(self._order(stage, epoch))

    def _order(self, stage: str, epoch: int) -> list[tuple[Tensor, int]]:
        """Return the batches of an epoch: positions int64 `[B]`, and the number of rows in the first part."""
        batches = self._cut(stage, epoch)
        if self.sampler.joined:
            return join(batches, self._cut(stage, epoch - 1)[-1] if epoch > 1 else None)
        return [(batch, self.sampler.first_rows(len(batch))) for batch in batches]

    def _cut(self, stage: str, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(
            seed_of(self.seed, "order", self.sampler.name, stage, epoch)
        )
        return self.sampler.epoch(self._labels_cpu, self.batch_size, self.drop_last, generator)

    def epoch(
        self, stage: str, epoch: int, views: Iterable[View], drawn: Iterable[View] = ()
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch (counted from 1) with these views.

        drawn: views whose random draws are needed, but not their images.
        """
        views = list(views)
        for draw in self.draws(stage, epoch, views, drawn):
            yield self.batch(draw, views)

    def draws(
        self, stage: str, epoch: int, views: Iterable[View], drawn: Iterable[View] = ()
    ) -> Iterator[BatchDraw]:
        """Yield the draw of each batch of an epoch.

        Draws are made on the CPU, once, and moved to the device.
        """
        return self._draws(stage, epoch, views, drawn, self.images.device)

    def _draws(
        self, stage: str, epoch: int, views: Iterable[View], drawn: Iterable[View], device: torch.device
    ) -> Iterator[BatchDraw]:
        order = self._order(stage, epoch)
        total = sum(len(batch) for batch, _ in order)
        draws = {}
        for view in {v.name: view_for(self.augment, v, self.size) for v in (NORMAL, *drawn, *views)}.values():
            generator = torch.Generator().manual_seed(seed_of(self.seed, "view", view.name, stage, epoch))
            draws[view.name] = view.draw(total, generator).to(device)
        if self.mixup:
            seed = seed_of(self.seed, mixup.NAME, stage, epoch)
            draws[mixup.NAME] = mixup.draw_shares(total, self.mixup, seed).to(device)
        positions = torch.cat([batch for batch, _ in order]).to(device)
        start = 0
        for batch, first in order:
            rows = slice(start, start + len(batch))
            yield BatchDraw(positions[rows], {name: d[rows] for name, d in draws.items()}, first)
            start += len(batch)

    def portion(self, draw: BatchDraw, views: Iterable[View], portion: Portion) -> Batch:
        """Return the batch of a draw with the views of a portion of its rows, on the device."""
        views = [view_for(self.augment, view) for view in views]
        across = [v for v in views if v.across_rows or self.mixup]
        alone = [v for v in views if v not in across]
        whole = self.batch(draw, across) if across else None
        made = {} if whole is None else {v.name: portion.of(whole.views[v.name], v.copies) for v in across}
        made |= self.batch(draw.of(portion), alone).views if alone else {}
        return Batch(
            views={v.name: made[v.name] for v in views},
            labels=self.labels[draw.indices],
            indices=draw.indices,
            draws=draw.draws,
            first=draw.first,
            portion=portion,
            mix=None if whole is None else whole.mix,
        )

    def batch(self, draw: BatchDraw, views: Iterable[View]) -> Batch:
        """Return the batch of a draw, on the device. The host never waits for a value from the device."""
        labels = self.labels[draw.indices]
        raw = RawBatch(
            images=self.images[draw.indices],
            labels=labels,
            indices=draw.indices,
            mean=self.mean,
            std=self.std,
        )
        normal = draw.draws[NORMAL.name]
        views_by_name = {
            v.name: view_for(self.augment, v).make(raw, draw.draws[v.name], normal) for v in views
        }
        return self.batch_of(draw, views_by_name, labels)

    def batch_of(self, draw: BatchDraw, views: dict[str, Tensor], labels: Tensor) -> Batch:
        """Return the batch of views that are made, mixed if the recipe mixes images."""
        share = None
        if self.mixup:
            share = draw.draws[mixup.NAME][0, 0]
            views = {name: mixup.mixed(x, share) for name, x in views.items()}
        return Batch(
            views=views,
            labels=labels,
            indices=draw.indices,
            draws=draw.draws,
            first=draw.first,
            mix=share,
        )
