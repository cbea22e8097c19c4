"""The loop as everyone writes it: PIL transforms in a DataLoader with 8 workers, fp32, eager, contiguous memory, one student with a teacher
pass of its own, `.item()` each step. Its loss is KD's, the cheapest of a table's: a comparison with it never flatters the packs.
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
    """CIFAR as torchvision gives it: an image from the array to PIL and through the transforms, one at a time."""

    def __init__(self, split: Split, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        models.import_torchvision()
        from torchvision import transforms as t

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
    """Batches for ever, from workers that live as long as this does. `close` ends them."""

    def __init__(
        self,
        split: Split,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        batch_size: int,
        workers: int = WORKERS,
    ) -> None:
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # 8 workers are the point
        self.loader = torch.utils.data.DataLoader(
            PilDataset(split, mean, std),
            batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        self._batches = self._forever()

    def _forever(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.loader

    def __next__(self) -> tuple[Tensor, Tensor]:
        x, y = next(self._batches)
        return x, y

    def close(self) -> None:
        iterator = getattr(self.loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()


class Naive:
    """One student in the naive loop; `step` is one batch."""

    students = 1

    def __init__(self, teacher: Network, student: str, classes: int, batches: NaiveData, device: str) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.student = models.build(student, classes).to(device).train()
            self.teacher = models.build(teacher.name, classes)
        self.teacher.load_state_dict(teacher.state_dict())
        self.teacher.to(device, memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        self.data, self.device = batches, device
        self.loss = self.top1 = 0.0

    def step(self) -> int:
        x, y = next(self.data)
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
