"""The naive training loop, as it is usually written: the baseline for ours.

PIL transforms in a DataLoader with 8 workers, fp32, eager mode, contiguous memory, one student with its own
teacher pass, `.item()` in each step. Its loss is KD's, the cheapest of a table, so that the comparison never
flatters our packs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import models
from benchmark.data.datasets import Split
from models import Network

WORKERS = 8


class PilDataset(torch.utils.data.Dataset[tuple[Any, int]]):
    """CIFAR as torchvision gives it: each image goes from the array to PIL and through the transforms."""

    def __init__(self, split: Split, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        models.import_torchvision()
        from torchvision import transforms as t  # only after `import_torchvision` has prepared the import

        self.images, self.labels = split.images.cpu().numpy(), split.labels.tolist()
        self.transform = t.Compose(
            [t.RandomCrop(32, padding=4), t.RandomHorizontalFlip(), t.ToTensor(), t.Normalize(mean, std)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[i])), self.labels[i]


class NaiveData:
    """An endless iterator of batches. Its worker processes live until `close`."""

    def __init__(
        self,
        split: Split,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        batch_size: int,
        workers: int = WORKERS,
    ) -> None:
        # torch warns of more workers than cores, but 8 workers are what the usual loop has
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        self.loader = torch.utils.data.DataLoader(
            PilDataset(split, mean, std),
            batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        self._batches = self._endless()

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.loader

    def __next__(self) -> tuple[Tensor, Tensor]:
        x, y = next(self._batches)
        return x, y

    def close(self) -> None:
        """End the worker processes."""
        iterator = getattr(self.loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()


class Naive:
    """One student in the naive loop."""

    students = 1

    def __init__(
        self, teacher: Network, student: str, num_classes: int, *, batches: NaiveData, device: str
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.student = models.build(student, num_classes).to(device).train()
            self.teacher = models.build(teacher.name, num_classes)
        self.teacher.load_state_dict(teacher.state_dict())
        self.teacher.to(device, memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        self.batches, self.device = batches, device
        self.loss = self.top1 = 0.0

    def step(self) -> int:
        """Train on one batch. Returns the number of images."""
        x, y = next(self.batches)
        x, y = x.to(self.device), y.to(self.device)
        z_s = self.student(x)
        with torch.no_grad():
            z_t = self.teacher(x)
        kl = F.kl_div(F.log_softmax(z_s / 4, dim=1), F.softmax(z_t / 4, dim=1), reduction="batchmean") * 16
        loss = 0.1 * F.cross_entropy(z_s, y) + 0.9 * kl
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.loss += loss.item() * len(y)
        self.top1 += (z_s.argmax(1) == y).float().sum().item()
        return len(y)
