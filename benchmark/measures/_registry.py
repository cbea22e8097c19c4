"""The registry of measures: finds the classes in this folder, and parses their settings."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import data
from benchmark.errors import InputError, unknown
from benchmark.measures.base import Measure, MeasureConfig
from benchmark.settings import coerce

_PACKAGE = __name__.rpartition(".")[0]


@dataclass(frozen=True)
class MeasureSpec:
    """A measure with its settings, and the data set that it is made on."""

    measure: type[Measure]
    config: MeasureConfig

    target: str = ""
    """A data set, "" for the one that the network was trained on."""

    @property
    def name(self) -> str:
        return self.measure.name

    @property
    def headline(self) -> str:
        """The name of the number that a table shows."""
        return self.measure.headline(self.config)

    @property
    def rule(self) -> str:
        """The epoch that the headline is of: `last` or `best`."""
        return self.measure.rule(self.config)

    def fields(self) -> dict[str, Any]:
        """Return the settings by name."""
        return dataclasses.asdict(self.config)

    def settings(self, dataset: str) -> dict[str, Any]:
        """Return all that decides the numbers besides network and seed, as plain JSON data.

        dataset: the one that the network was trained on.
        """
        target = data.info(self.target or dataset)
        return {
            "name": self.name,
            "revision": self.measure.revision,
            **self.fields(),
            "target": target.name,
            **({"target_data": target.identity} if target.identity else {}),
            **self.measure.constants(self.config, target.name),
        }

    def order(self) -> dict[str, Any]:
        """Return the measure as plain JSON data; `parse` restores it from these three values."""
        return {"name": self.name, "settings": self.fields(), "target": self.target}


def names() -> tuple[str, ...]:
    """Return the names of all measures, sorted."""
    return tuple(sorted(_registry()))


def get(name: str) -> type[Measure]:
    """Return the class of a measure. Raises `InputError` for an unknown name."""
    if name not in _registry():
        raise unknown("measure", name, names())
    return _registry()[name]


def check_override(key: str, value: Any) -> Any:
    """Return the checked value of a setting `MEASURE.FIELD`; a string is parsed. Raises `InputError`."""
    name, _, field_name = key.partition(".")
    fields = {f.name: f for f in dataclasses.fields(get(name).Config)}
    if field_name not in fields:
        raise unknown(f"setting of {name}", field_name, sorted(fields))
    field = fields[field_name]
    return coerce(key, value, type(field.default), field.metadata.get("allowed"))


def parse(name: str, settings: Mapping[str, Any] | None = None, target: str = "") -> MeasureSpec:
    """Return a measure with these settings (by field) on a data set. No file of it is looked at.

    Raises `InputError` for an unknown measure, setting or data set, and a wrong value.
    """
    measure = get(name)
    if target:
        data.check_name(target)
        if not measure.takes_target:
            raise InputError(f"measure {name} is made on the images of the training; leave the targets out")
    values = {key: check_override(f"{name}.{key}", value) for key, value in (settings or {}).items()}
    return MeasureSpec(measure, measure.Config(**values), target)


@functools.cache
def _registry() -> dict[str, type[Measure]]:
    found: dict[str, type[Measure]] = {}
    for entry in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if entry.name == "base" or entry.name.startswith("_"):
            continue
        module = importlib.import_module(f"{_PACKAGE}.{entry.name}")
        for value in vars(module).values():
            is_measure = isinstance(value, type) and issubclass(value, Measure) and value.name
            if is_measure and value.__module__ == module.__name__:
                file = Path(str(sys.modules[value.__module__].__file__))
                value.source = hashlib.sha256(file.read_bytes()).hexdigest()[:10]
                found[value.name] = value
    return found
