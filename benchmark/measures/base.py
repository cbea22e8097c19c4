"""What a measure is. Read this file and `knn.py` to write one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from benchmark import data
from models import Network


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """The settings of a measure. Subclasses add fields with `param`; values are JSON scalars.

    `__post_init__` raises `InputError` for a value that means nothing, before anything is trained.
    """


@dataclass(frozen=True)
class MeasureContext:
    """All that a measure may know about its run."""

    net: Network
    """The network, on `device`, in eval mode and without gradients. It was loaded for this run alone."""

    dataset: str
    """The data set that the network was trained on."""

    mean: data.Channels
    """Mean that normalised the images which the network was trained on, by channel, in 0..1."""

    std: data.Channels
    """The standard deviation that did."""

    target: str
    """The data set to measure on; that of the training, if the table names none."""

    load: Callable[[str], data.Dataset]
    """Loads a data set by name, on the CPU."""

    seed: int
    """Seed of the run: that of the training which is measured. Derive others with `seeds.seed_of`."""

    device: torch.device

    folder: Path
    """The run's folder, for files beside the record (pictures, arrays)."""

    saved: Mapping[str, Any] | None = None
    """What `save` was last given by an interrupted process with the same network and settings; None at the
    beginning."""

    save: Callable[[Mapping[str, Any]], None] = lambda state: None
    """Stores tensors and plain values to resume from. Replaces what was stored before."""

    progress: Callable[[int, int], None] = lambda done, total: None
    """Tells how much is done: `progress(done, total)`. Cheap; call it after each step of the work."""

    artifacts: list[str] = field(default_factory=list)
    """Names of the files in `folder` that the measure has written and that belong to its result."""


class Measure:
    """A measure. Subclasses with a `name` are found by their being in this folder."""

    name: ClassVar[str] = ""
    """Lower case, as in table files, keys and settings (`NAME.FIELD`)."""

    title: ClassVar[str] = ""
    """What it is called in tables."""

    paper: ClassVar[str] = ""
    """Where it comes from."""

    metric: ClassVar[str] = ""
    """The metric of its headline in `results/published`; "" if nothing is published."""

    unit: ClassVar[str] = "%"
    """The unit of its headline."""

    units: ClassVar[Mapping[str, str]] = {}
    """Units of the numbers that have another one than the headline."""

    unranked: ClassVar[frozenset[str]] = frozenset()
    """Names of numbers of which neither a large nor a small one is better: no row of a table is the best."""

    revision: ClassVar[int] = 1
    """Part of the key. Raised when a correction makes older records invalid."""

    source: ClassVar[str] = ""
    """Hash of the file that defines the measure; set by the registry."""

    takes_target: ClassVar[bool] = True
    """Whether it may be measured on another data set than the network was trained on."""

    Config: ClassVar[type[MeasureConfig]] = MeasureConfig

    profile_settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Settings by profile, in place of those of the table: `{"quick": {"epochs": 2}}`."""

    @classmethod
    def constants(cls, config: Any, target: str) -> dict[str, Any]:
        """Return what else decides the numbers and belongs in the key: constants of a named protocol."""
        return {}

    @classmethod
    def headline(cls, config: Any) -> str:
        """Return the name of the number that a table shows and compares."""
        raise NotImplementedError

    @classmethod
    def metric_of(cls, config: Any, number: str) -> str:
        """Return the metric of one of its numbers in `results/published`, "" if nothing is published."""
        return cls.metric if number == cls.headline(config) else ""

    @classmethod
    def rule(cls, config: Any) -> str:
        """Return which epoch the headline is of: `best` if it was chosen on the test set, else `last`."""
        return "last"

    @classmethod
    def remark(cls, numbers: Mapping[str, float]) -> str:
        """Return what a table must say about a network with these numbers, "" for nothing."""
        return ""

    @classmethod
    def passes(cls, config: Any, train: int, test: int) -> float:
        """Return the number of images that pass through the network forwards, for the cost model.

        train, test: sizes of the target data set. A backward pass counts as two.
        """
        return float(train + test)

    @classmethod
    def run(cls, config: Any, context: MeasureContext) -> dict[str, float]:
        """Measure the network and return the numbers by name. They must be finite.

        An error ends this run alone. The message of an `InputError` is shown as it is.
        """
        raise NotImplementedError
