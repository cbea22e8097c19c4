"""Reads the registry: every table below this folder, and below the folders that a user adds to it."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pandas as pd

from results.published.schema import (
    COLUMNS,
    ERRATA_COLUMNS,
    FLOATS,
    HERE,
    WHOLES,
    PublishedError,
    PublishedNumber,
    parse,
    read_rows,
    table_files,
)

VARIABLE = "KD_PUBLISHED"
_added: list[Path] = []
_Stamp = tuple[tuple[Path, int, int], ...]


def add_folder(path: str | os.PathLike[str]) -> None:
    """Adds a folder of tables to the registry, for this process. Raises `PublishedError` if there is none."""
    folder = _folder(str(path), "add_folder")
    if folder not in _added:
        _added.append(folder)


def folders() -> tuple[Path, ...]:
    """This folder, those of KD_PUBLISHED (separated as PATH is), and those of `add_folder`."""
    named = [_folder(p, VARIABLE) for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p]
    return tuple(dict.fromkeys((HERE, *named, *_added)))


def _folder(text: str, who: str) -> Path:
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise PublishedError(f"{who}: no folder {folder}; allowed: folders of CSV files")
    return folder.resolve()


def _stamp(paths: list[Path]) -> _Stamp:
    """Files with their times and sizes: what is cached by it is read again once a file has changed."""
    return tuple((p, p.stat().st_mtime_ns, p.stat().st_size) for p in paths)


def numbers() -> tuple[PublishedNumber, ...]:
    """All printed numbers, in the order of the files. A blank gives way to a value for the same cell of the same table in an added folder."""
    return _numbers(_tables_stamp())


def _tables_stamp() -> _Stamp:
    return _stamp([p for folder in folders() for p in table_files(folder)])


@functools.lru_cache(maxsize=4)
def _numbers(stamp: _Stamp) -> tuple[PublishedNumber, ...]:
    found = [parse(path, line, row) for path, _, _ in stamp for line, row in read_rows(path)]
    known = {(x.published_in, *x.cell) for x in found if x.value is not None}
    return tuple(x for x in found if x.value is not None or (x.published_in, *x.cell) not in known)


@functools.lru_cache(maxsize=4)
def _frame(stamp: _Stamp) -> pd.DataFrame:
    return as_frame(_numbers(stamp))


def as_frame(found: list[PublishedNumber] | tuple[PublishedNumber, ...]) -> pd.DataFrame:
    """Numbers as a DataFrame with the columns `COLUMNS`: floats, nullable whole numbers, strings."""
    kinds = {c: "float64" if c in FLOATS else "Int64" if c in WHOLES else "string" for c in COLUMNS}
    return pd.DataFrame([[getattr(x, c) for c in COLUMNS] for x in found], columns=list(COLUMNS)).astype(
        kinds
    )


def load() -> pd.DataFrame:
    """All printed numbers as a DataFrame with the columns `COLUMNS` (a copy: change it as you like)."""
    return _frame(_tables_stamp()).copy()


def papers() -> tuple[str, ...]:
    return tuple(sorted({x.paper for x in numbers()}))


def tables(paper: str) -> tuple[str, ...]:
    """The tables of a paper that are in the registry; none for a paper that is not."""
    return tuple(sorted({x.table for x in numbers() if x.paper == paper}))


def choose(**wanted: str | None) -> list[PublishedNumber]:
    """The numbers whose columns equal all that is given; None fits everything."""
    return [x for x in numbers() if all(w is None or getattr(x, k) == w for k, w in wanted.items())]


def cells(
    paper: str | None = None,
    table: str | None = None,
    teacher: str | None = None,
    student: str | None = None,
    method: str | None = None,
    dataset: str | None = "cifar100",
    metric: str | None = "top1",
) -> pd.DataFrame:
    """The printed numbers that fit all that is given, as a DataFrame; None fits everything."""
    wanted = {"paper": paper, "table": table, "teacher": teacher, "student": student, "method": method}
    return as_frame(choose(**wanted, dataset=dataset, metric=metric))


def value(
    paper: str,
    table: str,
    teacher: str,
    student: str,
    method: str,
    dataset: str = "cifar100",
    metric: str = "top1",
) -> PublishedNumber | None:
    """One printed number, None if the table has no such cell (a blank cell is a number whose `value` is None)."""
    wanted = {"paper": paper, "table": table, "teacher": teacher, "student": student, "method": method}
    found = choose(**wanted, dataset=dataset, metric=metric)
    return found[0] if found else None


def errata() -> tuple[dict[str, str], ...]:
    """What is known to be wrong or misleading in print, recorded and never silently corrected in the tables.

    Keys `ERRATA_COLUMNS`; a blank paper, table, teacher, student or method fits any.
    """
    found = [folder / "errata.csv" for folder in folders()]
    return _errata(_stamp([p for p in found if p.is_file()]))


@functools.lru_cache(maxsize=4)
def _errata(stamp: _Stamp) -> tuple[dict[str, str], ...]:
    return tuple(row for path, _, _ in stamp for _, row in read_rows(path, ERRATA_COLUMNS))


def errata_of(number: PublishedNumber) -> list[dict[str, str]]:
    """The errata that speak of a number."""
    own = {c: getattr(number, c) for c in ERRATA_COLUMNS[:5]}
    return [e for e in errata() if all(not e[c] or e[c] == w for c, w in own.items())]
