"""Files that a run is resumed from, and its curve. All are written atomically and read back bit for bit."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import torch

from results.files import atomic


class Damaged(Exception):
    """A file of a run cannot be read back. The message says what to do about it."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} cannot be read ({why}); remove {path.parent} to train its run again")


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a dictionary of tensors and plain values (temporary file, fsync, rename)."""
    buffer = io.BytesIO()  # not written to the file directly: on a full disk, torch's error would not say why
    torch.save(state, buffer)
    with atomic(path, "wb") as f:
        f.write(buffer.getbuffer())


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Return what `save` wrote, with tensors on `device`; None if there is no file.

    Raises `Damaged` for any other file.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # pickle, zipfile and torch raise many kinds
        raise Damaged(path, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(state, dict):
        raise Damaged(path, "it does not contain a dictionary")
    return state


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

    The columns of `COLUMNS` come first, then `term_*`: the unweighted terms of the loss, means over the
    epoch.
    """
    terms = sorted({name for row in rows for name in row} - set(COLUMNS))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *terms], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic(path) as f:
        f.write(text.getvalue())
