"""What commands have to know of an image folder, without a look at each of its files if they are many.

Of a folder with more than `LARGE` images, the index is summed up in `.kd-tables/summary.json`. While no
folder has a file more or less (its time of change says so), the summary is used: on a file system of a
cluster, asking for the size of a million files takes minutes. Training compares every file with the index.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark.data.datasets import Channels
from benchmark.data.folders.index import FORMAT, FolderIndex, index_of, storage, write_file
from benchmark.data.folders.layout import IMAGES, TRAIN, test_folder

FILE = "summary.json"
LARGE = 200_000
"""Number of images above which the summary is trusted."""


@dataclass(frozen=True)
class Summary:
    """The properties of a data set in a folder."""

    classes: tuple[str, ...]
    train_images: int
    test_images: int
    n_bytes: int
    """Size of the images' files."""

    sha256: tuple[str, str]
    """Of the contents of all training and all test files."""

    identity: str
    mean: Channels
    std: Channels

    @classmethod
    def of(cls, index: FolderIndex) -> Summary:
        """Return the summary of an index."""
        train, test = index.train.usable, index.test.usable
        return cls(
            classes=index.classes,
            train_images=len(train),
            test_images=len(test),
            n_bytes=sum(e.file.size for e in (*train, *test)),
            sha256=(index.train.sha256, index.test.sha256),
            identity=index.identity,
            mean=index.mean,
            std=index.std,
        )


def summary_of(base: Path, classes: tuple[str, ...] = (), official: tuple[str, str] = ("", "")) -> Summary:
    """Return the summary of a folder. classes, official, errors: see `index_of`."""
    path = storage(base) / FILE
    stamp = {"format": FORMAT, "asked": list(classes), "folders": _times(base)}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # else it is made again
        stored = json.loads(path.read_text(encoding="utf-8"))
        if {key: stored[key] for key in stamp} == stamp:
            return _from(stored["summary"])
    summary = Summary.of(index_of(base, classes, official))
    write_summary(base, classes, summary)
    return summary


def write_summary(base: Path, classes: tuple[str, ...], summary: Summary) -> None:
    """Store the summary of a large folder. classes: as they were given to `index_of`."""
    if summary.train_images + summary.test_images > LARGE:
        content = {
            "format": FORMAT,
            "asked": list(classes),
            "folders": _times(base),
            "summary": asdict(summary),
        }
        with contextlib.suppress(OSError):
            write_file(storage(base) / FILE, [json.dumps(content).encode()])


def _from(stored: dict[str, object]) -> Summary:
    tuples = ("classes", "sha256", "mean", "std")
    return Summary(**{k: tuple(v) if k in tuples else v for k, v in stored.items()})  # type: ignore[arg-type]


def _times(base: Path) -> dict[str, int]:
    """Return the time of the last change of each folder with images; a new or removed file changes it."""
    tests = test_folder(base)
    times = {}
    for part in (base / TRAIN, tests):
        if part is None or not part.is_dir():
            continue
        times[part.name] = part.stat().st_mtime_ns
        with os.scandir(part) as scan:
            for entry in scan:
                if entry.is_dir():
                    times[f"{part.name}/{entry.name}"] = entry.stat().st_mtime_ns
                    with contextlib.suppress(OSError):
                        inside = os.stat(os.path.join(entry.path, IMAGES))
                        times[f"{part.name}/{entry.name}/{IMAGES}"] = inside.st_mtime_ns
    return times
