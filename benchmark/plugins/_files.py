"""The files in the folders of KD_PLUGINS: find them, import them, and hash them."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TypeVar

from benchmark import torch_settings
from benchmark.errors import InputError
from benchmark.user_code import described, is_of_the_user_code
from benchmark.user_files import expanded

VARIABLES = ("KD_METHODS", "KD_PLUGINS")
"""The environment variables that list folders, in the order in which the folders are read."""

T = TypeVar("T")

_clear: list[Callable[[], None]] = []
"""What `clear_cache` calls."""

_PREFIX = "kd_methods_"
"""A user's file `mine.py` becomes the module `kd_methods_mine`."""


def folders_of(variable: str) -> list[Path]:
    """Return the folders that an environment variable lists. Raises `InputError` for the home of nobody."""
    return [expanded(p, variable) for p in os.environ.get(variable, "").split(os.pathsep) if p]


def folders() -> list[Path]:
    """Return the folders of all variables, each once."""
    return [folder for _, folder in _named_folders()]


def remark_if_none() -> str:
    """Return the end of an error about an unknown name: if no folder is listed, what may have to be set."""
    return "" if folders() else "; for names in your own files, set KD_PLUGINS to their folder"


def _named_folders() -> list[tuple[str, Path]]:
    """Return each folder once, with the variable that lists it."""
    named: dict[Path, tuple[str, Path]] = {}
    for variable in VARIABLES:
        for folder in folders_of(variable):
            named.setdefault(folder.absolute(), (variable, folder))
    return list(named.values())


def environment_variables(place: Callable[[int, Path], Path]) -> dict[str, str]:
    """Return the variables for a process that runs in another folder; {} if none is set.

    place: from the number of a folder, as in `folders`, and its path to its path for that process.
    """
    listed: dict[str, list[str]] = {}
    for number, (variable, folder) in enumerate(_named_folders()):
        listed.setdefault(variable, []).append(str(place(number, folder)))
    return {variable: os.pathsep.join(paths) for variable, paths in listed.items()}


def python_files(folder: Path) -> list[Path]:
    """Return the Python files of a folder that are imported, sorted."""
    return sorted(folder.glob("[!_]*.py"))


def toml_files() -> list[Path]:
    """Return the TOML files of all folders, sorted within each.

    Raises `InputError` for a folder that is missing or cannot be read.
    """
    return [path for _, folder in _existing() for path in sorted(folder.glob("[!_.]*.toml"))]


def _existing() -> list[tuple[str, Path]]:
    named = _named_folders()
    for variable, folder in named:
        if not folder.is_dir():
            holds = "method files (*.py)" if variable == "KD_METHODS" else "your files (*.py, *.toml)"
            raise InputError(f"{variable}: there is no folder {folder}; list folders that contain {holds}")
        try:
            os.listdir(folder)  # a glob of a folder that cannot be read is empty
        except OSError as error:
            raise InputError(f"{variable}: {folder} cannot be read ({error.strerror})") from error
    return named


def cached(function: Callable[[], T]) -> Callable[[], T]:
    """Return the function with its result remembered until `clear_cache`. For what is read from the files."""
    remembered = functools.cache(function)
    _clear.append(remembered.cache_clear)
    return remembered


@cached
def modules() -> Sequence[ModuleType]:
    """Import the Python files of all folders, and return their modules.

    Raises `InputError` for a folder that is missing or cannot be read, and for a file that fails.
    """
    return tuple(_import(variable, path) for variable, folder in _existing() for path in python_files(folder))


def clear_cache() -> None:
    """Forget what was read from the files, so that it is read again when it is next asked for."""
    for clear in _clear:
        clear()


def _import(variable: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{_PREFIX}{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # `@dataclass` looks up the module there if annotations are strings
    settings = torch_settings.read_settings(torch_settings.ALL)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # also of `sys.exit(0)`, after which a command would print nothing
        if not is_of_the_user_code(error):
            raise
        sys.modules.pop(spec.name, None)
        raise InputError(f"{variable}: {path} cannot be imported: {described(error)}") from error
    finally:
        changed = torch_settings.put_back(torch_settings.ALL, settings)
    if changed:
        sys.modules.pop(spec.name, None)
        raise InputError(
            f"{variable}: {path} leaves {'; '.join(changed)} changed when it is imported; remove "
            "that, because it would change the runs of all methods"
        )
    sys.modules[spec.name] = module  # in case the file replaced it
    return module


def source_hash(module: ModuleType) -> str:
    """Return a hash of the module's file and of the files in the folders that it imports."""
    within = [folder.resolve() for folder in folders()]
    seen, waiting = {module.__name__}, [module]
    digest = hashlib.sha256()
    while waiting:
        current = waiting.pop()
        digest.update(Path(str(current.__file__)).read_bytes())
        for name in sorted(_modules_used_by(current) - seen):
            seen.add(name)
            other = sys.modules.get(name)
            path = Path(getattr(other, "__file__", None) or "/").resolve()
            if other is not None and any(folder in path.parents for folder in within):
                waiting.append(other)
    return digest.hexdigest()[:10]


def _modules_used_by(module: ModuleType) -> set[str]:
    """Return the names of the modules that a module has imported, or has imported something from."""
    values = vars(module).values()
    imported = {value.__name__ for value in values if isinstance(value, ModuleType)}
    return imported | {value.__module__ for value in values if isinstance(value, (type, FunctionType))}
