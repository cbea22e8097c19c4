"""The losses and the training accuracy of an epoch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Meter:
    """Sums of losses and correct predictions over an epoch.

    The sums stay on the device, in tensors that are added to in place, so that a step captured in a CUDA
    graph can do it too. Reading them waits for the device; the trainer does that once per epoch.
    """

    def __init__(self) -> None:
        self.images = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, total: Tensor, terms: Mapping[str, Tensor], correct: Tensor | None, rows: int) -> None:
        """Add a batch of `rows` images.

        total, terms: scalar losses, means over the batch, so they are weighted with its rows. correct:
        number of correct predictions, or None. The caller counts the images (`meter.images += rows`).
        """
        losses = {"train_loss": total, **{f"term_{k}": v for k, v in terms.items()}}
        parts = {name: value.detach() * rows for name, value in losses.items()}
        if correct is not None:
            parts["correct"] = correct
        for name, part in parts.items():
            if name in self.sums:
                self.sums[name].add_(part)
            else:
                self.sums[name] = part.clone()

    def reset(self) -> None:
        """Set all sums to zero for a new epoch."""
        self.images = 0
        for value in self.sums.values():
            value.zero_()

    def read(self) -> dict[str, float]:
        """Return the means over the epoch by name; `train_acc` is in percent."""
        if not self.images:
            return {}
        names = list(self.sums)
        sums = dict(zip(names, torch.stack([self.sums[n].double() for n in names]).tolist(), strict=True))
        correct = sums.pop("correct", None)
        means = {n: v / self.images for n, v in sums.items()}
        return means if correct is None else {**means, "train_acc": 100 * correct / self.images}
