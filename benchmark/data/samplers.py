"""Samplers: how an epoch is cut into batches.

A sampler's order depends only on the labels, the batch size and the generator, which is seeded by the run's
seed and the epoch. Runs that share a sampler therefore train on the same batches.
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
    """A way to cut an epoch into batches."""

    name: str
    """Identifies the sampler: runs of one pack share it."""

    epoch: Epoch
    """`(labels [N], batch_size, drop_last, generator)` -> batches of positions in 0..N-1, each int64 `[B]`.

    All batches but the last have the same size (`batch_size` unless the sampler says otherwise). No batch has
    one image, because batch norm cannot be trained on one.
    """

    rows_per_image: int = 1
    """Number of rows in an epoch per training image, which determines the sampler's cost."""

    def __repr__(self) -> str:
        return f"Sampler({self.name})"


def cut_batches(order: Tensor, batch_size: int, drop_last: bool) -> list[Tensor]:
    """Cut an order `[N]` into batches.

    The last batch is dropped if it has one image. With `drop_last` it is also dropped if it is incomplete and
    not the only one.
    """
    batches = list(order.split(batch_size))
    if batches and (
        len(batches[-1]) == 1 or (drop_last and len(batches[-1]) < batch_size and len(batches) > 1)
    ):
        batches.pop()
    return batches


def _shuffle(labels: Tensor, batch_size: int, drop_last: bool, generator: torch.Generator) -> list[Tensor]:
    return cut_batches(torch.randperm(len(labels), generator=generator), batch_size, drop_last)


SHUFFLE = Sampler("shuffle", _shuffle)
"""Every image once, in random order. The default sampler."""


def _halves(labels: Tensor, batch_size: int, drop_last: bool, generator: torch.Generator) -> list[Tensor]:
    order = torch.randperm(len(labels), generator=generator)
    halves = cut_batches(order, max(1, batch_size // 2), drop_last)
    return [torch.cat(pair) for pair in itertools.pairwise(halves)] or halves


HALVES = Sampler("halves", _halves, rows_per_image=2)
"""The first half of each batch is the second half of the batch before it (DLB).

Every image appears twice, in neighbouring batches; those of the first and the last half appear once.
"""


def _pairs(labels: Tensor, batch_size: int, drop_last: bool, generator: torch.Generator) -> list[Tensor]:
    count = torch.bincount(labels)
    by_class, start = torch.argsort(labels, stable=True), count.cumsum(0) - count
    batches = []
    for first in cut_batches(torch.randperm(len(labels), generator=generator), batch_size, drop_last):
        draw = torch.rand(len(first), generator=generator, dtype=torch.float64)
        partners = by_class[start[labels[first]] + (draw * count[labels[first]]).long()]
        batches.append(torch.cat([first, partners]))
    return batches


PAIRS = Sampler("pairs", _pairs, rows_per_image=2)
"""Pairs of images of one class (CS-KD). A batch has twice `batch_size` rows.

The first halves of all batches together contain every image once. The second half of a batch has, for each
image of the first half, an image of the same class, drawn with replacement; it may be the same image.
"""

GROUP = 4
"""Size of the groups of `GROUPS`."""


def _groups(labels: Tensor, batch_size: int, drop_last: bool, generator: torch.Generator) -> list[Tensor]:
    order = torch.randperm(len(labels), generator=generator)
    groups = [
        g for c in range(int(labels.max()) + 1) for g in order[labels[order] == c].split(GROUP) if len(g)
    ]
    shuffled = torch.randperm(len(groups), generator=generator).tolist()
    return cut_batches(torch.cat([groups[i] for i in shuffled]), batch_size, drop_last)


GROUPS = Sampler("groups", _groups)
"""Every image once, in groups of four images of one class; the rest of a class forms a smaller group.

A batch of 64 has about 16 groups. This is the class-uniform sampling of CCKD, and it gives BAKE three other
images of an image's class.
"""
