"""Data sets, each as two uint8 tensors of images and two int64 tensors of labels.

`cifar100` and `cifar10` come through torchvision: downloaded, or read from an existing folder. The md5 sums
of their files are checked. `digits` is scikit-learn's (1,797 real 8x8 images that come with its wheel),
enlarged to 3x32x32; the `quick` profile uses it. `pictures` are drawings of 64 pixels (pictures.py), `stl10`
photographs of 96 (stl10.py), `clips` sound clips from a folder of the user (clips.py). TinyImageNet,
Imagenette and `folder:NAME` are folders of images (folders/).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from benchmark import longwork, plugins
from benchmark.data.locate import locate
from benchmark.errors import InputError, unknown
from benchmark.text import size
from models import import_torchvision

Channels = tuple[float, float, float]
"""A number for each colour channel."""


@dataclass(frozen=True)
class Split:
    """The images of a training or test set, with their labels."""

    images: Tensor
    """uint8 `[N, H, H, 3]` (channels last); H is the data set's `size`."""

    labels: Tensor
    """int64 `[N]`."""

    @property
    def source(self) -> str:
        """How the images are read while a run is trained, for its record; "" if they are held in memory."""
        return ""

    @property
    def is_held(self) -> bool:
        """Whether all images are in memory, on the device of the labels."""
        return True

    def take(self, n: int) -> Self:
        """Return the first n images."""
        return self.between(0, n)

    def between(self, start: int, end: int) -> Self:
        """Return the images from position `start` to before `end`, without a copy."""
        return replace(self, images=self.images[start:end], labels=self.labels[start:end])

    def pick(self, rows: Tensor) -> Self:
        """Return the images at these positions, int64 `[n]`."""
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def relabelled(self, labels: Tensor) -> Self:
        """Return the same images with other labels."""
        return replace(self, labels=labels)

    def to(self, device: torch.device) -> Self:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def batches(self, n: int) -> Iterator[Tensor]:
        """Yield the images in order, uint8 `[n, H, H, 3]` on the split's device."""
        yield from self.images.split(n)


@dataclass(frozen=True)
class Dataset:
    """A loaded data set."""

    name: str
    train: Split
    test: Split

    classes: tuple[str, ...] = ()
    """Names of the classes by label; empty if they have no names."""


@dataclass(frozen=True)
class DatasetInfo:
    """The properties of a data set that are known without loading it."""

    name: str
    title: str
    num_classes: int
    train_images: int
    test_images: int

    mean: Channels
    """Mean of pixel values in 0..1."""

    std: Channels
    """Standard deviation of pixel values in 0..1."""

    disk_bytes: int
    """Size of its files."""

    load: Callable[[Path], Dataset]
    """Loads it from a data folder."""

    user_files: bool = False
    """Whether it consists of the user's files, so that it differs from user to user."""

    identity: str = ""
    """Identifies the user's files, and is part of a run's key; "" if there are none."""

    size: int = 32
    """Side of the images in pixels."""

    streamed: bool = False
    """Whether the training images are read from their files in every epoch, because they are too many or too
    large for the memory."""

    current: Callable[[], DatasetInfo] | None = None
    """Returns the properties of the files that are there now; None if they are always the same."""


class MissingData(InputError):
    """A data set is not in the folder of data sets."""


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return a fixed order in which every prefix has the classes as evenly as possible.

    The images of each class are shuffled, then the classes take turns.
    """
    rng = np.random.default_rng(seed)
    rank = np.empty(len(labels), dtype=np.int64)
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        rank[members] = np.arange(len(members))
    return np.lexsort((labels, rank))


DIGITS_TEST = 400
"""Size of the test set of digits."""


def _load_digits(_folder: Path) -> Dataset:
    """Load 8x8 images with pixels in 0..16; each pixel is repeated to 4x4 and to three channels.

    The split is fixed and stratified.
    """
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


def check_md5(path: Path, md5: str) -> None:
    """Raise `InputError` if a file that can be downloaded has another md5 sum."""
    digest = hashlib.md5()
    with path.open("rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    if (actual := digest.hexdigest()) != md5:
        raise InputError(
            f"{path}: md5 is {actual}, not {md5}; replace the file, or remove it to have it downloaded"
        )


def _load_cifar(name: str, folder: Path) -> Dataset:
    import_torchvision()
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    wanted = [*kind.train_list, *kind.test_list]
    folder = locate(folder, kind.base_folder, lambda base: any((base / name).exists() for name, _ in wanted))
    base = folder / kind.base_folder
    if folder.name != kind.base_folder and all((folder / name).is_file() for name, _ in wanted):
        raise InputError(
            f"DATA: {folder} has the files of {name} itself; rename it to {kind.base_folder}, and set DATA= "
            "to the folder above it"
        )
    present = [entry for entry in wanted if (base / entry[0]).exists()]
    for file, md5 in present:
        check_md5(base / file, md5)
    download, folder_is_new = len(present) < len(wanted), not folder.exists()
    splits = []
    names: tuple[str, ...] = ()
    for train in (True, False):
        try:
            data = kind(str(folder), train=train, download=download)
        except Exception as error:  # a failed download raises URLError, RuntimeError or OSError
            if folder_is_new:  # its path may contain a typo: leave no empty folder behind
                with contextlib.suppress(OSError):
                    folder.rmdir()
            missing = ", which does not exist," if folder_is_new else ""
            raise InputError(
                f"{name} is not in {folder}{missing} and cannot be downloaded "
                f"({type(error).__name__}: {error}); set DATA= to a folder that has {kind.base_folder}/"
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
            name="cifar100",
            title="CIFAR-100",
            num_classes=100,
            train_images=50_000,
            test_images=10_000,
            mean=(0.5071, 0.4867, 0.4408),
            std=(0.2675, 0.2565, 0.2761),
            disk_bytes=355_000_000,
            load=lambda folder: _load_cifar("cifar100", folder),
        ),
        DatasetInfo(
            name="cifar10",
            title="CIFAR-10",
            num_classes=10,
            train_images=50_000,
            test_images=10_000,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            disk_bytes=356_000_000,
            load=lambda folder: _load_cifar("cifar10", folder),
        ),
        DatasetInfo(
            name="digits",
            title="scikit-learn digits",
            num_classes=10,
            train_images=1_797 - DIGITS_TEST,
            test_images=DIGITS_TEST,
            # of the 1,397 training images; a test recomputes them
            mean=(0.3058, 0.3058, 0.3058),
            std=(0.3761, 0.3761, 0.3761),
            disk_bytes=0,
            load=_load_digits,
        ),
    )
}


FAMILIES: dict[str, Callable[[str], DatasetInfo]] = {}
"""By the beginning of the names of a kind of data sets (`folder:`): returns the properties of one."""


_user_datasets: Callable[[], Mapping[str, Callable[[], DatasetInfo]]] = dict


def provide_user_datasets(find: Callable[[], Mapping[str, Callable[[], DatasetInfo]]]) -> None:
    """Set the function that returns the users' data sets (user_datasets.py)."""
    global _user_datasets
    _user_datasets = find


def names() -> tuple[str, ...]:
    """Return the names of the built-in data sets and of those of KD_PLUGINS, without image folders."""
    return (*DATASETS, *_user_datasets())


def is_name(name: str) -> bool:
    """Return whether a data set may have this name. No data are looked at."""
    return name in DATASETS or name.startswith(tuple(FAMILIES)) or name in _user_datasets()


def check_name(name: str) -> None:
    """Raise `InputError` for a name that no data set has. No file is looked at."""
    if not is_name(name):
        families = (f"{family}NAME" for family in FAMILIES)
        raise unknown("data set", name, (*names(), *families), plugins.remark_if_none())


def info(name: str) -> DatasetInfo:
    """Return the properties of a data set.

    Raises `InputError` for an unknown one, and `MissingData` for one that is known by its files alone and is
    not there.
    """
    check_name(name)
    if name not in DATASETS and name in _user_datasets():
        return _user_datasets()[name]()
    if name not in DATASETS:
        return next(of_name(name) for family, of_name in FAMILIES.items() if name.startswith(family))
    known = DATASETS[name]
    return known if known.current is None else known.current()


def has_user_files(name: str) -> bool:
    """Return whether a data set consists of the user's files, so that it differs from user to user."""
    return name not in DATASETS or DATASETS[name].user_files


def load(name: str, folder: Path | str = "data") -> Dataset:
    """Load a data set; download into `folder` what is missing.

    A folder that is one or two levels too high or too deep is recognised (`locate`).

    Raises `InputError` for an unknown name, a wrong md5 sum or a failed download.
    """
    dataset = info(name)
    amount = f" ({size(dataset.disk_bytes)})" if dataset.disk_bytes else ""
    if dataset.user_files:
        return dataset.load(Path(folder))  # it counts the files
    with longwork.task(f"loading {name}{amount} from {folder}"):
        return dataset.load(Path(folder))
