"""Atomic files. The state of all runs is kept in them.

A file is written under a temporary name in the same folder, flushed to disk and renamed. So a reader sees the
old or the new content, never a part.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from results.claims import check_folder
from results.plain_json import parse_json


@contextlib.contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` for writing.

    On success it is synced and renamed to `path`, on an error removed. Raises `ClaimLost` instead if this
    process has lost the claim of the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.chmod(name, 0o644)  # mkstemp's 0600 would hide results from other members of a group
        check_folder(path.parent)
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        if isinstance(error, FileNotFoundError):
            check_folder(path.parent)  # the new holder has removed the temporary file
        # the error of a full disk does not name the file
        if isinstance(error, OSError) and error.filename is None and error.strerror is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    # some network file systems refuse to sync a folder; the file is renamed nevertheless
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically. Raises `ValueError` for NaN and infinities, which are not JSON."""
    text = json.dumps(value, indent=1, allow_nan=False)
    with atomic(path) as f:
        f.write(text + "\n")


def read_json(path: Path | str) -> Any:
    """Return the content of a JSON file, None if there is no file.

    Raises `ValueError` for a damaged file.
    """
    try:
        with open(path, "rb") as f:
            return parse_json(f.read())
    except (FileNotFoundError, NotADirectoryError):
        return None


def append_line(path: Path, line: str) -> None:
    """Append a line to a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as f:
        f.write(line + "\n")


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a text file, [] if it does not exist. One line says that it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{path}: cannot be read ({error.strerror})"]
