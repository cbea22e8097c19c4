"""Read TOML files, and find them by name: the built-in ones and those of the user's working folder."""

from __future__ import annotations

import errno
import tomllib
from pathlib import Path
from typing import Any

from benchmark.errors import InputError, unknown

NOT_TOML = (ValueError, RecursionError)
"""What `tomllib` raises for damaged files: also for a number of many digits, and for deep nesting."""


def expanded(text: str, what: str = "") -> Path:
    """Return the path with `~` expanded. A shell does not always do it, e.g. in `make RESULTS='~/x'`.

    what: what names the path, for the error. Raises `InputError` for a home folder that does not exist, and
    for symbolic links that lead in a circle.
    """
    named = f"{what}: {text}" if what else text
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"{named}: no such home folder; give ~/..., or a path without ~") from None
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{named}: symbolic links that lead in a circle; give another path") from None
    return path


def toml_files(built_in: Path, user: Path) -> dict[str, Path]:
    """Return the TOML files of both folders, sorted by name. A built-in file hides a user's."""
    paths = [*user.glob("*.toml"), *built_in.glob("*.toml")]
    return dict(sorted((path.stem, path) for path in paths))


def find_toml(kind: str, name: str, built_in: Path, user: Path) -> Path:
    """Return the file `NAME.toml` of one of the folders, or `name` itself as a path if it ends in `.toml`.

    A user's file never replaces a built-in one silently: results of the same name would mean different
    things. Raises `InputError` if both folders have the name with different contents, and if neither has it.
    """
    if name.endswith(".toml"):
        path = expanded(name)
        if path.is_file():
            return path
        known = toml_files(built_in, user)
        raise InputError(f"no file {name}; allowed: the path of a {kind} file, or one of {', '.join(known)}")
    built_in_file, user_file = built_in / f"{name}.toml", user / f"{name}.toml"
    if not built_in_file.is_file() and not user_file.is_file():
        known = toml_files(built_in, user)
        raise unknown(kind, name, (*known, f"a path that ends in .toml, or write {user_file}"))
    if (
        built_in_file.is_file()
        and user_file.is_file()
        and built_in_file.read_bytes() != user_file.read_bytes()
    ):
        raise InputError(
            f"the {kind} {name} is built in, and {user_file} differs from it; "
            "rename that file, or give its path instead of the name"
        )
    return built_in_file if built_in_file.is_file() else user_file


def read_toml(path: Path, advice: str = "") -> dict[str, Any]:
    """Return the content of a file. Raises `InputError` if it cannot be read or is not TOML.

    advice: what to do about a file that is not TOML, for the error.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    except NOT_TOML as error:
        raise InputError("; ".join(filter(None, (f"{path} is not valid TOML: {error}", advice)))) from error
