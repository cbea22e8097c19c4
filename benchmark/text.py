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
