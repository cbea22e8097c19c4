"""One printed number, and the CSV files that hold them: columns, types, errors that say file and line."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent / "numbers"
RULES = ("last", "best", "unknown")
METRICS = ("top1", "top5")


class PublishedError(ValueError):
    """A file of the registry is wrong: one line with file, line, what is wrong and what is allowed."""


@dataclass(frozen=True)
class PublishedNumber:
    """One printed number.

    value, std: percent of the test set (value None: printed blank, N/A, or not to be had); n: runs behind it; epochs: length of
    the training (None where no source says it); rule: the epoch that was reported; origin: who ran it; recipe: how its training
    differs from the benchmark's ("" if nothing speaks against comparing); source: where it was read.
    """

    paper: str
    year: int | None
    table: str
    dataset: str
    metric: str
    teacher: str
    student: str
    method: str
    value: float | None
    std: float | None
    n: int | None
    epochs: int | None
    rule: str
    origin: str
    recipe: str
    source: str
    note: str

    @property
    def published_in(self) -> str:
        """The printed table that it stands in, as in `copied from PLACE`."""
        return f"{self.paper}/{self.table}"

    @property
    def cell(self) -> tuple[str, ...]:
        """What the number is of, whoever prints it."""
        return self.dataset, self.metric, self.teacher, self.student, self.method


COLUMNS = tuple(f.name for f in fields(PublishedNumber))
FLOATS, WHOLES = ("value", "std"), ("year", "n", "epochs")
ERRATA_COLUMNS = ("paper", "table", "teacher", "student", "method", "what", "source")


def table_files(folder: Path) -> list[Path]:
    """The tables of a folder, sorted (curves and errata are no tables)."""
    return sorted(
        p
        for p in folder.rglob("*.csv")
        if p.name != "errata.csv" and "curves" not in p.relative_to(folder).parts
    )


def read_rows(path: Path, columns: tuple[str, ...] = COLUMNS) -> Iterator[tuple[int, dict[str, str]]]:
    """`(line, row)` of one file, all text, stripped. Lines before the header that begin with # are comments.

    Raises `PublishedError` for columns that are not `columns`, a row of another length, and text that is not UTF-8.
    """
    try:
        # -sig: spreadsheets write a byte-order mark
        lines = io.StringIO(path.read_bytes().decode("utf-8-sig")).readlines()
    except UnicodeDecodeError as error:
        raise PublishedError(f"{path}:1: not UTF-8 ({error.reason}); allowed: a CSV file in UTF-8") from None
    comments = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    reader = csv.DictReader(lines[comments:], strict=True)
    allowed = f"allowed: {', '.join(columns)}"
    for wrong, names in (
        ("missing", [c for c in columns if c not in (reader.fieldnames or ())]),
        ("unknown", [c for c in reader.fieldnames or () if c not in columns]),
    ):
        if names:
            raise PublishedError(f"{path}:{comments + 1}: columns {wrong}: {', '.join(names)}; {allowed}")
    try:
        for row in reader:
            line = comments + reader.line_num
            if None in row or None in row.values():
                much = "more" if None in row else "fewer"
                raise PublishedError(
                    f"{path}:{line}: {much} fields than columns; allowed: {len(columns)}, text that holds a comma in double quotes"
                )
            yield line, {c: row[c].strip() for c in columns}
    except csv.Error as error:
        raise PublishedError(
            f"{path}:{comments + reader.line_num}: {error}; allowed: comma-separated fields"
        ) from None


def parse(path: Path, line: int, row: dict[str, str]) -> PublishedNumber:
    """A row with its types. Raises `PublishedError` for text that is no finite number, or an unknown rule."""
    typed: dict[str, Any] = dict(row)
    for name in (*FLOATS, *WHOLES):
        kind, allowed = (
            (float, "a number with a decimal point") if name in FLOATS else (int, "a whole number")
        )
        try:
            typed[name] = kind(row[name]) if row[name] else None
            if typed[name] is not None and not math.isfinite(typed[name]):
                raise ValueError
        except ValueError:
            raise PublishedError(
                f"{path}:{line}: {name} = '{row[name]}'; allowed: {allowed}, or blank"
            ) from None
    if row["rule"] not in RULES:
        raise PublishedError(f"{path}:{line}: rule = '{row['rule']}'; allowed: {', '.join(RULES)}")
    return PublishedNumber(**typed)
