"""Find a data set whose folder was named one or two levels too high or too deep (`DATA=`).

Such a folder is clear to a human, so it is used, and nothing is downloaded beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmark.errors import InputError

MOST_ENTRIES = 2_000
"""The most entries to look at below a folder; `DATA=/` must not take minutes."""


def locate(folder: Path, name: str, has_data: Callable[[Path], bool]) -> Path:
    """Return the folder that has the data set in its sub-folder `name`.

    It is `folder`, or if that has no such sub-folder: a folder above it, if `folder` is the data set's or
    within it, else the only one below it. If there is none, return `folder`.

    has_data: whether a folder, which has the name, contains the data set.

    Raises `InputError` if several folders below have the data set.
    """
    if has_data(folder / name):
        return folder
    for inside in (folder.absolute(), folder.resolve()):  # resolved: `.` has no name
        for above in (inside, *list(inside.parents)[:2]):
            if above.name == name and has_data(above):
                return above.parent
    below = [path for path in _folders_below(folder) if has_data(path / name)]
    if len(below) > 1:
        raise InputError(
            f"DATA: {name}/ is not in {folder} but in {len(below)} folders below it; give one of them, "
            f"such as {below[0]}"
        )
    return below[0] if below else folder


def _folders_below(folder: Path) -> Iterator[Path]:
    """Yield the folders of the first two levels below a folder, sorted, as far as they can be read."""
    level, looked_at = [folder], 0
    for _ in range(2):
        deeper: list[Path] = []
        for parent in level:
            try:
                with os.scandir(parent) as scan:
                    entries = sorted(scan, key=lambda entry: entry.name)
            except OSError:
                continue
            for entry in entries:
                looked_at += 1
                if looked_at > MOST_ENTRIES:
                    return
                try:
                    if not entry.name.startswith(".") and entry.is_dir():
                        deeper.append(Path(entry.path))
                except OSError:
                    continue
        yield from deeper
        level = deeper
