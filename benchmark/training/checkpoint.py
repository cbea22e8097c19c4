"""Checkpoints of running runs: written after each epoch, atomically; read back bit for bit."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import torch

from results.files import atomic


class Damaged(Exception):
    """A run's file that cannot be read back; the message says what to do about it."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} cannot be read ({why}); remove {path.parent} and its run is trained anew")


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint in one piece (temporary file, fsync, rename)."""
    whole = io.BytesIO()  # straight to a disk that is full, torch has no word for that
    torch.save(state, whole)
    with atomic(path, "wb") as f:
        f.write(whole.getbuffer())


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """A checkpoint's content, None if there is none. `Damaged` for a file that is none."""
    if not path.exists():
        return None
    try:
        found = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # pickle, zip and torch have many words for it
        raise Damaged(path, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(found, dict):
        raise Damaged(path, "no dictionary")
    return found


FIRST = (
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


def write_curve(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a curve: the columns of `FIRST`, then `term_*` (unweighted means over the epoch), a line an epoch."""
    terms = sorted({k for row in rows for k in row} - set(FIRST))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*FIRST, *terms], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic(path) as f:
        f.write(text.getvalue())
