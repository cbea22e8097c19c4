"""`teachers.toml` in a folder of KD_PLUGINS: which checkpoint teaches, by network, data set, pair and table.

    [[teachers]]
    network = "resnet56"
    dataset = "cifar100"
    file = "weights/resnet56.pth"      relative to the folder of teachers.toml
    pair = "resnet56:resnet20"         optional: only for this pair
    table = "mytable"                  optional: only in this table
    epoch = "best"                     optional: which epoch of its training it is, `last` (default) or `best`
    weights = "0f3c..."                optional: the hash that its weights must have (`teachers` prints it)

Of several entries that fit, the one with pair and table has precedence, then pair, then table. An entry has
precedence over TEACHERS=. A file is read when a run needs its teacher, and checked against network and
classes; the hash of its weights is part of the run's key.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import models
from benchmark import data, plugins
from benchmark.errors import InputError, unknown
from benchmark.spec.protocol_files import TEACHERS
from benchmark.spec.runs import TeacherRef, parse_pair
from benchmark.user_files import expanded, read_toml

FILE = f"{TEACHERS}.toml"

REQUIRED = ("network", "dataset", "file")
OPTIONAL = ("pair", "table", "epoch", "weights")


@dataclass(frozen=True)
class Entry:
    """A checkpoint, and the runs that it teaches."""

    where: str
    """The file and the number of the entry, for messages."""

    network: str
    dataset: str
    file: Path

    pair: str = ""
    """`teacher:student`, "" for every student."""

    table: str = ""
    """Name of a table, "" for every one."""

    epoch: str = "last"
    weights: str = ""

    def fits(self, *, dataset: str, network: str, student: str, table: str) -> bool:
        """Return whether the checkpoint teaches this student in this table."""
        return (
            (self.dataset, self.network) == (dataset, network)
            and self.pair in ("", f"{network}:{student}")
            and self.table in ("", table)
        )

    @property
    def rank(self) -> tuple[bool, bool]:
        return bool(self.pair), bool(self.table)

    def ref(self) -> TeacherRef:
        """Read the checkpoint. Raises `InputError` if it does not fit, or has other weights than stated."""
        return _read(self)


def choose(entries: Sequence[Entry], *, dataset: str, network: str, student: str, table: str) -> Entry | None:
    """Return the entry with the highest precedence that fits; None if none does."""
    fitting = [e for e in entries if e.fits(dataset=dataset, network=network, student=student, table=table)]
    return max(fitting, key=lambda e: e.rank, default=None)


@plugins.cached
def entries() -> tuple[Entry, ...]:
    """Return the entries of all files. Raises `InputError` for one that is wrong."""
    listed: dict[tuple[str, ...], Entry] = {}
    for path in plugins.toml_files():
        if path.stem != TEACHERS:
            continue
        for entry in _entries_of(path):
            key = (entry.network, entry.dataset, entry.pair, entry.table)
            if key in listed:
                raise InputError(f"{listed[key].where} and {entry.where} are for the same runs; keep one")
            listed[key] = entry
    return tuple(listed.values())


def _entries_of(path: Path) -> list[Entry]:
    values = read_toml(path)
    for key in values:
        if key != "teachers":
            raise unknown(f"field in {path}:", key, ("teachers",))
    raw = values.get("teachers", [])
    if not isinstance(raw, list) or not all(isinstance(e, dict) for e in raw):
        raise InputError(f"{path}: start every teacher with [[teachers]]")
    folder = path.parent.absolute()
    return [_entry(f"{path}, teacher {i}", e, folder) for i, e in enumerate(raw, start=1)]


def with_absolute_paths(path: Path) -> bytes:
    """Return a file's content for a copy of it in another folder. Raises `InputError` if it is wrong."""
    lines = []
    for entry in _entries_of(path):
        values = {name: str(getattr(entry, name)) for name in (*REQUIRED, *OPTIONAL) if getattr(entry, name)}
        lines += ["[[teachers]]", *(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in values.items())]
    return "".join(f"{line}\n" for line in lines).encode()


def _entry(where: str, values: dict[str, Any], folder: Path) -> Entry:
    for key, value in values.items():
        if key not in (*REQUIRED, *OPTIONAL):
            raise unknown(f"field in {where}:", key, (*REQUIRED, *OPTIONAL))
        if not isinstance(value, str) or not value or not value.isprintable():
            raise InputError(f"{where}: {key} = {value!r}; it must be text in one line")
    if missing := [key for key in REQUIRED if key not in values]:
        raise InputError(f"{where}: {missing[0]} is missing; required: {', '.join(REQUIRED)}")
    if values["network"] not in models.names():
        raise unknown(f"network in {where}:", values["network"], models.names())
    data.check_name(values["dataset"])
    if values.get("epoch", "last") not in ("last", "best"):
        raise InputError(f"{where}: epoch = {values['epoch']!r}; allowed: last, best")
    if "pair" in values and parse_pair(values["pair"])[0] != values["network"]:
        raise InputError(f"{where}: the teacher of pair {values['pair']} is not {values['network']}")
    return Entry(where=where, **{**values, "file": (folder / expanded(values["file"], where)).resolve()})


@functools.lru_cache(maxsize=64)
def _read(entry: Entry) -> TeacherRef:
    num_classes = data.info(entry.dataset).num_classes
    with torch.random.fork_rng(devices=[]):
        net = models.build(entry.network, num_classes)
    try:
        models.load_weights(net, entry.file)
    except models.WeightsError as error:
        raise InputError(f"{entry.where}: {error}") from error
    weights = models.weights_hash(net)
    if entry.weights and entry.weights != weights:
        raise InputError(
            f"{entry.where}: {entry.file} has the weights {weights}, not {entry.weights}; correct one of them"
        )
    return TeacherRef(entry.network, epoch=entry.epoch, weights=weights, path=str(entry.file))
