"""The data set `clips`: a user's folder of sound clips.

    DATA/clips/train/<class>/*.wav
    DATA/clips/test/<class>/*.wav

The classes are the names of the folders in alphabetical order, the same in both parts. docs/audio.md
describes the data set, benchmark/data/spectrogram.py how a file becomes an image.

Every user has different clips. Their numbers are therefore read from the folder (`register_clips`), and their
identity, a hash of the files' names and sizes, is part of every run's key: records made with other clips
belong to other runs. Until a folder is registered, or if it has no clips, nominal numbers stand in; commands
that need clips then report an error.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmark import longwork
from benchmark.data.datasets import DATASETS, Dataset, DatasetInfo, Split, stratified_order
from benchmark.data.locate import locate
from benchmark.data.spectrogram import read_wave, spectrogram
from benchmark.errors import InputError

NAME = "clips"
PARTS = ("train", "test")
LAYOUT = "clips/{train,test}/<class>/*.wav"


@dataclass(frozen=True)
class ClipFiles:
    """The files of a folder of clips."""

    classes: tuple[str, ...]
    """Names of the classes by label."""

    train: tuple[tuple[Path, int], ...]
    """`(file, label)`, sorted by class and name."""

    test: tuple[tuple[Path, int], ...]
    """`(file, label)`, sorted by class and name."""

    identity: str
    """Hash of the files' names and sizes."""


def list_clips(folder: Path) -> ClipFiles:
    """List the clips below `folder/clips` without opening a file.

    Raises `InputError` if the folder does not have the layout above, or has fewer than two classes.
    """
    base = locate(folder, NAME, lambda base: all((base / part).is_dir() for part in PARTS)) / NAME
    files: dict[str, dict[str, list[Path]]] = {}
    for part in PARTS:
        if not (base / part).is_dir():
            raise InputError(f"no folder {base / part}; set DATA= to a folder that has {LAYOUT}")
        files[part] = {
            c.name: _wave_files(c)
            for c in sorted((base / part).iterdir())
            if c.is_dir() and not c.name.startswith(".")
        }
    classes = tuple(files["train"])
    if len(classes) < 2:
        raise InputError(f"{base / 'train'} has {len(classes)} classes; it must have at least two folders")
    if odd := sorted(set(classes) ^ set(files["test"])):
        raise InputError(f"{base}: class {odd[0]} is not in both train and test; both need the same classes")
    for part in PARTS:
        if empty := [c for c in classes if not files[part][c]]:
            raise InputError(f"{base / part / empty[0]} has no .wav file; every class needs at least one")
    digest = hashlib.sha256()
    train, test = (
        tuple((path, k) for k, c in enumerate(classes) for path in files[part][c]) for part in PARTS
    )
    for path, _ in (*train, *test):
        digest.update(f"{path.relative_to(base).as_posix()} {path.stat().st_size}\n".encode())
    return ClipFiles(classes=classes, train=train, test=test, identity=digest.hexdigest()[:16])


def _wave_files(folder: Path) -> list[Path]:
    return sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() == ".wav" and not p.name.startswith(".") and p.is_file()
    )


def register_clips(folder: Path | str) -> DatasetInfo:
    """Make the clips of a data folder known to `benchmark.data.info` in this process, and return their entry.

    Call it before runs are resolved. If the folder has no clips, or has them in another layout, the nominal
    entry is registered, because most commands need no clips; those that do (`load`, the tables of clips)
    raise the error.
    """
    info = NOMINAL
    try:
        with longwork.task(f"listing the clips in {folder}"):
            clips = list_clips(Path(folder))
    except InputError:
        pass
    else:
        info = dataclasses.replace(
            NOMINAL,
            num_classes=len(clips.classes),
            train_images=len(clips.train),
            test_images=len(clips.test),
            identity=clips.identity,
        )
    DATASETS[NAME] = info
    return info


def _load(folder: Path) -> Dataset:
    clips = list_clips(folder)
    registered = DATASETS[NAME].identity
    if not registered:
        raise InputError(f"{folder / NAME}: the clips are not registered; call benchmark.data.register_clips")
    if clips.identity != registered:
        raise InputError(f"{folder / NAME}: the clips have changed since this command began; run it again")
    return _read(clips)


@functools.lru_cache(maxsize=1)
def _read(clips: ClipFiles) -> Dataset:
    """Read every file. The last result is kept for the next pack of the process."""
    parts = []
    for files in (clips.train, clips.test):
        listed = longwork.each(files, "reading clips", "files")
        images = np.stack([spectrogram(*read_wave(path)) for path, _ in listed])
        labels = np.array([label for _, label in files], dtype=np.int64)
        order = stratified_order(labels, seed=0)
        parts.append(Split(torch.from_numpy(images[order]), torch.from_numpy(labels[order])))
    return Dataset(name=NAME, train=parts[0], test=parts[1], classes=clips.classes)


NOMINAL = DatasetInfo(
    name=NAME,
    title="audio clips of a folder",
    num_classes=10,
    train_images=8_000,
    test_images=800,
    # chosen, not measured: the middle of each channel's range, and about the spread of sounds over it
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.1, 0.1),
    disk_bytes=0,
    load=_load,
    user_files=True,
)
"""Stands in until a folder is registered."""

DATASETS[NAME] = NOMINAL
