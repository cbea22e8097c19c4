"""Reads the registry: every CSV below this folder, and below the folders named in KD_PUBLISHED."""

from __future__ import annotations

import csv
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).resolve().parent
RULES = ("last", "best", "unknown")
METRICS = ("top1", "top5")


class PublishedError(ValueError):
    """A file of the registry is wrong: one line with file, line, what is wrong and what is allowed."""


@dataclass(frozen=True)
class PublishedNumber:
    """One printed number. value, std: percent of the test set (None: printed blank, N/A, or not printed); n: runs behind it;
    rule: epoch that was reported; origin: who ran it; recipe: how its training differs from the benchmark's."""

    paper: str
    year: int
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


COLUMNS = tuple(f.name for f in fields(PublishedNumber))
_FLOATS, _WHOLES = ("value", "std"), ("year", "n", "epochs")


def folders() -> list[Path]:
    """This folder and those of KD_PUBLISHED (separated as PATH is)."""
    extra = [Path(p) for p in os.environ.get("KD_PUBLISHED", "").split(os.pathsep) if p]
    for folder in extra:
        if not folder.is_dir():
            raise PublishedError(f"KD_PUBLISHED: no folder {folder}; allowed: folders of CSV files")
    return [HERE, *extra]


def files(folder: Path) -> list[Path]:
    """The tables of a folder (curves and errata are no tables)."""
    return sorted(
        p for p in folder.rglob("*.csv") if p.name != "errata.csv" and "curves" not in p.relative_to(folder).parts
    )


def rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """`(line, row)` of one file, all text. `PublishedError` if its columns are not `COLUMNS`."""
    with path.open(encoding="utf-8", newline="") as f:
        reader = csv.DictReader(f)
        missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise PublishedError(f"{path}:1: columns missing: {', '.join(missing)}; allowed: {', '.join(COLUMNS)}")
        for row in reader:
            yield reader.line_num, {c: (row[c] or "").strip() for c in COLUMNS}


def parse(path: Path, line: int, row: dict[str, str]) -> PublishedNumber:
    """A row with its types; `PublishedError` for a text that is no number, or an unknown rule."""
    typed: dict[str, Any] = dict(row)
    for name in (*_FLOATS, *_WHOLES):
        kind = float if name in _FLOATS else int
        try:
            typed[name] = kind(row[name]) if row[name] else None
        except ValueError:
            raise PublishedError(
                f"{path}:{line}: {name} = '{row[name]}'; allowed: a {kind.__name__}, or blank"
            ) from None
    if typed["year"] is None:
        raise PublishedError(f"{path}:{line}: year is blank; allowed: the year of the paper")
    if row["rule"] not in RULES:
        raise PublishedError(f"{path}:{line}: rule = '{row['rule']}'; allowed: {', '.join(RULES)}")
    return PublishedNumber(**typed)


@functools.lru_cache(maxsize=8)
def _numbers(places: tuple[Path, ...]) -> tuple[PublishedNumber, ...]:
    return tuple(parse(path, line, row) for folder in places for path in files(folder) for line, row in rows(path))


def numbers() -> tuple[PublishedNumber, ...]:
    """All printed numbers, in the order of the files."""
    return _numbers(tuple(folders()))


def load() -> pd.DataFrame:
    """All printed numbers as a DataFrame with the columns `COLUMNS`."""
    kinds = {c: "float64" if c in _FLOATS else "Int64" if c in _WHOLES else "string" for c in COLUMNS}
    frame = pd.DataFrame([[getattr(x, c) for c in COLUMNS] for x in numbers()], columns=list(COLUMNS))
    return frame.astype(kinds)


def papers() -> tuple[str, ...]:
    return tuple(sorted({x.paper for x in numbers()}))


def tables(paper: str) -> tuple[str, ...]:
    return tuple(sorted({x.table for x in numbers() if x.paper == paper}))


def _chosen(**wanted: str | None) -> list[PublishedNumber]:
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
    """The printed numbers that fit all that is given; None fits everything."""
    frame = load()
    wanted = {"paper": paper, "table": table, "teacher": teacher, "student": student, "method": method}
    for name, w in {**wanted, "dataset": dataset, "metric": metric}.items():
        if w is not None:
            frame = frame[frame[name] == w]
    return frame.reset_index(drop=True)


def value(paper: str, table: str, teacher: str, student: str, method: str) -> PublishedNumber | None:
    """One printed top-1 on CIFAR-100, None if the table has no such cell."""
    wanted = {"paper": paper, "table": table, "teacher": teacher, "student": student, "method": method}
    found = _chosen(**wanted, dataset="cifar100", metric="top1")
    return found[0] if found else None


def is_copy(number: PublishedNumber) -> bool:
    """Whether somebody else ran it: a copy is no new evidence."""
    return number.origin.startswith(("copied", "second-hand", "derived"))


def disagreements(teacher: str, student: str, method: str, dataset: str = "cifar100") -> pd.DataFrame:
    """Every printed top-1 of a cell: columns of `COLUMNS` and `copy`. `.attrs` has `spread` (largest - smallest, percentage points)
    over all values and `spread_own` over those that their paper ran itself."""
    found = _chosen(teacher=teacher, student=student, method=method, dataset=dataset, metric="top1")
    found = [x for x in found if x.value is not None]
    frame = pd.DataFrame([[getattr(x, c) for c in COLUMNS] for x in found], columns=list(COLUMNS))
    frame["copy"] = [is_copy(x) for x in found]
    own = [x.value for x in found if not is_copy(x) and x.value is not None]
    every = [x.value for x in found if x.value is not None]
    frame.attrs["spread"] = max(every) - min(every) if every else 0.0
    frame.attrs["spread_own"] = max(own) - min(own) if own else 0.0
    return frame


@functools.cache
def errata() -> tuple[dict[str, str], ...]:
    """Known errata: paper, teacher, student, method (blank: any), what, source. Recorded here, not silently corrected in the tables."""
    with (HERE / "errata.csv").open(encoding="utf-8", newline="") as f:
        return tuple(csv.DictReader(f))


def format_cell(teacher: str, student: str, method: str, dataset: str = "cifar100") -> str:
    """The text of `published --pair T:S --method M`."""
    from tabulate import tabulate

    frame = disagreements(teacher, student, method, dataset)
    if frame.empty:
        return f"{teacher}:{student} {method} on {dataset}: no printed top-1"
    body = []
    for r in frame.to_dict("records"):
        std = "" if pd.isna(r["std"]) else f" ± {r['std']:g}"
        n = "" if pd.isna(r["n"]) else f"{int(r['n'])}"
        why = "; ".join(t for t in (r["recipe"], r["note"]) if t)
        body.append(
            [
                f"{r['paper']}/{r['table']}",
                f"{r['value']:g}{std}",
                n,
                r["rule"],
                r["origin"],
                why[:70],
                r["source"][:60],
            ]
        )
    text = tabulate(body, ["printed in", "top-1", "n", "epoch", "origin", "differs", "source"], disable_numparse=True)
    text += f"\nspread {frame.attrs['spread']:.2f} over {len(frame)} printed values"
    text += f", {frame.attrs['spread_own']:.2f} over the {int((~frame['copy']).sum())} that their paper ran itself (a copy is no new evidence)"
    for e in errata():
        fits = all(not e[k] or e[k] == v for k, v in (("teacher", teacher), ("student", student), ("method", method)))
        if fits and e["paper"] in set(frame["paper"]):
            text += f"\nerratum ({e['paper']}): {e['what']}"
    return text
