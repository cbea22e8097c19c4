"""Seeds derived from a run's own, one for each purpose."""

from __future__ import annotations

import hashlib


def seed_of(run_seed: int, *words: str | int) -> int:
    """A seed in 0..2^63-1 for one purpose of a run ("order", epoch), independent of every other purpose's."""
    text = "|".join(map(str, (run_seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
