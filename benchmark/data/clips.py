"""`clips`: a folder of sound clips as a data set, in this form:

    DATA/clips/train/<class>/*.wav
    DATA/clips/test/<class>/*.wav

Classes are the folders' names, in order of the alphabet, the same in both parts. See docs/audio.md; what a file becomes is the business of
benchmark/data/spectrogram.py.

Everyone's clips are others. So what is known of them is read from the folder that DATA names (`look_in`), and their identity, a hash of the files'
names and sizes, is part of every run's key: records made of other clips are other runs. Before a folder was looked in, or where it holds
no clips, a nominal size is reckoned with, and the command line shows and trains nothing of clips.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmark.data.datasets import DATASETS, Dataset, DatasetInfo, Split, stratified_order
from benchmark.data.spectrogram import read_wave, spectrogram
from benchmark.errors import InputError

NAME = "clips"
PARTS = ("train", "test")
FORM = "clips/{train,test}/<class>/*.wav"


@dataclass(frozen=True)
class Listing:
    """classes in order; files: of both parts, `(path, class)`, in order of their names; identity: hash of names and sizes."""

    classes: tuple[str, ...]
    train: tuple[tuple[Path, int], ...]
    test: tuple[tuple[Path, int], ...]
    identity: str


def listing(folder: Path) -> Listing:
    """What lies in `folder/clips`; no file is opened. `InputError` if it is not in the form above, or has fewer than two classes."""
    base = folder / NAME
    found: dict[str, dict[str, list[Path]]] = {}
    for part in PARTS:
        if not (base / part).is_dir():
            raise InputError(f"no folder {base / part}; allowed: DATA= a folder that holds {FORM}")
        found[part] = {
            c.name: _waves(c)
            for c in sorted((base / part).iterdir())
            if c.is_dir() and not c.name.startswith(".")
        }
    classes = tuple(found["train"])
    if len(classes) < 2:
        raise InputError(
            f"{base / 'train'} has {len(classes)} classes; allowed: two folders and more, one a class"
        )
    if odd := sorted(set(classes) ^ set(found["test"])):
        raise InputError(
            f"{base}: class {odd[0]} is not in both train and test; allowed: the same classes in both"
        )
    for part in PARTS:
        if empty := [c for c in classes if not found[part][c]]:
            raise InputError(f"{base / part / empty[0]}: no .wav file is in it; allowed: one and more")
    digest = hashlib.sha256()
    parts = [tuple((path, k) for k, c in enumerate(classes) for path in found[part][c]) for part in PARTS]
    for path, _ in (*parts[0], *parts[1]):
        digest.update(f"{path.relative_to(base).as_posix()} {path.stat().st_size}\n".encode())
    return Listing(classes, parts[0], parts[1], digest.hexdigest()[:16])


def _waves(folder: Path) -> list[Path]:
    return sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() == ".wav" and not p.name.startswith(".") and p.is_file()
    )


def look_in(folder: Path | str) -> DatasetInfo:
    """Makes the clips of a data folder known to `benchmark.data.info` (of this process), and returns what is known.

    Called by whoever learns where data sets lie, before runs are resolved. Where there are none, or not in their form, the nominal sizes
    stand again; who wants clips (`load`, the tables of clips) says what is wrong, as most commands want none.
    """
    known = NOMINAL
    try:
        found = listing(Path(folder))
    except InputError:
        pass
    else:
        known = dataclasses.replace(
            NOMINAL,
            num_classes=len(found.classes),
            train_images=len(found.train),
            test_images=len(found.test),
            identity=found.identity,
        )
    DATASETS[NAME] = known
    return known


def _load(folder: Path) -> Dataset:
    found = listing(folder)
    known = DATASETS[NAME].identity
    if found.identity != known:
        was = (
            "were changed since they were looked at"
            if known
            else "were not looked at before (benchmark.data.look_in)"
        )
        raise InputError(f"{folder / NAME}: the clips {was}; allowed: the same command again")
    return _read(found)


@functools.lru_cache(maxsize=1)
def _read(found: Listing) -> Dataset:
    """Reads every file; the last folder's clips are kept, for the next pack of the process."""
    parts = []
    for files in (found.train, found.test):
        images = np.stack([spectrogram(*read_wave(path)) for path, _ in files])
        labels = np.array([label for _, label in files], dtype=np.int64)
        order = stratified_order(labels, seed=0)
        parts.append(Split(torch.from_numpy(images[order]), torch.from_numpy(labels[order])))
    return Dataset(NAME, parts[0], parts[1], found.classes)


NOMINAL = DatasetInfo(
    NAME,
    "audio clips of a folder",
    num_classes=10,
    train_images=8_000,
    test_images=800,
    # stated, not measured: half of each channel's range, and about what sounds spread over of it
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.1, 0.1),
    disk_bytes=0,
    load=_load,
    of_folder=True,
)
"""What is reckoned with until a folder is seen."""

DATASETS[NAME] = NOMINAL
