"""Which runs a user means by parts of their keys."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmark.cli.logs import find_key
from benchmark.cli.selection import key_matches
from benchmark.errors import InputError
from results.store import Store, keys_with


def named_keys(store: Store, names: Iterable[str], files: tuple[str, ...], every: bool = False) -> list[str]:
    """Return the keys that the names mean, each once.

    A name is a key, or a part of one that matches only one run; with `every`, it means all runs that match.
    files: a run must have one of them. Raises `InputError` for a name that matches none, or several.
    """
    if not every:
        return list(dict.fromkeys(find_key(store, name, files) for name in names))
    known = keys_with(store.folder, files)
    chosen: dict[str, None] = {}
    for name in names:
        text = name.replace(":", "-").strip("/")
        matching = [key for key in known if key_matches(key, text)]
        if not matching:
            raise InputError(
                f"'{name}' matches 0 runs of {store.folder}; allowed: keys, or parts of keys such as "
                f"{'; '.join(known[:3]) or 'none'}"
            )
        chosen.update(dict.fromkeys(matching))
    return list(chosen)


def matches(store: Store, name: str, files: tuple[str, ...]) -> bool:
    """Return whether a key, or a part of one, matches any run that has one of the files."""
    text = name.replace(":", "-").strip("/")
    return any(key_matches(key, text) for key in keys_with(store.folder, files))


def is_file_name(text: str) -> bool:
    """Return whether a user means a file rather than a run."""
    try:
        return Path(text).expanduser().is_file()
    except (OSError, RuntimeError):
        return False
