"""The section `[measure]` of a table file: the table shows what is measured on its networks, not their top-1.

    [measure]
    name = "probe"                     a measure (benchmark/measures)
    targets = ["stl10"]                optional: the data sets to measure on (default: that of the training)
    quick_targets = ["photo-tiles"]    optional: those that profile `quick` takes in their place, as many
    epoch = "best"                     optional: measure the networks of the `last` or `best` epoch (default:
                                       the one that the row's protocol reports; `last` if it is not known)
    numbers = ["top1_last"]            optional: which of its numbers are shown (default: its headline)
    set = { protocol = "hsakd" }       optional: settings of the measure

Each row of the file becomes one row for each target and number. They are ranked, and compared with published
numbers, apart from each other: the data set of these is the target's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmark import data, measures
from benchmark.data.datasets import FAMILIES
from benchmark.errors import InputError, unknown
from benchmark.measures import MeasureSpec

EPOCHS = ("last", "best")

_FIELDS: Mapping[str, type] = {
    "name": str,
    "targets": list,
    "quick_targets": list,
    "epoch": str,
    "numbers": list,
    "set": dict,
}

Settings = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Measured:
    """What a row shows of the networks that it trains."""

    name: str
    """The measure."""

    target: str = ""
    """The data set that is measured on, "" for that of the training."""

    quick_target: str = ""
    """Stands in for `target` in profile `quick`; "" for that of the training."""

    epoch: str = ""
    """The epoch whose networks are measured, "" for the one that the row's protocol reports."""

    number: str = ""
    """The number that is shown, "" for the headline."""

    settings: Settings = ()
    """Settings of the measure, sorted by name."""

    @property
    def metric(self) -> str:
        """The metric of the shown number in `results/published`, "" if it has none."""
        spec = self.spec()
        return spec.measure.metric_of(spec.config, self.shown)

    @property
    def rule(self) -> str:
        """The epoch of the measurement that the shown number is of: `last` or `best`."""
        return self.spec().rule if self.metric or self.number in ("", self.spec().headline) else "last"

    @property
    def unit(self) -> str:
        """The unit of the shown number."""
        measure = measures.get(self.name)
        return measure.units.get(self.shown, measure.unit)

    @property
    def ranked(self) -> bool:
        """Whether a larger number is better."""
        return self.shown not in measures.get(self.name).unranked

    @property
    def shown(self) -> str:
        """The name of the number that is shown."""
        return self.number or self.spec().headline

    def spec(self, profile: str = "paper", dataset: str = "", overrides: Settings = ()) -> MeasureSpec:
        """Return the measure with its settings under a profile.

        dataset: the profile's, if it is not the table's. overrides: of all settings, those of this measure
        count.
        """
        measure = measures.get(self.name)
        of_profile = measure.profile_settings.get(profile, {})
        own = {k.partition(".")[2]: v for k, v in overrides if k.partition(".")[0] == self.name}
        settings = {**dict(self.settings), **of_profile, **own}
        return measures.parse(self.name, settings, self.quick_target if dataset else self.target)


def read(owner: str, raw: Mapping[str, Any]) -> tuple[Measured, ...]:
    """Return what a section `[measure]` asks to be shown of every row. Raises `InputError`.

    owner: the file's name, for messages.
    """
    for key, value in raw.items():
        if key not in _FIELDS:
            raise unknown(f"field in [measure] of {owner}:", key, _FIELDS)
        if not isinstance(value, _FIELDS[key]):
            raise InputError(
                f"{owner}: {key} = {value!r} in [measure] is not of type {_FIELDS[key].__name__}"
            )
    if "name" not in raw:
        raise InputError(f"{owner}: [measure] has no name; allowed: {', '.join(measures.names())}")
    targets, numbers = raw.get("targets", [""]), raw.get("numbers", [""])
    quick = raw.get("quick_targets", ["" for _ in targets])
    for field, values in (("targets", targets), ("quick_targets", quick), ("numbers", numbers)):
        if not values or not all(isinstance(v, str) for v in values):
            raise InputError(f"{owner}: {field} in [measure] must be names, at least one")
    if len(quick) != len(targets):
        raise InputError(
            f"{owner}: quick_targets in [measure] has {len(quick)} names, targets {len(targets)}"
        )
    if raw.get("epoch", "last") not in EPOCHS:
        raise InputError(f"{owner}: epoch = '{raw['epoch']}' in [measure]; allowed: {', '.join(EPOCHS)}")
    settings = raw.get("set", {})
    checked = sorted((k, measures.check_override(f"{raw['name']}.{k}", v)) for k, v in settings.items())
    shown = tuple(
        Measured(
            name=raw["name"],
            target=target,
            quick_target=quick_target,
            epoch=raw.get("epoch", ""),
            number=number,
            settings=tuple(checked),
        )
        for number in numbers
        for target, quick_target in zip(targets, quick, strict=True)
    )
    for measured in shown:
        measured.spec(), measured.spec(dataset="quick")
    return shown


def label(row_label: str, measured: Measured, shown: tuple[Measured, ...]) -> str:
    """Return the label of a row that shows one of several numbers or targets."""
    words = [row_label, *group(measured, shown)]
    return ", ".join(words)


def _title(target: str) -> str:
    """Return what a row calls its data set. A folder of images need not be there, so its name is taken."""
    if target.startswith(tuple(FAMILIES)):
        return target
    info = data.info(target)
    return info.title.removesuffix(f" at {info.size} pixels")


def group(measured: Measured, shown: tuple[Measured, ...]) -> list[str]:
    """Return the words that tell what is shown apart from the other numbers and targets of the table."""
    words = []
    if len({m.target for m in shown}) > 1:
        words.append(_title(measured.target))
    if len({m.number for m in shown}) > 1:
        words.append(measured.shown)
    return words
