"""Classes of test images that lie in one flat folder: TinyImageNet's and ImageNet's."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from benchmark.errors import InputError

DEVKIT = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"


def read_annotations(path: Path) -> dict[str, str]:
    """Return the class by file name from TinyImageNet's `val_annotations.txt`."""
    truth = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words:
            if len(words) < 2:
                raise InputError(f"{path}: a line has no class: '{line}'")
            truth[words[0]] = words[1]
    return truth


def read_ground_truth(base: Path, folder: Path, classes: tuple[str, ...]) -> dict[str, str]:
    """Return the class by file name of ImageNet's test images in `folder`.

    Read from the first of these files that is in `folder`, in the data set's folder `base`, below it, or
    beside it:

    - `val.txt`: lines `ILSVRC2012_val_00000001.JPEG n01751748`; instead of the class its number in
      alphabetical order, from 0 (Caffe's list);
    - `LOC_val_solution.csv`: Kaggle's;
    - the devkit's ground truth, one number a line in the order of the file names, with `meta.mat` beside it,
      which says what the numbers mean.

    Raises `InputError` if there is none, or for a line that is not understood.
    """
    readers: dict[str, Callable[[Path, tuple[str, ...]], dict[str, str]]] = {
        "val.txt": _read_list,
        "LOC_val_solution.csv": _read_kaggle,
        DEVKIT: _read_devkit,
    }
    places = (folder, base, base.parent, base.parent.parent, *_devkits(base))
    for name, read in readers.items():
        for place in places:
            if (place / name).is_file():
                return read(place / name, classes)
    raise InputError(
        f"{folder} has no class folders, and {base} no {' or '.join(readers)}; add one of them, or sort the "
        "test images into class folders"
    )


def _devkits(base: Path) -> list[Path]:
    return [
        above / name / "data" for above in (base, base.parent) for name in ("ILSVRC2012_devkit_t12", "devkit")
    ]


def _read_list(path: Path, classes: tuple[str, ...]) -> dict[str, str]:
    truth = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if words := line.split():
            if len(words) != 2:
                raise InputError(f"{path}: not a file name and a class: '{line}'")
            truth[words[0].rpartition("/")[2]] = _class_of(words[1], classes, path)
    return truth


def _class_of(word: str, classes: tuple[str, ...], path: Path) -> str:
    if word in classes or not word.isdigit():
        return word
    if int(word) >= len(classes):
        raise InputError(f"{path}: class {word}, but there are {len(classes)} classes, numbered from 0")
    return classes[int(word)]


def _read_kaggle(path: Path, _classes: tuple[str, ...]) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return {f"{row['ImageId']}.JPEG": row["PredictionString"].split()[0] for row in rows}
    except (KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"{path}: needs the columns ImageId and PredictionString with a class in every line"
        ) from error


def _read_devkit(path: Path, _classes: tuple[str, ...]) -> dict[str, str]:
    words = path.read_text(encoding="utf-8").split()
    if all(word.isdigit() for word in words):
        if not (path.parent / META).is_file():
            raise InputError(
                f"{path.parent} has no {META} (of ILSVRC2012_devkit_t12), which says which class a number of "
                f"{path.name} is; copy it there"
            )
        names = _meta(path.parent / META)
        try:
            words = [names[int(word)] for word in words]
        except KeyError as error:
            raise InputError(f"{path}: {META} has no class {error.args[0]}") from error
    return {f"ILSVRC2012_val_{k:08d}.JPEG": word for k, word in enumerate(words, 1)}


def _meta(path: Path) -> dict[int, str]:
    """Return the class (its WordNet id) by number, from the devkit."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(path, squeeze_me=True)["synsets"]
        return {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in synsets}
    except Exception as error:  # scipy raises many kinds for a file in another form
        raise InputError(
            f"{path} is not the meta.mat of ILSVRC2012_devkit_t12 ({type(error).__name__}: {error})"
        ) from error
