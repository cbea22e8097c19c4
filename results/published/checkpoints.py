"""Checkpoints that papers released, known by the hash of their weights.

`numbers/checkpoints.csv` lists them, and so may a `checkpoints.csv` in a folder that `KD_PUBLISHED` names.
With the hash it is known whether an imported teacher is the one that a paper's numbers come from.
"""

from __future__ import annotations

import functools

from results.published.reader import Stamp, folders, stamp_of
from results.published.schema import read_rows

COLUMNS = ("weights", "network", "papers", "source")
"""weights: the hash that `python -m benchmark teachers` prints. papers: those that evaluate this checkpoint
or learn from it, separated by spaces. source: where the checkpoint is from."""


def published_by(weights: str) -> tuple[str, ...]:
    """Return the papers whose numbers come from the checkpoint with these weights; () for an unknown hash."""
    files = [folder / "checkpoints.csv" for folder in folders()]
    return _by_weights(stamp_of([p for p in files if p.is_file()])).get(weights, ())


@functools.lru_cache(maxsize=4)
def _by_weights(stamp: Stamp) -> dict[str, tuple[str, ...]]:
    rows = [row for path, _, _ in stamp for _, row in read_rows(path, COLUMNS)]
    return {row["weights"]: tuple(row["papers"].split()) for row in rows}
