"""Walk a tree of folders that may contain links, loops of links, and folders that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk(folder: Path | str, problems: list[str]) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield `(path, entries)` of a folder and of all folders below it, in no particular order.

    The entries are everything in the folder, with its sub-folders. Hidden folders (`.slurm`) are not entered,
    links to folders are.

    problems: gets a line for each folder that is not entered because it cannot be read or is a loop of links.
    """
    stack = [str(folder)]
    while stack:
        path = stack.pop()
        try:
            with os.scandir(path) as scan:
                entries = list(scan)
        except (FileNotFoundError, NotADirectoryError):  # removed meanwhile
            continue
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror}); skipped")
            continue
        for entry in tuple(entries):
            if entry.name.startswith("."):
                continue
            try:
                if not entry.is_dir():
                    continue
                loop = entry.is_symlink() and _is_above(entry.path, path, str(folder))
            except OSError as error:
                problems.append(f"{entry.path}: cannot be read ({error.strerror}); skipped")
                entries.remove(entry)
                continue
            if loop:
                problems.append(f"{entry.path}: a link to a folder that it is in; skipped")
            else:
                stack.append(entry.path)
        yield path, entries


def _is_above(link: str, path: str, top: str) -> bool:
    """Return whether a link leads to a folder on the way from `top` down to `path`."""
    while True:
        if os.path.samefile(link, path):
            return True
        if path == top:
            return False
        path = os.path.dirname(path)
