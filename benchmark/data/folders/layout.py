"""Which image files a folder has, and their classes.

    train/<class>/*.jpg, or train/<class>/images/*.jpg
    val/ (or test/, validation/) in one of these forms:
        <class>/*.jpg                           the same classes
        images/* and val_annotations.txt        TinyImageNet's
        ILSVRC2012_val_*.JPEG                   ImageNet's, with its ground truth (ground_truth.py)

Labels are the positions of the class folders of `train` in alphabetical order, or in the order of `classes`
in `dataset.toml`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmark.data.folders.ground_truth import read_annotations, read_ground_truth
from benchmark.data.folders.reading import SUFFIXES
from benchmark.errors import InputError
from benchmark.text import plural

TRAIN = "train"
TESTS = ("val", "test", "validation")
"""Names of the folder of test images; the first that exists is used."""
IMAGES = "images"
"""A folder between a class and its files, as TinyImageNet has it."""


class Listed(NamedTuple):
    """An image file."""

    path: str
    """Path below the data set's folder, with slashes."""

    label: int
    size: int
    """Bytes."""

    mtime: int
    """Time of its last change, in nanoseconds."""


@dataclass(frozen=True)
class Listing:
    """The image files of a data set."""

    classes: tuple[str, ...]
    """Names of the class folders by label."""

    train: tuple[Listed, ...]
    """Sorted by path."""

    test: tuple[Listed, ...]
    """Sorted by path."""

    unlabelled: int = 0
    """Number of test images that no ground truth names; they are left out."""


def test_folder(base: Path) -> Path | None:
    """Return the folder of test images of a data set, None if there is none."""
    return next((base / name for name in TESTS if (base / name).is_dir()), None)


def is_image_folder(base: Path) -> bool:
    """Return whether a folder has training and test images."""
    return (base / TRAIN).is_dir() and test_folder(base) is not None


def list_images(base: Path, classes: tuple[str, ...] = ()) -> Listing:
    """List the images of a data set without opening one.

    classes: the class folders in the order of their labels; the default is all, in alphabetical order.

    Raises `InputError` for a folder in another form, for fewer than two classes, a class without images, and
    class names that differ in case only.
    """
    tests = test_folder(base)
    if not (base / TRAIN).is_dir() or tests is None:
        raise InputError(f"{base} needs the folders {TRAIN}/<class>/ and {TESTS[0]}/ with images")
    names = sorted(entry.name for entry in _folders(base / TRAIN))
    _check_names(base / TRAIN, names)
    if missing := sorted(set(classes) - set(names)):
        raise InputError(f"{base / TRAIN} has no folder {missing[0]}, which dataset.toml names as a class")
    classes = classes or tuple(names)
    if len(classes) < 2:
        raise InputError(
            f"{base / TRAIN} has {plural(len(classes), 'class folder')}; it must have at least two"
        )
    labels = {name: k for k, name in enumerate(classes)}
    train = _of_classes(base, base / TRAIN, labels)
    unlabelled = 0
    if (tests / "val_annotations.txt").is_file():
        truth = read_annotations(tests / "val_annotations.txt")
        test, unlabelled = _of_truth(base, tests / IMAGES, truth, labels)
    elif any(_folders(tests)):
        odd = sorted({entry.name for entry in _folders(tests)} - set(names))
        if odd:
            raise InputError(f"{tests / odd[0]}: {TRAIN} has no such class; both need the same class folders")
        test = _of_classes(base, tests, labels)
    else:
        test, unlabelled = _of_truth(base, tests, read_ground_truth(base, tests, tuple(names)), labels)
    return Listing(classes=classes, train=train, test=test, unlabelled=unlabelled)


def _check_names(folder: Path, names: list[str]) -> None:
    """Raise `InputError` if two class names are the same but for case and spaces.

    Some file systems would keep only one folder of them, and a reader of a table takes them for one class.
    """
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(" ".join(name.casefold().split()), name)
        if other != name:
            raise InputError(f"{folder} has the classes '{other}' and '{name}'; rename or join them")


def _folders(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as scan:
        yield from (e for e in scan if not e.name.startswith(".") and e.is_dir())


def _files(base: Path, folder: Path, label: int) -> list[Listed]:
    """Return the image files directly in a folder, with one label."""
    files = []
    prefix = folder.relative_to(base).as_posix()
    with os.scandir(folder) as scan:
        for entry in scan:
            if entry.name.startswith(".") or os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
                continue
            if any(c in entry.name for c in "\t\n\r"):
                raise InputError(f"{entry.path!r}: a file name may have no tab or line break; rename it")
            if entry.is_file():
                status = entry.stat()
                files.append(Listed(f"{prefix}/{entry.name}", label, status.st_size, status.st_mtime_ns))
    return files


def _of_classes(base: Path, folder: Path, labels: Mapping[str, int]) -> tuple[Listed, ...]:
    """List the images of class folders."""
    files = []
    for name, label in labels.items():
        here: list[Listed] = []
        for path in (folder / name, folder / name / IMAGES):
            if path.is_dir():
                here += _files(base, path, label)
        if not here:
            raise InputError(f"{folder / name} has no image; every class needs at least one")
        files += here
    return tuple(sorted(files, key=lambda f: f.path))


def _of_truth(
    base: Path, folder: Path, truth: Mapping[str, str], labels: Mapping[str, int]
) -> tuple[tuple[Listed, ...], int]:
    """List the images of a flat folder, and count those without a label.

    truth: class by file name. An image of a class that is not among the labels is left out and not counted.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    listed = _files(base, folder, 0)
    by_name = {f.path.rpartition("/")[2]: f for f in listed}
    if missing := sorted(truth.keys() - by_name.keys()):
        raise InputError(
            f"{folder} lacks {plural(len(missing), 'image')} that the ground truth names, such as "
            f"{missing[0]}; copy it again"
        )
    files = [
        Listed(file.path, labels[truth[name]], file.size, file.mtime)
        for name, file in by_name.items()
        if truth.get(name) in labels
    ]
    if not files:
        raise InputError(f"{folder} has no image of the classes in {base / TRAIN}")
    return tuple(sorted(files, key=lambda f: f.path)), len(by_name.keys() - truth.keys())
