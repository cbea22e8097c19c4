"""Small helpers for messages, and for numbers that a user writes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TextIO


def plural(n: int, word: str) -> str:
    """Return `1 job`, `2 jobs`, `1,000 jobs`."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


_WHOLE = re.compile(r"[+-]?[0-9]{1,400}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,400}\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?")


def whole(text: str) -> int:
    """Return the whole number that a text is. Raises `ValueError` for any other text.

    Python's `int` also reads `1_0` and digits of other scripts, which nobody means as a number.
    """
    if not _WHOLE.fullmatch(text.strip()):
        raise ValueError(f"'{text}' is not a whole number")
    return int(text)


def decimal(text: str) -> float:
    """Return the number that a text is, such as `7.5` or `1e-3`. Raises `ValueError` for any other text.

    Python's `float` also reads `7_3.3`, `nan` and digits of other scripts.
    """
    if not _DECIMAL.fullmatch(text.strip()):
        raise ValueError(f"'{text}' is not a number")
    return float(text)


def program_name() -> str:
    """Return the name by which the command line was called, for help and errors."""
    return "kd-tables" if Path(sys.argv[0]).stem == "kd-tables" else "python -m benchmark"


def command_name() -> str:
    """Return the beginning of a command that can be copied into a shell of the working folder.

    It names the Python that is running if the shell would find another one or none, as in an environment that
    is not activated.
    """
    here = Path(sys.executable)
    on_path = shutil.which("python")
    if program_name() == "kd-tables" or (on_path and Path(on_path).absolute().parent == here.parent):
        return program_name()
    working = Path.cwd()
    return f"{here.relative_to(working) if here.is_relative_to(working) else here} -m benchmark"


def given_width(stream: TextIO) -> int:
    """Return the columns that `COLUMNS` or a stream's terminal gives; 0 if neither does, as in a pipe."""
    named = os.environ.get("COLUMNS", "")
    width = int(named) if named.isdecimal() else 0
    if not width and stream.isatty():
        with contextlib.suppress(OSError, ValueError):
            width = os.get_terminal_size(stream.fileno()).columns
    return width


def size(n_bytes: float) -> str:
    """Return a number of bytes in the unit that suits it: `640 B`, `12 kB`, `1.6 GB`."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit in ("B", "kB") else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it: `42 s`, `12 min`, `2.1 h`."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def shorten(text: str, room: int) -> str:
    """Return the text, cut to `room` characters and ended by `…` if it is longer."""
    return text if len(text) <= room else f"{text[: max(room - 1, 0)].rstrip()}…"[: max(room, 0)]
