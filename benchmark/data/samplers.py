"""Samplers: how an epoch is cut into batches.

A sampler's order depends on the labels, the batch size and the generator alone (which is seeded by the run's seed and the epoch),
so runs that share a sampler see the same batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Epoch = Callable[[Tensor, int, bool, torch.Generator], list[Tensor]]


@dataclass(frozen=True)
class Sampler:
    """name: part of a pack's identity. epoch: `(labels [N], batch_size, drop_last, generator) -> batches of positions in 0..N-1`,
    each int64 `[B]`; all but the last have the same size, and no batch has one image (batch norm cannot be trained on one)."""

    name: str
    epoch: Epoch

    def __repr__(self) -> str:
        return f"Sampler({self.name})"


def cut(order: Tensor, batch_size: int, drop_last: bool) -> list[Tensor]:
    """Cuts an order into batches. The last, incomplete batch is kept unless `drop_last`; one of a single image is dropped always."""
    batches = list(order.split(batch_size))
    if batches and (len(batches[-1]) == 1 or (drop_last and len(batches[-1]) < batch_size and len(batches) > 1)):
        batches.pop()
    return batches


def _shuffle(labels: Tensor, batch_size: int, drop_last: bool, generator: torch.Generator) -> list[Tensor]:
    return cut(torch.randperm(len(labels), generator=generator), batch_size, drop_last)


SHUFFLE = Sampler("shuffle", _shuffle)
"""Every image once, in a random order: what all rows of the benchmark's tables use."""
