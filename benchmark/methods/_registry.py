"""The registry of methods: finds method files, checks the classes in them and returns them by name.

A method file is a module of this folder, or of a folder in the environment variables KD_PLUGINS and
KD_METHODS (benchmark/plugins), whose name does not start with an underscore. Every subclass of `Method` that
is defined in it and has a `name` is registered.

Users write methods too, so a class that is wrong is reported in one line before anything is trained.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from benchmark import plugins
from benchmark.data.samplers import Sampler
from benchmark.errors import InputError, unknown
from benchmark.methods._pairs import PROTOCOL, PairConstants
from benchmark.methods.base import Method, MethodConfig, Needs
from benchmark.user_code import described, is_of_the_user_code

PLAIN = "plain"
"""The name of training without a method, on the cross-entropy alone: plain students and teachers."""

RESERVED = (PLAIN, "teacher", "student", "none", "imported", "ce", "recipe", PROTOCOL)
"""Words that table rows, keys and settings use in place of a method's name. No method can be named so."""

_PACKAGE = __name__.rpartition(".")[0]

_ATTRIBUTE_TYPES: dict[str, type[Any]] = {
    "title": str,
    "formula": str,
    "paper": str,
    "bibtex": str,
    "at_test": str,
    "revision": int,
    "init_epochs": int,
    "trains_student": bool,
    "self_teacher": bool,
    "combined_defaults": Mapping,
    "pair_constants": tuple,
    "sampler": Sampler,
}
"""The type of each class attribute of a method."""

_RETURN_TYPES: dict[str, tuple[type[Any], ...]] = {
    "needs": (Needs,),
    "init_needs": (Needs,),
    "skip": (str, type(None)),
    "requires": (tuple, list),
    "pair_defaults": (Mapping,),
    "partner_defaults": (Mapping,),
    "schedule": (Mapping,),
    "weights": (Mapping,),
    "buffer_elements": (int,),
}
"""The types that each class method of a method may return."""


# --- finding methods ----------------------------------------------------------------------------------------


def names() -> tuple[str, ...]:
    """Return the names of all methods, sorted."""
    return tuple(sorted(_registry()))


def get(name: str) -> type[Method]:
    """Return the class of the method `name`. Raises `InputError` for an unknown name."""
    registry = _registry()
    if name == PLAIN:
        raise InputError(
            f"'{PLAIN}' is training without a method: it has no settings and no description; "
            f"allowed: {', '.join(names())}"
        )
    if name not in registry:
        raise unknown("method", name, names(), plugins.remark_if_none())
    return registry[name]


def clear_cache() -> None:
    """Forget all registered methods. The next call of `names` or `get` reads the folders again.

    Call it after KD_PLUGINS, KD_METHODS or a file in them has changed in a running process.
    """
    _registry.cache_clear()
    plugins.clear_cache()


def user_method_folders() -> list[Path]:
    """Return the folders that the environment variables KD_METHODS and KD_PLUGINS list."""
    return plugins.folders()


def is_user_method(method: type[Method]) -> bool:
    """Return whether the method is defined in a file of KD_PLUGINS or KD_METHODS."""
    return not method.__module__.startswith(f"{_PACKAGE}.")


@functools.cache
def _registry() -> dict[str, type[Method]]:
    methods: dict[str, type[Method]] = {}
    for module in [*_built_in_modules(), *plugins.modules()]:
        for method in _checked_methods(module):
            if method.name in methods:
                files = f"{_file(methods[method.name])} and {_file(method)}"
                raise InputError(f"two methods are called '{method.name}': {files}; rename one of them")
            methods[method.name] = method
    return methods


def _checked_methods(module: ModuleType) -> list[type[Method]]:
    """Return the methods of a module. Raises `InputError` for one that is wrong, or whose check fails."""
    try:
        methods = _methods_in(module)
        for method in methods:
            _check(method)
            method.source = hashlib.sha256(Path(_file(method)).read_bytes()).hexdigest()[:10]
    except InputError:
        raise
    except BaseException as error:  # a user's metaclass or property can raise anything
        if not is_of_the_user_code(error):
            raise
        raise InputError(f"{module.__spec__ and module.__spec__.origin}: {described(error)}") from error
    return methods


def _built_in_modules() -> list[ModuleType]:
    files = sorted(entry.name for entry in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return [
        importlib.import_module(f"{_PACKAGE}.{name}")
        for name in files
        if name != "base" and not name.startswith("_")
    ]


def _methods_in(module: ModuleType) -> list[type[Method]]:
    """Return the methods with a name that the module itself defines, without imported ones."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Method)
        and value.name
        and value.__module__ == module.__name__
    ]


def _file(method: type[Method]) -> str:
    return str(sys.modules[method.__module__].__file__)


# --- checking a class ---------------------------------------------------------------------------------------


def _check(method: type[Method]) -> None:
    """Raise an `InputError` that names the file if the class cannot be used as a method."""

    def error(attribute: str, value: object, requirement: str) -> InputError:
        return InputError(
            f"{_file(method)}: {attribute} of class {method.__name__} is {value!r}; {requirement}"
        )

    name = method.name
    if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise error(
            "name",
            name,
            "it must start with a lower-case letter and hold only lower-case letters, digits and _",
        )
    if name in RESERVED or hasattr(nn.ModuleDict(), name):  # `Objective` keeps its methods in a ModuleDict
        raise error(
            "name",
            name,
            f"this name is reserved, as are {', '.join(RESERVED)} and the attributes of nn.ModuleDict",
        )
    for attribute, kind in _ATTRIBUTE_TYPES.items():
        if not isinstance(getattr(method, attribute), kind):
            raise error(attribute, getattr(method, attribute), f"it must be of type {kind.__name__}")
    if not all(isinstance(table, PairConstants) for table in method.pair_constants):
        raise error("pair_constants", method.pair_constants, "it must be a tuple of PairConstants")
    for function in _RETURN_TYPES:
        if not inspect.ismethod(getattr(method, function)):
            raise error(
                function,
                getattr(method, function),
                "it must be a class method, because it is called before the method is built",
            )
    if not _is_config(method.Config):
        raise error(
            "Config",
            method.Config,
            "it must be a subclass of MethodConfig with the decorator @dataclass(frozen=True, kw_only=True)",
        )
    build_config(method)


def _is_config(value: Any) -> bool:
    if not (isinstance(value, type) and issubclass(value, MethodConfig)):
        return False
    # Without the decorator, the fields that `param` returned are still attributes of the class.
    return not any(isinstance(attribute, dataclasses.Field) for attribute in vars(value).values())


# --- calling a class ----------------------------------------------------------------------------------------


def build_config(method: type[Method], **values: Any) -> MethodConfig:
    """Return `method.Config(**values)`.

    Any error in it becomes an `InputError` that names method and file.
    """
    config = call_classmethod(method, "Config", **values)
    assert isinstance(config, MethodConfig)
    return config


def call_classmethod(method: type[Method], function: str, *args: Any, **values: Any) -> Any:
    """Call a class method of a method and return its result.

    An error in it, or a result of the wrong type, becomes an `InputError` of one line that names method and
    file.
    """
    where = f"{_file(method)}: {function} of method '{method.name}'"
    try:
        result = getattr(method, function)(*args, **values)
    except InputError:
        raise
    except BaseException as error:
        if not is_of_the_user_code(error):
            raise
        raise InputError(f"{where} raised {described(error)}") from error
    kinds = _RETURN_TYPES.get(function, (object,))
    if not isinstance(result, kinds):
        expected = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
        raise InputError(f"{where} returned {result!r}; it must return a value of type {expected}")
    return result
