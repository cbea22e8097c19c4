"""Small helpers for messages."""

from __future__ import annotations


def plural(n: int, word: str) -> str:
    """Return `1 job`, `2 jobs`, `1,000 jobs`."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"
