"""Protocols of the user's: `NAME.toml` in a folder of KD_PLUGINS.

    base = "crd"                       the protocol whose fields hold where the file gives none; optional
    title = "CRD's recipe, 480 epochs"
    epochs = 480                       every field of `Protocol` but its name (benchmark/spec/protocols.py)
    schedule = "cosine"
    warm_up = 10
    method_settings = { "kd.temperature" = 2.0 }

Without `base`, title, report and teacher_epoch are required. If the epochs are others than the base's and
no milestones are given, those of the base are scaled in proportion.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmark import data, plugins
from benchmark.errors import InputError, unknown
from benchmark.settings import scaled
from benchmark.user_files import read_toml

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    P = TypeVar("P", bound=DataclassInstance)

TEACHERS = "teachers"
"""The name of the file that is no protocol (benchmark/spec/teacher_table.py)."""

REQUIRED = ("title", "report", "teacher_epoch")
"""Fields that a protocol without `base` must give."""

WORDS: dict[str, tuple[str, ...]] = {
    "report": ("last", "best", "both"),
    "teacher_epoch": ("last", "best"),
    "schedule": ("step", "cosine"),
    "wrn_norms": ("once", "twice if read", "twice"),
    "augment": tuple(data.AUGMENTS),
}
"""The allowed values of the fields that are one of several words."""

RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 1_000_000),
    "batch_size": (2, 1_000_000),
    "warm_up": (0, 1_000_000),
    "decay": (0, 1),
    "lr": (0, 1e6),
    "lr_small": (0, 1e6),
    "momentum": (0, 0.999999),
    "weight_decay": (0, 1e6),
    "label_smoothing": (0, 1),
    "mixup": (0, 1e6),
}


def read_protocols(built_in: Mapping[str, P], kind: type[P]) -> dict[str, P]:
    """Return the protocols of all files by name. Raises `InputError` for a file that is wrong.

    kind: the class `Protocol`.
    """
    files: dict[str, Path] = {}
    for path in plugins.toml_files():
        name = path.stem
        if name == TEACHERS:
            continue
        if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise InputError(
                f"{path}: a protocol's name holds letters, digits, _ and - only; rename the file"
            )
        if name in built_in:
            raise InputError(f"{path}: the protocol {name} is built in; rename the file")
        if name in files:
            raise InputError(f"two protocols are called {name}: {files[name]} and {path}; rename one of them")
        files[name] = path
    protocols: dict[str, P] = {}
    for name, path in files.items():
        _read(name, path, files, {**built_in, **protocols}, protocols, kind, waiting=())
    return protocols


def _read(
    name: str,
    path: Path,
    files: Mapping[str, Path],
    known: Mapping[str, P],
    protocols: dict[str, P],
    kind: type[P],
    waiting: tuple[str, ...],
) -> None:
    """Read a file, and before it the file of its base, into `protocols`."""
    if name in protocols:
        return
    values = _toml(path)
    base = None
    if (base_name := values.pop("base", None)) is not None:
        if not isinstance(base_name, str):
            raise InputError(f"{path}: base = {base_name!r}; allowed: the name of a protocol")
        if base_name in waiting or base_name == name:
            raise InputError(f"{path}: base = '{base_name}' leads back to {name}; give a built-in protocol")
        if base_name in files:
            _read(base_name, files[base_name], files, known, protocols, kind, (*waiting, name))
        everything = {**known, **protocols}
        if base_name not in everything:
            raise unknown(f"protocol in {path}: base", base_name, everything)
        base = everything[base_name]
    protocols[name] = _protocol(name, path, values, base, kind, {*known, *files})


def _toml(path: Path) -> dict[str, Any]:
    values = read_toml(path)
    if "rows" in values:
        raise InputError(f"{path} is a table and no protocol; put it into tables/, or give its path to `run`")
    return values


def _protocol(
    name: str, path: Path, values: dict[str, Any], base: P | None, kind: type[P], names: set[str]
) -> P:
    fields = {f.name: f for f in dataclasses.fields(kind) if f.name != "name"}
    types = typing.get_type_hints(kind)
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise unknown(f"field in {path}:", key, ["base", *fields])
        given[key] = _checked(path, key, value, types[key])
    if base is None:
        for key in REQUIRED:
            if key not in given:
                raise InputError(f'{path}: {key} is missing; give it, or base = "crd" for what is not given')
        given.setdefault("teacher_protocol", name)
        make: Any = kind
        protocol = make(name=name, **given)
    else:
        protocol = dataclasses.replace(base, name=name, **given)
        if "milestones" not in given:
            epochs = [getattr(p, "epochs") for p in (protocol, base)]  # noqa: B009  (any dataclass)
            milestones = tuple(scaled(m, *epochs) for m in getattr(base, "milestones"))  # noqa: B009
            protocol = dataclasses.replace(protocol, milestones=milestones)
    _check_together(path, protocol, names)
    return protocol


def _checked(path: Path, key: str, value: Any, kind: Any) -> Any:
    """Return the value of a field in the field's type. Raises `InputError`."""

    def wrong(allowed: str) -> InputError:
        return InputError(f"{path}: {key} = {value!r}; allowed: {allowed}")

    if type(None) in (parts := typing.get_args(kind)):  # `float | None`: TOML has no None, so leave it out
        kind = next(part for part in parts if part is not type(None))
    if key == "method_settings":
        if not isinstance(value, dict):
            raise wrong('a table, such as { "kd.temperature" = 2.0 }')
        return tuple(sorted(value.items()))
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        length, part = (None, parts[0]) if parts[-1] is Ellipsis else (len(parts), parts[0])
        if not isinstance(value, list) or (length is not None and len(value) != length):
            raise wrong(f"a list of {length or 'any number of'} values")
        return tuple(_scalar(v, part, wrong) for v in value)
    value = _scalar(value, kind, wrong)
    if key in WORDS and value not in WORDS[key]:
        raise wrong(", ".join(WORDS[key]))
    if key in RANGES and not RANGES[key][0] <= value <= RANGES[key][1]:
        raise wrong(f"{RANGES[key][0]:g} to {RANGES[key][1]:g}")
    return value


def _scalar(value: Any, kind: Any, wrong: typing.Callable[[str], InputError]) -> Any:
    names = {int: "whole numbers", float: "numbers", str: "text in one line", bool: "true or false"}
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (isinstance(value, str) and not value.isprintable()):
        raise wrong(names[kind])
    if isinstance(value, float) and not -1e12 < value < 1e12:
        raise wrong("finite numbers")
    return value


def _check_together(path: Path, protocol: Any, names: set[str]) -> None:
    """Raise `InputError` for fields that do not fit together."""
    if protocol.teacher_protocol not in names:
        raise unknown(f"protocol in {path}: teacher_protocol", protocol.teacher_protocol, sorted(names))
    milestones = list(protocol.milestones)
    if milestones != sorted(set(milestones)) or not all(0 < m <= protocol.epochs for m in milestones):
        raise InputError(
            f"{path}: milestones = {milestones}; allowed: rising numbers from 1 to epochs = {protocol.epochs}"
        )
    if protocol.warm_up >= protocol.epochs:
        raise InputError(f"{path}: warm_up = {protocol.warm_up}; allowed: below epochs = {protocol.epochs}")
    if min(protocol.std) <= 0:
        raise InputError(f"{path}: std = {list(protocol.std)}; allowed: numbers above 0")
