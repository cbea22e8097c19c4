"""Which files of teacher caches `clean` removes: those that nobody can use or goes on with.

A complete cache whose teacher is here is kept. An unfinished one is removed on request only, because the next
run goes on with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.text import size
from benchmark.training import teacher_cache
from benchmark.training.cache_blocks import INDEX, BlockFile, index_path, layout_of
from results.claims import Claim
from results.holders import STALE_SECONDS
from results.store import Store


@dataclass(frozen=True)
class StaleCache:
    """Files of a teacher cache that can be removed."""

    name: str
    """Name of the cache's file, or of the temporary file."""
    why: str
    paths: tuple[Path, ...]
    claim: Path
    """The claim that a process holds while it builds the cache."""
    unfinished: bool = False
    """The next run would go on with it."""

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(512 * p.stat().st_blocks for p in self.paths if p.is_file())


def find(store: Store) -> list[StaleCache]:
    """Return the stale and the unfinished caches of a results folder, without those that are being built."""
    folder = store.folder / teacher_cache.FOLDER
    caches = [*_temporary(folder), *_caches(folder, store)] if folder.is_dir() else []
    return [cache for cache in caches if Claim.holder(cache.claim) is None]


def _temporary(folder: Path) -> Iterator[StaleCache]:
    """Yield the temporary files that older versions left when they were killed."""
    for path in sorted(folder.glob(".*.tmp")):
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            cache = path.name[1:].partition(".")[0]
            yield StaleCache(path.name, "temporary file of a dead process", (path,), _claim(folder, cache))


def _caches(folder: Path, store: Store) -> Iterator[StaleCache]:
    """Yield the caches without an index that fits, without their teacher, or unfinished."""
    names = {p.name.removesuffix(INDEX) for p in folder.iterdir() if p.name[:1] != "." and p.is_file()}
    for name in sorted(names):
        if name.endswith(".claim"):
            continue
        path = folder / name
        paths = tuple(p for p in (path, index_path(path)) if p.is_file())
        claim = _claim(folder, name.partition(".")[0])
        layout = layout_of(path)
        if layout is None or len(paths) < 2:
            yield StaleCache(name, "without an index that is understood here", paths, claim)
            continue
        missing = len(BlockFile(path, layout).missing())
        teacher = layout.teacher.rpartition("@")[0]
        if teacher and not store.path(teacher).is_dir():
            yield StaleCache(name, f"its teacher {teacher} is not here any more", paths, claim)
        elif missing:
            done = f"unfinished: {layout.blocks - missing:,} of {layout.blocks:,} blocks"
            yield StaleCache(name, done, paths, claim, unfinished=True)


def _claim(folder: Path, cache: str) -> Path:
    return folder / f"{cache}.claim"


def remove(cache: StaleCache) -> bool:
    """Remove a cache's files. Returns False if a process has begun to build it meanwhile."""
    claim = Claim.take(cache.claim, "clean")
    if claim is None:
        return False
    try:
        for path in reversed(cache.paths):  # the index first: data without an index never count
            path.unlink(missing_ok=True)
    finally:
        claim.release()
    return True


def describe(cache: StaleCache) -> str:
    """Return a cache as a line."""
    return f"{teacher_cache.FOLDER}/{cache.name}: {cache.why} ({size(cache.bytes)})"
