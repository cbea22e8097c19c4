"""Read the registry: the tables that come with the project, and those in folders that a user adds."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from results.published.schema import (
    COLUMNS,
    ERRATA_COLUMNS,
    FLOATS,
    INTEGERS,
    NUMBERS,
    TEACHERS_COLUMNS,
    PublishedError,
    PublishedNumber,
    erratum_applies,
    parse,
    read_rows,
    table_files,
)

VARIABLE = "KD_PUBLISHED"
_added: list[Path] = []
Stamp = tuple[tuple[Path, int, int], ...]


def add_folder(path: str | os.PathLike[str]) -> None:
    """Add a folder of tables to the registry of this process.

    Raises `PublishedError` if it does not exist.
    """
    folder = _folder(str(path), "add_folder")
    if folder not in _added:
        _added.append(folder)


def folders() -> tuple[Path, ...]:
    """Return the folders of the registry.

    They are the project's, those in KD_PUBLISHED (separated as in PATH), and those of `add_folder`.
    """
    named = [_folder(p, VARIABLE) for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p]
    return tuple(dict.fromkeys((NUMBERS, *named, *_added)))


def _folder(text: str, named_by: str) -> Path:
    try:
        folder = Path(text).expanduser()
    except RuntimeError:
        raise PublishedError(f"{named_by}: {text}: no such home folder; name a folder of CSV files") from None
    if not folder.is_dir():
        raise PublishedError(f"{named_by}: there is no folder {folder}; name a folder of CSV files")
    return folder.resolve()


def stamp_of(paths: list[Path]) -> Stamp:
    """Return the files with their times and sizes.

    Used as a cache key, so that a changed file is read again.
    """
    return tuple((p, p.stat().st_mtime_ns, p.stat().st_size) for p in paths)


def numbers() -> tuple[PublishedNumber, ...]:
    """Return all published numbers, in the order of the files.

    A blank cell is replaced by the value that another folder has for the same cell of the same table.
    """
    return _numbers(_tables_stamp())


def _tables_stamp() -> Stamp:
    return stamp_of([p for folder in folders() for p in table_files(folder)])


def built_in() -> tuple[PublishedNumber, ...]:
    """Return the published numbers that come with the project."""
    return _numbers(stamp_of(table_files(NUMBERS)))


@functools.lru_cache(maxsize=4)
def _numbers(stamp: Stamp) -> tuple[PublishedNumber, ...]:
    every = [parse(path, line, row) for path, _, _ in stamp for line, row in read_rows(path)]
    with_value = {(x.published_in, *x.cell) for x in every if x.value is not None}
    return tuple(x for x in every if x.value is not None or (x.published_in, *x.cell) not in with_value)


@functools.lru_cache(maxsize=4)
def _frame(stamp: Stamp) -> pd.DataFrame:
    return as_frame(_numbers(stamp))


def as_frame(chosen: Sequence[PublishedNumber]) -> pd.DataFrame:
    """Return numbers as a DataFrame with the columns `COLUMNS`: floats, nullable integers, strings."""
    types = {c: "float64" if c in FLOATS else "Int64" if c in INTEGERS else "string" for c in COLUMNS}
    rows = [[getattr(x, c) for c in COLUMNS] for x in chosen]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(types)


def load() -> pd.DataFrame:
    """Return all published numbers as a DataFrame with the columns `COLUMNS`.

    The frame is a copy, which the caller may change.
    """
    return _frame(_tables_stamp()).copy()


def papers() -> tuple[str, ...]:
    """Return the papers of the registry, sorted."""
    return tuple(sorted({x.paper for x in numbers()}))


def tables(paper: str) -> tuple[str, ...]:
    """Return the tables that the registry has of a paper, sorted; none for an unknown paper."""
    return tuple(sorted({x.table for x in numbers() if x.paper == paper}))


def choose(**wanted: str | None) -> list[PublishedNumber]:
    """Return the numbers whose columns equal all the given values; None matches everything."""
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
    """Return the published numbers that match all the given values; None matches everything."""
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
    """Return one published number, None if the table has no such cell.

    For a blank cell the number's `value` is None.
    """
    wanted = {"paper": paper, "table": table, "teacher": teacher, "student": student, "method": method}
    return next(iter(choose(**wanted, dataset=dataset, metric=metric)), None)


def errata() -> tuple[dict[str, str], ...]:
    """Return the known errors and misleading statements of the papers.

    The tables of the registry keep the published digits. The keys are `ERRATA_COLUMNS`. A blank paper, table,
    teacher, student or method matches any.
    """
    files = [folder / "errata.csv" for folder in folders()]
    return _errata(stamp_of([p for p in files if p.is_file()]))


@functools.lru_cache(maxsize=4)
def _errata(stamp: Stamp) -> tuple[dict[str, str], ...]:
    return tuple(row for path, _, _ in stamp for _, row in read_rows(path, ERRATA_COLUMNS))


def errata_of(number: PublishedNumber) -> list[dict[str, str]]:
    """Return the errata that are about a number."""
    return [e for e in errata() if erratum_applies(e, number)]


def teacher_weights(number: PublishedNumber) -> str:
    """Return whose checkpoint taught the students behind a number, "" if that is not known.

    The answer is the name of the paper that trained and released the checkpoint. For a copy it is the one of
    the original.
    """
    if number.method == "student":
        return ""
    paper, _, table = (number.copied_from or number.published_in).partition("/")
    wanted = {"paper": paper, "table": table, "teacher": number.teacher}
    for row in _teachers(stamp_of([p for f in folders() if (p := f / "teachers.csv").is_file()])):
        if all(not row[column] or row[column] == value for column, value in wanted.items()):
            return row["weights"]
    return ""


@functools.lru_cache(maxsize=4)
def _teachers(files: Stamp) -> tuple[dict[str, str], ...]:
    """Return the rows of the files, those that name a table and a teacher before more general ones."""
    rows = [row for path, _, _ in files for _, row in read_rows(path, TEACHERS_COLUMNS)]
    return tuple(sorted(rows, key=lambda row: (not row["table"], not row["teacher"])))
