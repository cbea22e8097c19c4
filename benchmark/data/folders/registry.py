"""The data sets that are folders of images: those with a name, and any folder as `folder:NAME`.

What is known of them comes from their index (index.py) in the folder of data sets that `use_folder` names.
If the images of a named data set are not there, the published numbers stand in, so that a plan can be made;
loading it says where the images belong.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmark.data.datasets import DATASETS, FAMILIES, Channels, Dataset, DatasetInfo, MissingData, Split
from benchmark.data.folders.description import SIZES, Description, read_description
from benchmark.data.folders.held import load_split, ordered
from benchmark.data.folders.index import FolderIndex, index_of
from benchmark.data.folders.layout import is_image_folder
from benchmark.data.folders.streamed import FileSplit, HostSplit, before_crop
from benchmark.data.folders.summary import Summary, summary_of, write_summary
from benchmark.data.locate import locate
from benchmark.errors import InputError

PREFIX = "folder:"
_NAME = re.compile(r"folder:([A-Za-z0-9_][A-Za-z0-9_.-]*)(?:@([0-9]{1,4}))?")

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Source:
    """A published collection of images."""

    title: str
    folders: tuple[str, ...]
    """Names that its folder may have below DATA=; the first is the one that messages name."""

    num_classes: int
    train_images: int
    test_images: int
    mean: Channels
    std: Channels
    disk_bytes: int

    sha256: tuple[str, str] = ("", "")
    """Of the contents of all training and all test files in the order of their paths; "" if not known."""


TINY = Source(
    title="TinyImageNet-200",
    folders=("tiny-imagenet-200", "tinyimagenet"),
    num_classes=200,
    train_images=100_000,
    test_images=10_000,
    # of RRD's transfer script, which are those of the training images
    mean=(0.4802, 0.4481, 0.3975),
    std=(0.2770, 0.2691, 0.2821),
    disk_bytes=214_000_000,
    sha256=(
        "8fc2447ce99b257629fda5314600cd07cc331d8fbe5d86fbaf8b3afa1fed8d74",
        "cdd607f09d3090fccf5259f1972ed1a55afa677e31d2850c594c3cc21a9c5b5f",
    ),
)
IMAGENETTE = Source(
    title="Imagenette",
    folders=("imagenette2", "imagenette", "imagenette2-320", "imagenette2-160"),
    num_classes=10,
    train_images=9_469,
    test_images=3_925,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    disk_bytes=1_500_000_000,
)

IMAGENET = Source(
    title="ImageNet (ILSVRC 2012)",
    folders=("imagenet", "ILSVRC2012", "imagenet-1k"),
    num_classes=1_000,
    train_images=1_281_167,
    test_images=50_000,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    disk_bytes=144_000_000_000,
)

SOURCES: dict[str, tuple[Source, int]] = {
    "imagenet": (IMAGENET, 224),
    "imagenet64": (IMAGENET, 64),
    "imagenette": (IMAGENETTE, 224),
    "tinyimagenet": (TINY, 64),
    "tinyimagenet32": (TINY, 32),
    "imagenette64": (IMAGENETTE, 64),
    "imagenette32": (IMAGENETTE, 32),
}
"""The named data sets: what they consist of, and the side of their images in pixels."""

_data_folder: Path | None = None


def use_folder(folder: Path | str) -> None:
    """Name the folder of data sets (DATA=) from which `benchmark.data.info` reads what it has to know.

    Nothing is read before a data set is asked for.
    """
    global _data_folder
    _data_folder = Path(folder)
    _info_in.cache_clear()


def info_of(name: str) -> DatasetInfo:
    """Return the properties of a data set of this module.

    Raises `MissingData` for a `folder:NAME` that is not in the folder of data sets, `InputError` for a wrong
    name or a folder in another form.
    """
    if _data_folder is None:
        if name in SOURCES:
            return _nominal(name)
        raise InputError(f"{name}: call benchmark.data.use_folder with the folder of data sets first")
    return _info_in(name, _data_folder)


@functools.cache
def _info_in(name: str, folder: Path) -> DatasetInfo:
    try:
        base = _base(name, folder)
    except MissingData:
        if name in SOURCES:
            return _nominal(name)
        raise
    classes = _description(name, base).classes
    return _described(name, summary_of(base, classes, _official_sums(name)), base)


def _official_sums(name: str) -> tuple[str, str]:
    """Return the sha256 sums of the official training and test files, "" if not known."""
    return SOURCES[name][0].sha256 if name in SOURCES else ("", "")


def _nominal(name: str) -> DatasetInfo:
    source, size = SOURCES[name]
    return DatasetInfo(
        name=name,
        title=f"{source.title} at {size} pixels",
        num_classes=source.num_classes,
        train_images=source.train_images,
        test_images=source.test_images,
        mean=source.mean,
        std=source.std,
        disk_bytes=source.disk_bytes,
        load=functools.partial(_load, name),
        user_files=True,
        size=size,
        streamed=_is_streamed(source.train_images, size),
    )


def _described(name: str, summary: Summary, base: Path) -> DatasetInfo:
    """Return the properties of a data set whose images are there."""
    if name in SOURCES:
        official = summary.sha256 == _official_sums(name)
        return dataclasses.replace(
            _nominal(name),
            num_classes=len(summary.classes),
            train_images=summary.train_images,
            test_images=summary.test_images,
            identity="" if official else summary.identity,
            streamed=_is_streamed(summary.train_images, SOURCES[name][1]),
        )
    description = _description(name, base)
    return DatasetInfo(
        name=name,
        title=f"images of {base.name} at {description.size} pixels",
        num_classes=len(summary.classes),
        train_images=summary.train_images,
        test_images=summary.test_images,
        mean=description.mean or summary.mean,
        std=description.std or summary.std,
        disk_bytes=summary.n_bytes,
        load=functools.partial(_load, name),
        user_files=True,
        identity=f"{summary.identity}-{description.size}",
        size=description.size,
        streamed=_is_streamed(summary.train_images, description.size),
    )


HELD_BYTES, HELD_SIZE = 8_000_000_000, 128
"""Training images up to this amount and side are held in memory, on the device. Larger ones lose too much
when they are resized before the crop, and are streamed like those that do not fit."""

HOST_BYTES = 2_000_000_000
"""Test images of more bytes stay in the host's memory, which all processes share."""


def _is_streamed(images: int, size: int) -> bool:
    """Return whether training images are streamed. It must not depend on the machine: the views differ."""
    return size > HELD_SIZE or 3 * images * size**2 > HELD_BYTES


def _description(name: str, base: Path) -> Description:
    """Return how the images of a folder become a data set. A size in the name is the one that counts."""
    if name in SOURCES:
        return Description(size=SOURCES[name][1])
    described = read_description(base)
    matched = _NAME.fullmatch(name)
    if matched is None or matched[2] is None:
        return described
    size = int(matched[2])
    if size not in SIZES:
        raise InputError(
            f"data set {name}: a size of {size} pixels is not allowed; allowed: {SIZES[0]} to {SIZES[-1]}"
        )
    return dataclasses.replace(described, size=size)


def _base(name: str, folder: Path) -> Path:
    """Return the folder with the images of a data set. Raises `MissingData` if there is none."""
    if name in SOURCES:
        names, title = SOURCES[name][0].folders, SOURCES[name][0].title
    else:
        matched = _NAME.fullmatch(name)
        if matched is None:
            raise InputError(
                f"data set '{name}': write folder:NAME for DATA/NAME, or folder:NAME@SIZE for another size; "
                "NAME has letters, digits, '_', '.' and '-'"
            )
        names, title = (matched[1],), "the images"
    for candidate in names:
        base = locate(folder, candidate, is_image_folder) / candidate
        if is_image_folder(base):
            return base
    raise MissingData(
        f"data set {name} is not there: no {folder / names[0]} with train/<class>/ and val/; put {title} "
        "there, or set DATA= to the folder above it"
    )


def _load(name: str, folder: Path) -> Dataset:
    base = _base(name, folder)
    classes = _description(name, base).classes
    index = index_of(base, classes, _official_sums(name))
    summary = Summary.of(index)
    write_summary(base, classes, summary)  # that of before may be of files that have changed
    return _loaded(name, base, index, summary)


_last: list[tuple[str, str, Dataset]] = []
"""The data set loaded last, with the hash of its contents: most packs of a process have the same."""


def _loaded(name: str, base: Path, index: FolderIndex, summary: Summary) -> Dataset:
    actual = _described(name, summary, base)
    expected = info_of(name) if _data_folder is not None else actual
    if actual.identity != expected.identity:
        raise InputError(f"{base}: the images have changed since this command began; run it again")
    if _last and _last[0][:2] == (name, index.identity):
        return _last[0][2]
    _last.clear()  # before the next one takes memory
    train: Split
    if actual.streamed:
        train = _file_split(index, actual.size)
        test = load_split(index, "test", actual.size, before_crop(actual.size))
        if test.images.numel() > HOST_BYTES:
            test = HostSplit(test.images, test.labels)
    else:
        train, test = (load_split(index, part, actual.size) for part in ("train", "test"))
    dataset = Dataset(name, train, test, index.classes)
    _last.append((name, index.identity, dataset))
    return dataset


def _file_split(index: FolderIndex, size: int) -> FileSplit:
    entries = tuple(ordered(index.train.usable))
    labels = torch.tensor([e.file.label for e in entries], dtype=torch.int64)
    return FileSplit(torch.empty((0, size, size, 3), dtype=torch.uint8), labels, index.base, entries)


for _name in SOURCES:
    DATASETS[_name] = dataclasses.replace(_nominal(_name), current=functools.partial(info_of, _name))
FAMILIES[PREFIX] = info_of
