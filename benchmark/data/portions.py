"""Portions: which rows of a batch each process computes, if several processes share it.

Each part of a batch (samplers may make two) is cut into one slice for each process, of equal length or one
row more. A batch that has fewer than two rows for a process is not shared: each process computes all of it.
So no process has an empty slice, and none asks a batch norm for the statistics of one row.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_ROWS = 2
"""Fewest rows of a process in each part of a batch."""


@dataclass(frozen=True, eq=False)
class Portion:
    """The rows of a batch of B images that one process computes."""

    rows: Tensor
    """Their positions in the batch, int64 `[b]`, on the CPU."""

    first: int
    """How many of them are in the first part of the batch."""

    total: int
    """Number B of rows of the batch."""

    of_all: tuple[Tensor, ...]
    """The positions of the rows of each process, in the order of the processes."""

    @property
    def most(self) -> int:
        """The largest number of rows of a process."""
        return max(map(len, self.of_all))

    @functools.lru_cache(maxsize=32)  # noqa: B019 - portions are few and are kept themselves
    def positions(self, copies: int, device: torch.device) -> Tensor:
        """Return the positions of this process's rows in a view `[copies * B, ...]`: int64 `[copies * b]`."""
        return torch.cat([copy * self.total + self.rows for copy in range(copies)]).to(device)

    @functools.lru_cache(maxsize=32)  # noqa: B019
    def order(self, copies: int, device: torch.device) -> Tensor:
        """Return where the rows of a view are in the rows of all processes, one after the other.

        Each process has `copies * most` rows there, of which the last ones may be unused. The result is int64
        `[copies * B]`.
        """
        where = torch.empty(copies, self.total, dtype=torch.int64)
        for process, rows in enumerate(self.of_all):
            start = process * copies * self.most
            for copy in range(copies):
                where[copy, rows] = start + copy * len(rows) + torch.arange(len(rows))
        return where.flatten().to(device)

    def of(self, view: Tensor, copies: int) -> Tensor:
        """Return this process's rows of a view `[copies * B, ...]`, in the same memory format."""
        return rows_of(view, self.positions(copies, view.device))


def rows_of(x: Tensor, positions: Tensor) -> Tensor:
    """Return rows of a tensor, in the memory format that it has."""
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1).index_select(0, positions).permute(0, 3, 1, 2)
    return x.index_select(0, positions)


@functools.lru_cache(maxsize=32)
def portion(total: int, first: int, process: int, processes: int) -> Portion | None:
    """Return the portion of a process, counted from 0; None if each process computes the whole batch.

    total: number of rows of the batch. first: number of rows of its first part.
    """
    parts = [(0, first), (first, total)] if 0 < first < total else [(0, total)]
    if processes == 1 or any((end - start) // processes < LEAST_ROWS for start, end in parts):
        return None
    slices = [[_slice(start, end, number, processes) for start, end in parts] for number in range(processes)]
    of_all = tuple(torch.cat(rows) for rows in slices)
    return Portion(of_all[process], first=len(slices[process][0]), total=total, of_all=of_all)


def _slice(start: int, end: int, number: int, processes: int) -> Tensor:
    rows = end - start
    return torch.arange(start + rows * number // processes, start + rows * (number + 1) // processes)
