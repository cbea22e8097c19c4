"""The queue of earlier embeddings that SEED and MoCo compare a batch with, and the check of its size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import InputError


class EmbeddingQueue(nn.Module):
    """The unit vectors of the last images, at first random ones. It is written after each step."""

    bank: Tensor
    """`[size, d]`."""

    position: Tensor
    """Where the next batch is written, int64 scalar."""

    def __init__(self, size: int, d: int) -> None:
        super().__init__()
        self.register_buffer("bank", F.normalize(torch.randn(size, d), dim=1))
        self.register_buffer("position", torch.tensor(0))
        self._next: Tensor | None = None

    def products(self, z: Tensor, positive: Tensor) -> Tensor:
        """Return the products with another vector of the same image, then with the queue.

        z, positive: `[B, d]`. The result is `[B, 1 + size]`.
        """
        return torch.cat([(z * positive).sum(1, keepdim=True), z @ self.bank.t()], dim=1)

    def append_later(self, rows: Tensor) -> None:
        """Give the batch's vectors `[B, d]`, which `write` puts into the queue."""
        self._next = rows

    def write(self) -> None:
        """Replace the oldest vectors by those of `append_later`, after the backward pass has read them.

        Of a batch that is longer than the queue, the last rows are kept.
        """
        if self._next is None:
            return
        rows, self._next = self._next[-len(self.bank) :], None
        at = (self.position + torch.arange(len(rows), device=self.position.device)) % len(self.bank)
        self.bank[at] = rows.to(self.bank.dtype)
        self.position.add_(len(rows)).remainder_(len(self.bank))


def check_queue(setting: str, size: int, batch_size: int) -> None:
    """Raise `InputError` if a queue does not consist of whole batches, as SEED's and MoCo's code want it."""
    if size % batch_size:
        lower = max(1, size // batch_size) * batch_size
        raise InputError(
            f"{setting}={size} is not a multiple of the batch size {batch_size}; give for example {lower}"
        )
