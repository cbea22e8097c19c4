"""The index of an image folder: every file, its class, what is wrong with it, and a hash of all contents.

It is made in one pass that reads and decodes every file once, and written to `.kd-tables/index.tsv` in the
data set's folder (`storage` says where, if that is read-only): a line of JSON, then a line per file. As long
as the files have the same names, sizes and times, the next command reads the index instead of the images.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmark import longwork
from benchmark.data.folders.layout import Listed, Listing, list_images
from benchmark.data.folders.reading import BadImage, read_rgb
from benchmark.errors import InputError
from benchmark.text import plural

FORMAT = 1
FOLDER = ".kd-tables"
FILE = "index.tsv"
MOST_BAD = 0.1
"""Share of the images that may be unreadable; with more of them the data set is refused."""

Moments = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


class Entry(NamedTuple):
    """An image file of the index."""

    file: Listed
    width: int
    height: int

    bad: str = ""
    """Why it is left out, "" if it is not."""

    kind: str = ""
    """What it was before its conversion to RGB, "" for an RGB image."""


@dataclass(frozen=True)
class Part:
    """The training or the test images."""

    entries: tuple[Entry, ...]
    """Sorted by path."""

    sha256: str
    """Of the contents of all files one after another, in this order."""

    @property
    def usable(self) -> tuple[Entry, ...]:
        """The images that are not left out."""
        return tuple(e for e in self.entries if not e.bad)


@dataclass(frozen=True)
class FolderIndex:
    """The index of a data set's folder."""

    base: Path
    classes: tuple[str, ...]
    train: Part
    test: Part

    mean: tuple[float, float, float]
    """Of the pixels of the training images in 0..1, each image at its own size and counted alike."""

    std: tuple[float, float, float]

    unlabelled: int = 0
    """Number of test images that have no class and are left out."""

    @functools.cached_property
    def identity(self) -> str:
        """Hash of the contents, the labels and what is left out."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for part in (self.train, self.test):
            digest.update(part.sha256.encode())
            for e in part.entries:
                digest.update(f"{e.file.label} {e.file.size} {e.bad}\n".encode())
        return digest.hexdigest()[:16]

    def notes(self) -> list[str]:
        """Return a line for each kind of image that is left out or converted, with its number."""
        entries = (*self.train.entries, *self.test.entries)
        lines = []
        for attribute, what in (("bad", "left out"), ("kind", "converted to RGB")):
            groups: dict[str, list[Entry]] = collections.defaultdict(list)
            for e in entries:
                if name := getattr(e, attribute):
                    groups[name].append(e)
            for name, members in sorted(groups.items()):
                shown = "" if attribute == "kind" else f", the first is {members[0].file.path}"
                lines.append(f"{self.base}: {plural(len(members), 'image')} {name}: {what}{shown}")
        if self.unlabelled:
            lines.append(f"{self.base}: {plural(self.unlabelled, 'test image')} without a class: left out")
        return lines


def storage(base: Path) -> Path:
    """Return the folder for what is computed from a data set.

    It is in the data set's folder, or in the user's cache folder if that cannot be written. Raises
    `InputError` if there is no such folder.
    """
    if (base / FOLDER).is_dir() or os.access(base, os.W_OK):
        return base / FOLDER
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise InputError(
            f"{base} cannot be written to, and there is no home folder for what is computed from it; set "
            "XDG_CACHE_HOME to a folder"
        ) from None
    name = hashlib.sha256(str(base.resolve()).encode()).hexdigest()[:12]
    return cache / "kd-tables" / f"{base.name}-{name}"


def write_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file so that it is never seen incomplete. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def index_of(base: Path, classes: tuple[str, ...] = (), official: tuple[str, str] = ("", "")) -> FolderIndex:
    """Return the index of a data set's folder; make it first if there is none of these files.

    classes: see `list_images`. official: the sha256 sums of the training and the test files as their authors
    released them, "" if not known. When the index is made, a line says whether the files have these sums, and
    others what is left out or converted.

    Raises `InputError` for a folder in another form, and if too many images cannot be read.
    """
    try:
        listing = list_images(base, classes)
    except OSError as error:
        raise InputError(f"{base} cannot be read ({error})") from error
    path = storage(base) / FILE
    index = _read(path, base, listing)
    if index is None:
        index = _make(base, listing)
        with contextlib.suppress(OSError):  # a full or read-only disk: the next command makes it again
            write_file(path, _lines(index))
        for line in (*index.notes(), *_compared(index, official)):
            longwork.note(line)
    return index


def _compared(index: FolderIndex, official: tuple[str, str]) -> Iterator[str]:
    """Yield a line that says whether the files are the official ones, if the sums of those are known."""
    if not all(official):
        return
    sums = (index.train.sha256, index.test.sha256)
    other = [name for name, a, b in zip(("training", "test"), sums, official, strict=True) if a != b]
    if other:
        yield (
            f"{index.base}: the {' and '.join(other)} images are not the official ones (other sha256), so "
            "its runs have keys of their own"
        )
    else:
        yield f"{index.base}: the official images, by the sha256 of both splits"


# --- making it ----------------------------------------------------------------------------------------------


def workers() -> int:
    """Return the number of threads that decode images. Pillow decodes outside of Python's global lock."""
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _make(base: Path, listing: Listing) -> FolderIndex:
    total = len(listing.train) + len(listing.test)
    sums = np.zeros((2, 3))
    parts: list[Part] = []
    with (
        ThreadPoolExecutor(workers()) as pool,
        longwork.task(f"checking the images in {base}, once", total, "images") as task,
    ):
        for files in (listing.train, listing.test):
            digest = hashlib.sha256()
            entries = []
            for entry, moments in _examined(base, files, pool, digest):
                entries.append(entry)
                if moments is not None and not parts:
                    sums += np.stack(moments)
                task.advance()
            parts.append(Part(tuple(entries), digest.hexdigest()))
    _refuse_too_bad(base, parts, listing.classes)
    mean, square = sums / len(parts[0].usable)
    std = np.sqrt(np.maximum(square - mean**2, 1e-8))
    return FolderIndex(
        base=base,
        classes=listing.classes,
        train=parts[0],
        test=parts[1],
        mean=_rounded(mean),
        std=_rounded(std),
        unlabelled=listing.unlabelled,
    )


def _rounded(values: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    first, second, third = (round(max(float(v), 0.0), 4) for v in values)
    return first, second, third


def _refuse_too_bad(base: Path, parts: list[Part], classes: tuple[str, ...]) -> None:
    entries = [e for part in parts for e in part.entries]
    bad = [e for e in entries if e.bad]
    if len(bad) > MOST_BAD * len(entries):
        raise InputError(
            f"{base}: {len(bad):,} of {len(entries):,} images cannot be read (such as {bad[0].file.path}: "
            f"{bad[0].bad}); copy the folder again"
        )
    for part, name in zip(parts, ("training", "test"), strict=True):
        if empty := sorted({e.file.label for e in part.entries} - {e.file.label for e in part.usable}):
            raise InputError(f"{base}: no readable {name} image of class {classes[empty[0]]}")


def _examined(
    base: Path, files: tuple[Listed, ...], pool: ThreadPoolExecutor, digest: hashlib._Hash
) -> Iterator[tuple[Entry, Moments | None]]:
    """Yield each file's entry and the moments of its pixels, in order. Contents are added to `digest`."""
    waiting: collections.deque[Future[tuple[Entry, Moments | None]]] = collections.deque()
    for file in files:
        try:
            content = (base / file.path).read_bytes()
        except OSError as error:
            raise InputError(f"{base / file.path} cannot be read ({error})") from error
        digest.update(content)
        waiting.append(pool.submit(_examine, file, content))
        if len(waiting) > 64:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


_LEVELS = np.arange(256) / 255


def _examine(file: Listed, content: bytes) -> tuple[Entry, Moments | None]:
    try:
        image, kind = read_rgb(content)
    except BadImage as error:
        return Entry(file, 0, 0, bad=str(error)), None
    counts = np.asarray(image.histogram(), dtype=np.float64).reshape(3, 256) / (image.width * image.height)
    return Entry(file, image.width, image.height, kind=kind), (counts @ _LEVELS, counts @ _LEVELS**2)


# --- its file -----------------------------------------------------------------------------------------------


def _lines(index: FolderIndex) -> Iterator[bytes]:
    head = {
        "format": FORMAT,
        "classes": index.classes,
        "identity": index.identity,
        "train_sha256": index.train.sha256,
        "test_sha256": index.test.sha256,
        "mean": index.mean,
        "std": index.std,
        "notes": index.notes(),
    }
    yield json.dumps(head).encode() + b"\n"
    for part in (index.train, index.test):
        for e in part.entries:
            f = e.file
            fields = (f.path, f.label, f.size, f.mtime, e.width, e.height, e.bad, e.kind)
            yield "\t".join(map(str, fields)).encode("utf-8", "surrogateescape") + b"\n"


def _read(path: Path, base: Path, listing: Listing) -> FolderIndex | None:
    """Return the stored index, None if there is none, it is damaged, or is of other files or classes."""
    try:
        first, *lines = path.read_bytes().decode("utf-8", "surrogateescape").removesuffix("\n").split("\n")
        head = json.loads(first)
        if head["format"] != FORMAT or tuple(head["classes"]) != listing.classes:
            return None
        entries = [_entry(line) for line in lines]
        n = len(listing.train)
        if tuple(e.file for e in entries) != (*listing.train, *listing.test):
            return None
        index = FolderIndex(
            base=base,
            classes=listing.classes,
            train=Part(tuple(entries[:n]), head["train_sha256"]),
            test=Part(tuple(entries[n:]), head["test_sha256"]),
            mean=tuple(head["mean"]),
            std=tuple(head["std"]),
            unlabelled=listing.unlabelled,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return index if index.identity == head["identity"] else None


def _entry(line: str) -> Entry:
    path, label, size, mtime, width, height, bad, kind = line.split("\t")
    return Entry(Listed(path, int(label), int(size), int(mtime)), int(width), int(height), bad, kind)
