"""The data set STL-10 (Coates, Lee and Ng, AISTATS 2011): 5,000 and 8,000 labelled photographs of 96 pixels.

Its files are binary arrays; the md5 sums are those of torchvision. Only the images with labels are read, so
the 100,000 without need not be there.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.data.datasets import DATASETS, Dataset, DatasetInfo, Split, check_md5
from benchmark.data.locate import locate
from benchmark.errors import InputError
from models import import_torchvision

NAME = "stl10"
SIZE = 96
CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


def _torchvision() -> Any:
    import_torchvision()
    from torchvision.datasets import STL10

    return STL10


def read(images: Path, labels: Path) -> Split:
    """Return the images of two files: bytes `[N, 3, 96, 96]` column by column, and labels from 1."""
    pixels = np.fromfile(images, dtype=np.uint8).reshape(-1, 3, SIZE, SIZE)
    classes = np.fromfile(labels, dtype=np.uint8).astype(np.int64) - 1
    return Split(
        torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 2, 1))), torch.from_numpy(classes)
    )


def _load(folder: Path) -> Dataset:
    kind = _torchvision()
    md5 = {name: digest for name, digest in [*kind.train_list, *kind.test_list] if "unlabeled" not in name}
    folder = locate(folder, kind.base_folder, lambda base: any((base / name).exists() for name in md5))
    base = folder / kind.base_folder
    if not all((base / name).is_file() for name in md5):
        _download(kind, folder)
    for name, expected in md5.items():
        check_md5(base / name, expected)
    train, test = (read(base / f"{part}_X.bin", base / f"{part}_y.bin") for part in ("train", "test"))
    return Dataset(NAME, train, test, CLASSES)


def _download(kind: Any, folder: Path) -> None:
    folder_is_new = not folder.exists()
    try:
        kind(str(folder), split="train", download=True)
    except Exception as error:  # a failed download raises URLError, RuntimeError or OSError
        if folder_is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise InputError(
            f"{NAME} is not in {folder} and cannot be downloaded ({type(error).__name__}: {error}); "
            f"set DATA= to a folder that has {kind.base_folder}/"
        ) from error


DATASETS[NAME] = DatasetInfo(
    name=NAME,
    title="STL-10",
    num_classes=10,
    train_images=5_000,
    test_images=8_000,
    mean=(0.4467, 0.4398, 0.4066),
    std=(0.2603, 0.2566, 0.2712),
    disk_bytes=2_640_000_000,
    load=_load,
    size=SIZE,
)
