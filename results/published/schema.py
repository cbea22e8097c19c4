"""One published number, and the format of the CSV files that hold them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

NUMBERS = Path(__file__).resolve().parent / "numbers"
"""The tables that come with the project."""

RULES = ("last", "best", "unknown")
METRIC_WORDS = {
    "top1": "top-1",
    "top5": "top-5",
    "probe_top1": "top-1 of a linear probe,",
    "probe_top5": "top-5 of a linear probe,",
    "knn_top1": "top-1 of the nearest neighbours,",
}
METRICS = tuple(METRIC_WORDS)


class PublishedError(ValueError):
    """A file of the registry is faulty.

    The message is one line: file, line, what is wrong, what to write instead.
    """


class OriginKind(StrEnum):
    """Who ran the trainings behind a published number, in order of evidence, the best first."""

    RUN = "run"
    """The paper that publishes the number."""
    SECOND_HAND = "second-hand"
    """The number was read where somebody quotes it, not in the original."""
    DERIVED = "derived"
    """No one: the number was calculated from other published numbers."""
    UNKNOWN = "unknown"
    """The source does not say."""
    COPY = "copy"
    """Another paper, in a table that is also in the registry."""
    PART = "part"
    """The number is one run, or another epoch, of a result in another table of the registry."""


class Origin(NamedTuple):
    """The parts of the column `origin`."""

    kind: OriginKind | None
    """None for a text that does not begin with a known kind."""
    table: str
    """The PAPER/TABLE that a copy or a part comes from, "" for other kinds."""


ORIGINS = (
    "run by ..., copied from PAPER/TABLE, derived: ..., second-hand: ..., unknown: ..., part of PAPER/TABLE"
)
_BEGINNINGS = {
    "run by ": OriginKind.RUN,
    "copied from ": OriginKind.COPY,
    "derived: copied from ": OriginKind.COPY,
    "derived: ": OriginKind.DERIVED,
    "second-hand: ": OriginKind.SECOND_HAND,
    "unknown: ": OriginKind.UNKNOWN,
    "part of ": OriginKind.PART,
}


def parse_origin(text: str) -> Origin:
    """Split the column `origin` into its kind and table."""
    for beginning, kind in _BEGINNINGS.items():
        if text.startswith(beginning):
            has_table = kind in (OriginKind.COPY, OriginKind.PART)
            table = text.removeprefix(beginning).split(":")[0].strip() if has_table else ""
            return Origin(kind, table)
    return Origin(None, "")


@dataclass(frozen=True)
class PublishedNumber:
    """One number of a published table, with its provenance. The fields are the columns of the CSV files."""

    paper: str
    year: int | None
    table: str
    dataset: str
    metric: str
    teacher: str
    student: str
    method: str
    value: float | None
    """Percent of the test set. None: the table has a blank or N/A here, or the number could not be
    obtained.
    """
    std: float | None
    n: int | None
    """Number of runs behind `value`."""
    epochs: int | None
    """Length of the training. None where no source says it."""
    rule: str
    """The epoch that was reported, one of `RULES`."""
    origin: str
    """Who ran the trainings, in one of the forms of `ORIGINS`."""
    recipe: str
    """How the training differs from the benchmark's, "" if no difference is known."""
    source: str
    """Where the number was read."""
    note: str

    @property
    def published_in(self) -> str:
        """The published table as PAPER/TABLE."""
        return f"{self.paper}/{self.table}"

    @property
    def cell(self) -> tuple[str, ...]:
        """What was measured, whichever paper publishes it."""
        return self.dataset, self.metric, self.teacher, self.student, self.method

    @cached_property
    def origin_kind(self) -> OriginKind | None:
        """Who ran the trainings; None if `origin` does not begin with a known kind."""
        return parse_origin(self.origin).kind

    @cached_property
    def copied_from(self) -> str:
        """The PAPER/TABLE that a copy or a part comes from, "" for other kinds."""
        return parse_origin(self.origin).table


COLUMNS = tuple(f.name for f in fields(PublishedNumber))
FLOATS, INTEGERS = ("value", "std"), ("year", "n", "epochs")
ERRATA_COLUMNS = ("paper", "table", "teacher", "student", "method", "what", "source")
ERRATA_KEYS = ERRATA_COLUMNS[:5]
"""The columns of an erratum that say which numbers it is about; blank means any."""


TEACHERS_COLUMNS = ("paper", "table", "teacher", "weights", "source")
"""The columns of `teachers.csv`: whose checkpoint taught. Blank table or teacher: all of the paper's."""

NOT_TABLES = ("errata.csv", "teachers.csv", "checkpoints.csv")


def erratum_applies(erratum: Mapping[str, str], number: PublishedNumber) -> bool:
    """Whether an erratum is about a number."""
    return all(not erratum[c] or erratum[c] == getattr(number, c) for c in ERRATA_KEYS)


def table_files(folder: Path) -> list[Path]:
    """Return the table files below a folder, sorted: all but errata, teachers, checkpoints and curves."""
    return sorted(
        p
        for p in folder.rglob("*.csv")
        if p.name not in NOT_TABLES and "curves" not in p.relative_to(folder).parts
    )


def read_rows(path: Path, columns: tuple[str, ...] = COLUMNS) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield `(line number, row)` of one file; the values are stripped text.

    Lines before the header may be # comments.

    Raises `PublishedError` for missing or unknown columns, a row of another length, and text that is not
    UTF-8.
    """
    try:
        # -sig: spreadsheets write a byte-order mark
        lines = io.StringIO(path.read_bytes().decode("utf-8-sig")).readlines()
    except UnicodeDecodeError as error:
        raise PublishedError(f"{path}:1: not UTF-8 ({error.reason}); save the file as UTF-8") from None
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
                more_or_fewer = "more" if None in row else "fewer"
                raise PublishedError(
                    f"{path}:{line}: {more_or_fewer} fields than the {len(columns)} columns; "
                    "put text that contains a comma in double quotes"
                )
            yield line, {c: row[c].strip() for c in columns}
    except csv.Error as error:
        raise PublishedError(
            f"{path}:{comments + reader.line_num}: not comma-separated values ({error})"
        ) from None


# Python's float and int also read 7_3.3, 1e2, nan and digits of other scripts.
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


def parse(path: Path, line: int, row: dict[str, str]) -> PublishedNumber:
    """Convert a row to its types.

    Raises `PublishedError` for text that is not a finite number, or an unknown rule.
    """
    typed: dict[str, Any] = dict(row)
    for name in (*FLOATS, *INTEGERS):
        convert, form, allowed = (
            (float, _DECIMAL, "a number with a decimal point")
            if name in FLOATS
            else (int, _WHOLE, "a whole number")
        )
        if row[name] and not form.fullmatch(row[name]):
            raise PublishedError(f"{path}:{line}: {name} = '{row[name]}'; allowed: {allowed}, or blank")
        typed[name] = convert(row[name]) if row[name] else None
    if row["rule"] not in RULES:
        raise PublishedError(f"{path}:{line}: rule = '{row['rule']}'; allowed: {', '.join(RULES)}")
    return PublishedNumber(**typed)
