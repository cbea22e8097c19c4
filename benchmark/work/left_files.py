"""Files that a killed process left in the folder of a finished run, which `clean` removes.

A run is finished as soon as its record is written. What an unfinished run needs (its checkpoint, its
progress, its claim) is removed after that; a process that is killed in between leaves it.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from dataclasses import dataclass

from results.claims import ClaimError
from results.store import Store, record_keys

NAMES = ("checkpoint.pt", "progress.json", "began.json")
CLAIM = "claim"


@dataclass(frozen=True)
class LeftFiles:
    """The files that are left in the folder of one finished run."""

    key: str
    names: tuple[str, ...]

    def describe(self) -> str:
        """Return the files as a line."""
        return f"{self.key}: {', '.join(self.names)}, left by a process that was killed; the result stays"


def find(store: Store, leave_out: Container[str] = ()) -> Iterator[LeftFiles]:
    """Yield the files that are left in finished runs on which nobody works.

    leave_out: keys of runs that are not looked at.
    """
    for key in sorted(record_keys(store.folder)):
        # strings are faster than paths, and there may be very many runs
        names = tuple(n for n in (*NAMES, CLAIM) if os.path.lexists(f"{store.folder}/{key}/{n}"))
        if names and key not in leave_out and store.is_done(key) and store.holder(key) is None:
            yield LeftFiles(key, names)


def remove(store: Store, left: LeftFiles) -> bool:
    """Remove the files. Returns False if the run cannot be claimed, or is not finished any more."""
    try:
        claim = store.claim(left.key, "clean")
    except ClaimError:
        return False
    if claim is None:
        return False
    try:
        if not store.is_done(left.key):
            return False
        for name in NAMES:
            (store.path(left.key) / name).unlink(missing_ok=True)
    finally:
        claim.release()
    return True
