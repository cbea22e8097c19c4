"""Files that a run is resumed from, and its curve. All are written atomically and read back bit for bit.

`save` writes an archive of `torch.save`, which `torch.load` reads too, and a tail of two lines:

    {"precision": "fp32", ...}                      what can be known of the file without loading it
    SHA256 LENGTH kd-tables checkpoint 1            of all that precedes; bytes of the line above

The checksum is SHA-256, the fastest hash of the standard library on processors with SHA instructions
(1.8 GB/s; BLAKE2b 0.9).
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from results.files import atomic

FILE = "checkpoint.pt"
"""The state of an unfinished run, in its folder."""

_MARK = b" kd-tables checkpoint 1\n"
_END = 64 + 1 + 8 + len(_MARK)
"""Bytes of the last line."""


class Damaged(Exception):
    """A file of a run has another content than was written, or is missing.

    The message says what to do about it.
    """

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path} is damaged ({why}); restore the file, or remove {path.parent} "
            "(`clean --damaged` lists such runs) to train its run again"
        )
        self.path, self.why = path, why


def save(path: Path, state: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> str:
    """Write a dictionary of tensors and plain values (temporary file, fsync, rename).

    about: JSON values that `about` reads without loading the file. Returns the checksum.
    """
    buffer = io.BytesIO()  # not written to the file directly: on a full disk, torch's error would not say why
    torch.save(state, buffer)
    line = json.dumps(about or {}).encode()
    buffer.write(b"\n" + line + b"\n")
    checksum = hashlib.sha256(buffer.getbuffer()).hexdigest()
    buffer.write(b"%s %08d%s" % (checksum.encode(), len(line), _MARK))
    with atomic(path, "wb") as f:
        f.write(buffer.getbuffer())
    return checksum


def load(path: Path, device: torch.device, checksum: str | None = None) -> dict[str, Any] | None:
    """Return what `save` wrote, with tensors on `device`; None if there is no file.

    checksum: the one that `save` returned, if it is known. A file of an older version has none and is read
    as it is. Raises `Damaged` for any other file, and `OSError` if it cannot be read at all.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if (stored := _checksum(path, content)) is None and checksum is not None:
        raise Damaged(path, "it has no checksum")
    if checksum is not None and stored != checksum:
        raise Damaged(path, "its checksum is not the one in the record")
    try:
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # pickle, zipfile and torch raise many kinds
        raise Damaged(path, _why(error)) from error
    if not isinstance(state, dict):
        raise Damaged(path, "it does not contain a dictionary")
    if stored is None and "parts" in state:  # written by this version
        raise Damaged(path, "its checksum is missing")
    return state


def _why(error: Exception) -> str:
    """Return why `torch.load` failed. Its message about an object that it refuses has many lines."""
    if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it contains {refused[1]}, which is neither a tensor nor plain data"
    if isinstance(error, pickle.UnpicklingError):  # torch's message advises to read the file unsafely
        return "it is not a file that torch.save wrote"
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def check(path: Path) -> bool:
    """Check a file that `save` wrote. Returns False if an older version wrote it, without a checksum.

    Such a file is loaded instead. A file whose checksum fits is not: if it cannot be loaded nevertheless, it
    is not damaged, and the error of `load` belongs to the run. Raises `Damaged`, and `OSError` if the file
    cannot be read at all.
    """
    if _checksum(path, path.read_bytes()) is not None:
        return True
    load(path, torch.device("cpu"))
    return False


def _checksum(path: Path, content: bytes) -> str | None:
    """Return the checksum of a file's content, None if it was written by an older version without one.

    Raises `Damaged` if it does not fit the content.
    """
    if not content.endswith(_MARK):
        return None
    stored = content[-_END : -_END + 64]
    with memoryview(content) as view:
        actual = hashlib.sha256(view[:-_END]).hexdigest()
    if actual.encode() != stored:
        raise Damaged(path, "its checksum does not fit its content")
    return actual


def about(path: Path) -> dict[str, Any] | None:
    """Return what was given to `save` as `about`, without loading or checking the file.

    None if there is no file, if an older version wrote it, or if the line is damaged.
    """
    try:
        with path.open("rb") as f:
            size = f.seek(0, os.SEEK_END)
            f.seek(max(0, size - _END))
            end = f.read()
            if not end.endswith(_MARK):
                return None
            f.seek(max(0, size - _END - 1 - int(end[65:73])))
            values = json.loads(f.read(int(end[65:73])))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that its run begins again. Returns the new path."""
    numbers = (f"-{n}" if n else "" for n in itertools.count())
    aside = next(p for n in numbers if not (p := path.with_name(f"{path.stem}.damaged{n}.pt")).exists())
    path.rename(aside)
    return aside


COLUMNS = (
    "stage",
    "epoch",
    "lr",
    "train_loss",
    "train_acc",
    "test_acc",
    "test_acc_top5",
    "test_loss",
    "seconds",
)
"""The first columns of every curve. Accuracies are in percent."""


def write_curve(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a curve as CSV, one line per epoch.

    The columns of `COLUMNS` come first, then `held_out_acc` (top-1 in percent of the images held out) for a
    run that holds images out, and `term_*`: the unweighted terms of the loss, means over the epoch.
    """
    terms = sorted({name for row in rows for name in row} - set(COLUMNS))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *terms], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic(path) as f:
        f.write(text.getvalue())
