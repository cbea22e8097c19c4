"""The data sets: each as two uint8 tensors of images and two of labels.

`cifar100` and `cifar10` come through torchvision (downloaded, or read from an existing folder; the files' md5 sums are checked).
`digits` is scikit-learn's (1,797 real 8x8 images that ship in its wheel), brought to 3x32x32: the embedded default of the `quick` profile.
`clips` are sounds of a folder of one's own (benchmark/data/clips.py).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import InputError, unknown


@dataclass(frozen=True)
class Split:
    """images: uint8 `[N, 32, 32, 3]` (channels last); labels: int64 `[N]`."""

    images: Tensor
    labels: Tensor

    def take(self, n: int) -> Split:
        return Split(self.images[:n], self.labels[:n])

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """classes: their names by label, where the data set has names."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...] = ()


Channels = tuple[float, float, float]
"""A number for each colour channel."""


@dataclass(frozen=True)
class DatasetInfo:
    """What is known without loading: sizes, classes, statistics of pixel values in 0..1, and the disk that the files take (bytes).

    of_folder: whether everyone brings files of their own; identity names them then ("" where none are known) and is part of a run's key.
    """

    name: str
    title: str
    num_classes: int
    train_images: int
    test_images: int
    mean: Channels
    std: Channels
    disk_bytes: int
    load: Callable[[Path], Dataset]
    of_folder: bool = False
    identity: str = ""


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """A fixed order in which every prefix holds the classes as evenly as can be: the classes' shuffled members in turn."""
    rng = np.random.default_rng(seed)
    rank = np.empty(len(labels), dtype=np.int64)
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        rank[members] = np.arange(len(members))
    return np.lexsort((labels, rank))


DIGITS_TEST = 400


def _load_digits(_folder: Path) -> Dataset:
    """8x8 images of 0..16, each pixel repeated to 4x4 and to three channels. The split is fixed and stratified."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = np.asarray(bunch.target, dtype=np.int64)
    pixels = np.clip(np.rint(np.asarray(bunch.images) * (255 / 16)), 0, 255).astype(np.uint8)
    images = np.repeat(np.repeat(pixels, 4, axis=1), 4, axis=2)[..., None].repeat(3, axis=3)
    order = stratified_order(labels, seed=0)
    parts = order[:DIGITS_TEST], order[DIGITS_TEST:]
    test, train = (
        Split(torch.from_numpy(images[p].copy()), torch.from_numpy(labels[p].copy())) for p in parts
    )
    return Dataset("digits", train, test)


def _md5(path: Path) -> str:
    digest = hashlib.md5()
    with path.open("rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _load_cifar(name: str, folder: Path) -> Dataset:
    from models import import_torchvision

    import_torchvision()
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    base = folder / kind.base_folder
    wanted = [*kind.train_list, *kind.test_list]
    present = [entry for entry in wanted if (base / entry[0]).exists()]
    for file, md5 in present:
        found = _md5(base / file)
        if found != md5:
            raise InputError(
                f"{base / file}: md5 is {found}, not {md5}; allowed: the distributed file, or no file (it is downloaded then)"
            )
    download, fresh = len(present) < len(wanted), not folder.exists()
    splits = []
    names: tuple[str, ...] = ()
    for train in (True, False):
        try:
            data = kind(str(folder), train=train, download=download)
        except (
            Exception
        ) as error:  # torchvision raises URLError, RuntimeError or OSError, by the way the download fails
            if fresh:  # it may be a slip of the pen
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise InputError(
                f"{name} is not in {folder}{', which is not there,' if fresh else ''} and cannot be downloaded ({type(error).__name__}: {error}); "
                f"allowed: DATA= a folder that holds {kind.base_folder}/"
            ) from error
        splits.append(
            Split(
                torch.from_numpy(np.ascontiguousarray(data.data)),
                torch.tensor(data.targets, dtype=torch.int64),
            )
        )
        names = tuple(data.classes)
    return Dataset(name, splits[0], splits[1], names)


DATASETS: dict[str, DatasetInfo] = {
    d.name: d
    for d in (
        DatasetInfo(
            "cifar100",
            "CIFAR-100",
            100,
            50_000,
            10_000,
            (0.5071, 0.4867, 0.4408),
            (0.2675, 0.2565, 0.2761),
            355_000_000,
            lambda folder: _load_cifar("cifar100", folder),
        ),
        DatasetInfo(
            "cifar10",
            "CIFAR-10",
            10,
            50_000,
            10_000,
            (0.4914, 0.4822, 0.4465),
            (0.2470, 0.2435, 0.2616),
            356_000_000,
            lambda folder: _load_cifar("cifar10", folder),
        ),
        # mean and std of the 1,397 training images (a test recomputes them)
        DatasetInfo(
            "digits",
            "scikit-learn digits",
            10,
            1_797 - DIGITS_TEST,
            DIGITS_TEST,
            (0.3058, 0.3058, 0.3058),
            (0.3761, 0.3761, 0.3761),
            0,
            _load_digits,
        ),
    )
}


def info(name: str) -> DatasetInfo:
    """What is known of a data set; `InputError` for an unknown one."""
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return DATASETS[name]


def load(name: str, folder: Path | str = "data") -> Dataset:
    """Loads a data set, downloading into `folder` what is not there. `InputError` for an unknown name, a wrong md5 or no way to get it."""
    return info(name).load(Path(folder))
