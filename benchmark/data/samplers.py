"""Samplers: how an epoch is cut into batches.

A sampler's order depends only on the labels, the batch size and the generator, which is seeded by the run's
seed and the epoch. Runs that share a sampler therefore train on the same batches.
"""

from __future__ import annotations

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

    joined: bool = False
    """Whether the stream joins each batch of an epoch with the one before it (see `join`)."""

    def first_rows(self, rows: int) -> int:
        """Return how many rows of a batch with `rows` rows are its first part, for samplers without `joined`.

        The other part belongs to the first one's images, row by row or, for `FOURS`, in threes.
        """
        return rows // self.rows_per_image

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
    return cut_batches(torch.randperm(len(labels), generator=generator), max(2, batch_size // 2), drop_last)


HALVES = Sampler("halves", _halves, rows_per_image=2, joined=True)
"""Every image once, in batches of half the size, each joined with the batch before it (DLB).

So every image appears twice, in neighbouring batches. The first batch of all has its new half only; the first
of a later epoch is joined with the last of the epoch before.
"""


def join(batches: list[Tensor], before: Tensor | None) -> list[tuple[Tensor, int]]:
    """Return each batch of an epoch followed by the one before it, and its number of new rows.

    before: the last batch of the epoch before, None in the first epoch.
    """
    joined = []
    for batch in batches:
        joined.append((batch if before is None else torch.cat([batch, before]), len(batch)))
        before = batch
    return joined


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

A batch of 64 has about 16 groups. This is the class-uniform sampling of CCKD.
"""


def _fours(labels: Tensor, batch_size: int, drop_last: bool, generator: torch.Generator) -> list[Tensor]:
    count = torch.bincount(labels)
    by_class, start = torch.argsort(labels, stable=True), count.cumsum(0) - count
    rank = torch.empty_like(by_class)  # of each image within its class
    rank[by_class] = torch.arange(len(labels)) - start[labels[by_class]]
    columns = torch.arange(max(3, int(count.max())))
    batches = []
    for first in cut_batches(torch.randperm(len(labels), generator=generator), batch_size, drop_last):
        n, itself = count[labels[first]][:, None], rank[first][:, None]
        keys = torch.rand(len(first), len(columns), generator=generator)
        distinct = keys.masked_fill((columns >= n) | (columns == itself), -1.0).topk(3, dim=1).indices
        draw = torch.rand(len(first), 3, generator=generator, dtype=torch.float64)
        repeated = (draw * (n - 1)).long()
        repeated = torch.minimum(repeated + (repeated >= itself), n - 1)
        others = torch.where(n > 3, distinct, repeated)
        batches.append(torch.cat([first, by_class[start[labels[first]][:, None] + others].flatten()]))
    return batches


FOURS = Sampler("fours", _fours, rows_per_image=4)
"""Every image once, with three other images of its class (BAKE). A batch has four times `batch_size` rows.

The images of an epoch come first in each batch. Then, for each of them, follow three others, drawn without
replacement; with replacement from a class of fewer than four images.
"""
