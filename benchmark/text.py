"""Small helpers for messages."""

from __future__ import annotations

import sys
from pathlib import Path


def plural(n: int, word: str) -> str:
    """Return `1 job`, `2 jobs`, `1,000 jobs`."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def program_name() -> str:
    """Return the name by which the command line was called, for help and errors."""
    return "kd-tables" if Path(sys.argv[0]).stem == "kd-tables" else "python -m benchmark"


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
