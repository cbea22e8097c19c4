"""The files of a folder of teachers: which hold weights, and which of a training's checkpoints teach.

A training leaves several checkpoints. RepDistiller's folder has `ckpt_epoch_40.pth`, `ckpt_epoch_80.pth` ...
beside `resnet56_best.pth` and `resnet56_last.pth`. Of numbered checkpoints only the last is read. The file
whose name has the word `best` is the best epoch; the one with `last`, `latest` or `final`, else the one with
the highest number, is the last epoch.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from benchmark.text import plural
from results.tree import walk

CHECKPOINTS = (".pth", ".pt", ".tar", ".ckpt", ".th", ".safetensors")
"""Suffixes of checkpoint files.

Files with other suffixes, or without one, are tried if they look like a checkpoint.
"""

DESCRIPTION = ".json"
"""Suffix of a file that describes a checkpoint."""

NOT_READ = (
    *(
        ".npz",
        ".npy",
        ".h5",
        ".hdf5",
        ".onnx",
        ".msgpack",
        ".pb",
        ".tflite",
        ".mat",
        ".params",
        ".zip",
        ".gz",
    ),
    *(".tgz", ".bz2", ".xz", ".7z", ".pdparams", ".mindir"),
)
"""Suffixes of files that probably hold weights, in a format that is not read."""

BEST, LAST = "best", "last"
_WORDS = {"best": BEST, "last": LAST, "latest": LAST, "final": LAST}
_EPOCH = re.compile(r"(?:^|[_.-])(?:epoch|ckpt|checkpoint|ep|iter|step)[_.=-]?(\d+)(?![0-9a-z])", re.I | re.A)


def looks_like_weights(path: Path) -> bool:
    """Return whether a file begins as torch.save's files or pickles do."""
    try:
        with path.open("rb") as file:
            begin = file.read(4)
        if begin == b"PK\x03\x04":
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("data.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
    return len(begin) > 1 and begin[0] == 0x80 and begin[1] in (2, 3, 4, 5)


def list_files(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the files of a folder and of those below it that may be read, sorted, and notes on the others.

    A note names files that look like weights and are left alone.
    """
    notes: list[str] = []
    files = []
    for path, entries in walk(folder, notes):
        files += [Path(path, e.name) for e in entries if not e.name.startswith(".")]
    notes += [
        f"{path}: left alone, a link that leads nowhere"
        for path in files
        if path.is_symlink() and not path.exists() and path.suffix.lower() in CHECKPOINTS
    ]
    files = [path for path in sorted(files) if path.is_file()]
    wanted = [
        path
        for path in files
        if path.suffix.lower() in (*CHECKPOINTS, DESCRIPTION)
        or (path.suffix.lower() not in NOT_READ and looks_like_weights(path))
    ]
    notes += [
        f"{path}: left alone, {path.suffix} files are not read; save the weights with torch.save"
        for path in files
        if path.suffix.lower() in NOT_READ
    ]
    return _without_earlier_epochs(wanted, notes), notes


def _without_earlier_epochs(files: Iterable[Path], notes: list[str]) -> list[Path]:
    """Return the files without those of a numbered series, except the last of each."""
    kept = []
    series: dict[tuple[Path, str], list[tuple[int, Path]]] = {}
    for path in files:
        if number := _EPOCH.search(path.name):
            name = path.name[: number.start(1)] + path.name[number.end(1) :]
            series.setdefault((path.parent, name), []).append((int(number[1]), path))
        else:
            kept.append(path)
    for members in series.values():
        *earlier, (_, last) = sorted(members)
        kept.append(last)
        if earlier:
            first = earlier[0][1].name
            more = f" and {len(earlier) - 1} more" if len(earlier) > 1 else ""
            notes.append(
                f"{last.parent}: left alone, {plural(len(earlier), 'checkpoint')} before {last.name}: "
                f"{first}{more}"
            )
    return sorted(kept)


def epoch_of(path: Path) -> tuple[str, int]:
    """Return which epoch of a training a file holds by its name: `best`, `last` or "", and how sure that is.

    2: a word of the name says so; 1: it is the last of a numbered series; 0: nothing says so.
    """
    words = [_WORDS[w] for w in re.split(r"[^a-z]+", path.stem.lower()) if w in _WORDS]
    if words:
        return words[0], 2
    return (LAST, 1) if _EPOCH.search(path.name) else ("", 0)
