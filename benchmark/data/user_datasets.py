"""Data sets in the files of KD_PLUGINS: a function that returns images and labels.

    def load(folder):                       # folder: that of the data sets (DATA=)
        return {"train": (images, labels), "test": (images, labels), "classes": ["a", "b"]}

    dataset = UserDataset(name="mine", load=load)

Images are uint8 `[N, H, H, 3]` (arrays or tensors), labels whole numbers from 0. Optional entries: `mean` and
`std` (three numbers each, of pixel values in 0..1); by default they are computed from the training images.

The function is called when a run first uses the data set. What is known of the data set is then kept, and
its images are held beside others' up to `HELD_BYTES`; the function is called again only for images that had
to make room. A hash of all images and labels is part of the key of every run, so records of other images
belong to other runs.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark import longwork, plugins
from benchmark.data.datasets import (
    DATASETS,
    Channels,
    Dataset,
    DatasetInfo,
    Split,
    provide_user_datasets,
)
from benchmark.errors import InputError
from benchmark.user_code import described, is_of_the_user_code


@dataclass(frozen=True, kw_only=True)
class UserDataset:
    """A data set of the user's. Raises `ValueError` for a field of the wrong type."""

    name: str
    """The name in tables: letters, digits, `_` and `-`."""

    load: Callable[[Path], Mapping[str, Any]]
    """Returns images and labels; see the module."""

    title: str = ""
    """What tables and messages call it; by default its name."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", self.name):
            raise ValueError(f"a data set is called {self.name!r}; allowed: letters, digits, _ and -")
        if not callable(self.load):
            raise ValueError(f"load of data set {self.name} is {self.load!r}; give a function of the folder")


HELD_BYTES = 2 * 2**30
"""The images of several data sets are held up to this many bytes together; those used longest ago make room.

A table with some data sets of CIFAR's size (0.2 GB) reads each of them once. The data set in use is held
however large it is, as the run that trains on it holds it too.
"""


class _Memory:
    """What was read of the data sets, by name and folder."""

    def __init__(self) -> None:
        self.infos: dict[tuple[str, Path], DatasetInfo] = {}
        self.images: dict[tuple[str, Path], Dataset] = {}
        """The one that was used last is at the end."""

    def hold(self, key: tuple[str, Path], dataset: Dataset) -> None:
        """Hold the images of a data set, and drop those of others if all are too many."""
        self.images.pop(key, None)
        self.images[key] = dataset
        while len(self.images) > 1 and sum(map(_bytes, self.images.values())) > HELD_BYTES:
            del self.images[next(iter(self.images))]


@plugins.cached
def _memory() -> _Memory:
    return _Memory()


def _bytes(dataset: Dataset) -> int:
    return sum(split.images.nbytes + split.labels.nbytes for split in (dataset.train, dataset.test))


_folder = Path("data")


def use_folder(folder: Path) -> None:
    """Set the folder that the functions are called with."""
    global _folder
    _folder = folder


@plugins.cached
def user_datasets() -> dict[str, Callable[[], DatasetInfo]]:
    """Return a function for each data set of the users', which returns its properties."""
    loaded: dict[str, UserDataset] = {}
    files: dict[str, str] = {}
    for module in plugins.modules():
        for value in {id(v): v for v in vars(module).values() if isinstance(v, UserDataset)}.values():
            file = str(sys.modules[module.__name__].__file__)
            if value.name in DATASETS:
                raise InputError(f"{file}: the data set {value.name} is built in; give yours another name")
            if value.name in loaded:
                raise InputError(
                    f"two data sets are called {value.name}: {files[value.name]} and {file}; rename one"
                )
            loaded[value.name], files[value.name] = value, file
    return {name: functools.partial(_info, dataset, files[name]) for name, dataset in loaded.items()}


def _info(dataset: UserDataset, file: str) -> DatasetInfo:
    key = dataset.name, _folder
    if key not in _memory().infos:
        info, images = _read(dataset, file, _folder)
        _memory().infos[key] = info
        _memory().hold(key, images)
    return _memory().infos[key]


def _images(dataset: UserDataset, file: str, folder: Path, _: Path) -> Dataset:
    """Return the images of a data set of which `_info` has been asked for in this folder."""
    memory, key = _memory(), (dataset.name, folder)
    images = memory.images.get(key)
    if images is None:
        info, images = _read(dataset, file, folder)
        if key in memory.infos and info.identity != memory.infos[key].identity:
            raise InputError(
                f"{file}: data set {dataset.name}: load returns other images than the first time; it must "
                "return the same ones each time"
            )
    memory.hold(key, images)
    return images


def _read(dataset: UserDataset, file: str, folder: Path) -> tuple[DatasetInfo, Dataset]:
    """Call the user's function, and check what it returns. Raises `InputError` of one line."""
    where = f"{file}: data set {dataset.name}"
    try:
        with longwork.task(f"loading {dataset.name}"):
            values = dataset.load(folder)
    except InputError:
        raise
    except BaseException as error:
        if not is_of_the_user_code(error):
            raise
        raise InputError(f"{where}: load raised {described(error)}") from error
    if not isinstance(values, Mapping) or not {"train", "test", "classes"} <= values.keys():
        raise InputError(f"{where}: load must return a dictionary with train, test and classes")
    if unknown := sorted(values.keys() - {"train", "test", "classes", "mean", "std"}):
        raise InputError(f"{where}: load returns {unknown[0]}; allowed: train, test, classes, mean, std")
    names = values["classes"]
    if not isinstance(names, list | tuple) or len(names) < 2 or len(set(map(str, names))) < len(names):
        raise InputError(f"{where}: classes must be a list of at least two different names")
    train, test = (_split(f"{where}: {part}", values[part], len(names)) for part in ("train", "test"))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise InputError(f"{where}: the images of train and test have different sizes; make them equal")
    mean, std = values.get("mean"), values.get("std")
    if mean is None or std is None:
        pixels = train.images.double() / 255
        mean = pixels.mean((0, 1, 2)).tolist() if mean is None else mean
        std = pixels.std((0, 1, 2)).tolist() if std is None else std
    mean, std = _channels(f"{where}: mean", mean), _channels(f"{where}: std", std)
    if min(std) <= 0:
        raise InputError(f"{where}: std is {std}; give numbers above 0")
    digest = hashlib.sha256()
    for split in (train, test):
        for tensor in (split.images, split.labels):
            digest.update(f"{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    classes = tuple(map(str, names))
    read = Dataset(dataset.name, train, test, classes)
    info = DatasetInfo(
        name=dataset.name,
        title=dataset.title or dataset.name,
        num_classes=len(classes),
        train_images=len(train.labels),
        test_images=len(test.labels),
        mean=mean,
        std=std,
        disk_bytes=0,
        load=functools.partial(_images, dataset, file, folder),
        user_files=True,
        identity=digest.hexdigest()[:16],
        size=train.images.shape[1],
    )
    return info, read


def _split(where: str, value: Any, num_classes: int) -> Split:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise InputError(f"{where} must be a pair of images and labels")
    try:
        images, labels = (torch.from_numpy(np.array(v)) for v in value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{where}: images and labels must be arrays or tensors; {described(error)}"
        ) from error
    shape = tuple(images.shape)
    if images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
        raise InputError(f"{where}: images are {images.dtype} {shape}; they must be torch.uint8 [N, H, H, 3]")
    if labels.dim() != 1 or labels.is_floating_point() or len(labels) != len(images) or not len(labels):
        raise InputError(
            f"{where}: labels are {labels.dtype} {tuple(labels.shape)}; give one whole number for each image"
        )
    labels = labels.long()
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise InputError(
            f"{where}: labels are {int(labels.min())} to {int(labels.max())}; "
            f"with {num_classes} classes, 0 to {num_classes - 1} are allowed"
        )
    return Split(images, labels)


def _channels(where: str, value: Any) -> Channels:
    """Return three numbers, rounded: they are part of a run's key, and sums depend on the machine."""
    try:
        red, green, blue = (round(float(v), 4) for v in value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} is {value!r}; give three numbers") from error
    return red, green, blue


provide_user_datasets(user_datasets)
