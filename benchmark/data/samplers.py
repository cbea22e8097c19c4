"""Samplers: how an epoch is cut into batches.

A sampler's order depends on the labels, the batch size and the generator alone (which is seeded by the run's seed and the epoch),
so runs that share a sampler see the same batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Epoch = Callable[[Tensor, int, bool, torch.Generator], list[Tensor]]


@dataclass(frozen=True)
class Sampler:
    """name: part of a pack's identity. epoch: `(labels [N], batch_size, drop_last, generator) -> batches of positions in 0..N-1`,
    each int64 `[B]`; all but the last have the same size (`batch_size` unless the sampler says otherwise), and no batch has one image
    (batch norm cannot be trained on one).
    rows: of an epoch, for each training image (what it costs)."""

    name: str
    epoch: Epoch
    rows: int = 1

    def __repr__(self) -> str:
        return f"Sampler({self.name})"


def cut(order: Tensor, batch_size: int, drop_last: bool) -> list[Tensor]:
    """Cuts an order into batches. The last, incomplete batch is kept unless `drop_last`; one of a single image is dropped always."""
    batches = list(order.split(batch_size))
    if batches and (
        len(batches[-1]) == 1 or (drop_last and len(batches[-1]) < batch_size and len(batches) > 1)
    ):
        batches.pop()
    return batches


def _shuffle(labels: Tensor, batch_size: int, drop_last: bool, generator: torch.Generator) -> list[Tensor]:
    return cut(torch.randperm(len(labels), generator=generator), batch_size, drop_last)


SHUFFLE = Sampler("shuffle", _shuffle)
"""Every image once, in a random order: what all rows of the benchmark's tables use."""


def _halves(labels: Tensor, batch_size: int, drop_last: bool, generator: torch.Generator) -> list[Tensor]:
    halves = cut(torch.randperm(len(labels), generator=generator), max(1, batch_size // 2), drop_last)
    return [torch.cat(pair) for pair in itertools.pairwise(halves)] or halves


HALVES = Sampler("halves", _halves, rows=2)
"""The first half of each batch is the second half of the one before it: every image twice, in neighbouring batches (the first and the last
half once). DLB."""


def _pairs(labels: Tensor, batch_size: int, drop_last: bool, generator: torch.Generator) -> list[Tensor]:
    count = torch.bincount(labels)
    order, start = torch.argsort(labels, stable=True), count.cumsum(0) - count
    batches = []
    for own in cut(torch.randperm(len(labels), generator=generator), batch_size, drop_last):
        draw = torch.rand(len(own), generator=generator, dtype=torch.float64)
        batches.append(torch.cat([own, order[start[labels[own]] + (draw * count[labels[own]]).long()]]))
    return batches


PAIRS = Sampler("pairs", _pairs, rows=2)
"""Every image once in the first half of a batch; in the second half an image of its class for each, drawn with replacement (it may be the same).
A batch has twice `batch_size` rows. CS-KD."""

GROUP = 4
"""Images of one class in a group of `GROUPS`."""


def _groups(labels: Tensor, batch_size: int, drop_last: bool, generator: torch.Generator) -> list[Tensor]:
    order = torch.randperm(len(labels), generator=generator)
    groups = [
        g for c in range(int(labels.max()) + 1) for g in order[labels[order] == c].split(GROUP) if len(g)
    ]
    shuffled = torch.randperm(len(groups), generator=generator).tolist()
    return cut(torch.cat([groups[i] for i in shuffled]), batch_size, drop_last)


GROUPS = Sampler("groups", _groups)
"""Every image once, in groups of four of one class (what is left of a class is a smaller group): a batch of 64 has about 16 groups. The
class-uniform sampling of CCKD, and BAKE's three other images of an image's class."""
