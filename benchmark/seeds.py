"""Seeds for the separate purposes of a run, derived from the run's seed."""

from __future__ import annotations

import hashlib


def seed_of(run_seed: int, *words: str | int) -> int:
    """Return a seed in 0..2^63-1 for one purpose of a run, for example `seed_of(0, "order", epoch)`.

    Seeds of different purposes are independent of each other.
    """
    text = "|".join(map(str, (run_seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
