"""Which runs a user means by parts of their keys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.cli.selection import key_matches
from benchmark.errors import InputError
from results.store import Store, keys_with

MOST_FIELDS = 4
"""Settings that are named to tell a run from others."""


def named_keys(store: Store, names: Iterable[str], files: Sequence[str], every: bool = False) -> list[str]:
    """Return the keys that the names mean, each once.

    A name is a key, or a part of one that matches only one run; with `every`, it means all runs that match.
    files: a run must have one of them. Raises `InputError` for a name that matches none, or several.
    """
    if not every:
        return list(dict.fromkeys(find_key(store, name, files) for name in names))
    known = keys_with(store.folder, files)
    chosen: dict[str, None] = {}
    for name in names:
        matching = [key for key in known if key_matches(key, _key_part(name))]
        if not matching:
            raise InputError(
                f"'{name}' matches 0 runs of {store.folder}; allowed: keys, or parts of keys such as "
                f"{'; '.join(known[:3]) or 'none'}"
            )
        chosen.update(dict.fromkeys(matching))
    return list(chosen)


def matches(store: Store, name: str, files: Sequence[str]) -> bool:
    """Return whether a key, or a part of one, matches any run that has one of the files."""
    return any(key_matches(key, _key_part(name)) for key in keys_with(store.folder, files))


def _key_part(name: str) -> str:
    """Return what a user typed as it stands in a key: a pair as `T-S`, without slashes around it.

    Raises `InputError` for a name without anything else: `export / --all` would mean all runs.
    """
    part = name.strip().replace(":", "-").strip("/")
    if not part:
        raise InputError(f"the run '{name}' is empty; give a key, or a part of one; '*' means any run")
    return part


def find_key(store: Store, text: str, files: Sequence[str]) -> str:
    """Return the key of the only run that `text` matches, among those that have one of `files`.

    Raises `InputError` if none or several match.
    """
    text = _key_part(text)
    with contextlib.suppress(OSError):  # for example a loop of links, or too long a name
        if any((store.folder / text / name).exists() for name in files):
            return text
    keys = keys_with(store.folder, files)
    matching = [key for key in keys if key_matches(key, text)]
    if len(matching) > 1:
        apart = differences({key: _settings(store, key) for key in matching})
        candidates = "; ".join(f"{key} ({apart[key]})" for key in matching[:5])
        more = f"; and {len(matching) - 5} more" if len(matching) > 5 else ""
        raise InputError(
            f"'{text}' matches {len(matching)} runs; give a part of the key that matches one: "
            f"{candidates}{more}"
        )
    if not matching:
        examples = "; ".join(keys[:5]) or "none"
        raise InputError(
            f"'{text}' matches 0 runs; allowed: a key, or a part of it that matches one run, "
            f"such as {examples}"
        )
    return matching[0]


def _settings(store: Store, key: str) -> dict[str, Any] | None:
    """Return the settings of a run that has ended, as its record or its failure states them."""
    known = (store.record(key) or store.failure(key) or {}).get("settings")
    return known if isinstance(known, dict) else None


def differences(settings: Mapping[str, Mapping[str, Any] | None]) -> dict[str, str]:
    """Return by key what tells the settings of runs apart, as in `--set`: `kd.temperature=8`.

    Runs whose keys name different pairs, methods or seeds differ in those anyway.
    """
    flat = {key: dict(_flat(value)) for key, value in settings.items() if value is not None}
    fields = sorted({field for values in flat.values() for field in values})
    differing = [f for f in fields if len({repr(values.get(f)) for values in flat.values()}) > 1]
    texts = {}
    for key in settings:
        if key not in flat:
            texts[key] = "unfinished: its settings are not known"
        else:
            shown = [f"{f}={flat[key][f]}" for f in differing if f in flat[key]]
            more = f" and {len(shown) - MOST_FIELDS} more" if len(shown) > MOST_FIELDS else ""
            texts[key] = ", ".join(shown[:MOST_FIELDS]) + more or "the same settings"
    return texts


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the hyper-parameters in the notation of `--set`."""
    for name, value in _object(settings.get("recipe")).items():
        yield f"recipe.{name}", value
    method = _object(settings.get("method"))
    yield "ce", method.get("ce")
    for component, fields in _object(method.get("components")).items():
        for name, value in _object(fields).items():
            yield f"{component}.{name}", value


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def is_file_name(text: str) -> bool:
    """Return whether a user means a file rather than a run."""
    try:
        return Path(text).expanduser().is_file()
    except (OSError, RuntimeError):
        return False
