"""What `judge` shows beside the compared number: the cell's other results, and its records here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from results import imported_logs
from results.published import disagreements, errata_of
from results.published.reader import choose, teacher_weights
from results.published.schema import PublishedNumber
from tables.cells import number
from tables.judge_target import DATASET, REPRODUCTIONS
from tables.statistics import Sample


@dataclass(frozen=True)
class Result:
    """A result of the cell in the registry: a number, or several single runs from one source."""

    value: float
    std: float | None
    n: int | None
    rule: str
    published_in: str
    teacher_of: str
    """Whose checkpoint taught, "" if that is not known."""
    recipe: str
    source: str
    copies: tuple[str, ...] = ()
    """The tables that repeat it."""


@dataclass(frozen=True)
class Recorded:
    """Our records, or imported logs, of the cell with the same settings."""

    protocol: str
    profile: str
    origin: str
    n: int
    last: float
    best: float


def results_of(published: PublishedNumber) -> tuple[Result, tuple[Result, ...], tuple[str, ...]]:
    """Return the compared result, the other results of the cell, and the errata of them all.

    Copies of a result are no result. Single runs from one source are one.
    """
    frame = disagreements(published.teacher, published.student, published.method, DATASET)
    copies: dict[str, list[str]] = {}
    for row in frame[frame["copy"]].to_dict("records"):
        copies.setdefault(str(row["result"]), []).append(f"{row['paper']}/{row['table']}")
    numbers = choose(
        teacher=published.teacher,
        student=published.student,
        method=published.method,
        dataset=DATASET,
        metric="top1",
    )
    first = [x for x in numbers if x.value is not None and not _is_copy(frame, x)]
    main = _result([published], copies)
    groups: dict[tuple[str, ...], list[PublishedNumber]] = {}
    for x in first:
        if x.published_in != published.published_in:
            single = x.paper == REPRODUCTIONS and x.n == 1
            key = (x.source, x.rule, x.recipe) if single else (x.published_in, "", "")
            groups.setdefault(key, []).append(x)
    others = sorted((_result(g, copies) for g in groups.values()), key=lambda r: -r.value)
    rows = [e for x in [published, *first] for e in errata_of(x)]
    rows.sort(key=lambda e: not (e["method"] or e["student"]))  # those of a whole paper last
    errata = [f"{e['paper'] or 'any'}: {e['what']}" for e in rows]
    return main, tuple(others), tuple(dict.fromkeys(errata))


def _is_copy(frame: pd.DataFrame, x: PublishedNumber) -> bool:
    rows = frame[(frame["paper"] == x.paper) & (frame["table"] == x.table)]
    return bool(rows["copy"].all())


def _result(numbers: Sequence[PublishedNumber], copies: dict[str, list[str]]) -> Result:
    x = numbers[0]
    sample = Sample.of([y.value or 0.0 for y in numbers]) if len(numbers) > 1 else None
    return Result(
        value=sample.mean if sample else x.value or 0.0,
        std=sample.std if sample else x.std,
        n=sample.n if sample else x.n,
        rule=x.rule,
        published_in=x.published_in.removesuffix("-run-1") if sample else x.published_in,
        teacher_of=teacher_weights(x),
        recipe=x.recipe,
        source=x.source,
        copies=tuple(copies.get(x.published_in, ())),
    )


def recorded_of(records: pd.DataFrame) -> tuple[Recorded, ...]:
    """Return the finished records, averaged over the seeds that have the same settings."""
    groups: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for row in records.sort_values("key").to_dict("records"):
        last, best = number(row.get("top1_last")), number(row.get("top1_best"))
        if row.get("status") == "done" and last is not None and best is not None:
            key = tuple(str(row.get(k)) for k in ("protocol", "profile", "origin"))
            settings = "" if key[2] == imported_logs.ORIGIN else str(row.get("settings"))
            groups.setdefault((*key, settings), []).append((last, best))
    return tuple(
        Recorded(
            protocol=key[0],
            profile=key[1],
            origin=key[2],
            n=len(values),
            last=math.fsum(v for v, _ in values) / len(values),
            best=math.fsum(v for _, v in values) / len(values),
        )
        for key, values in sorted(groups.items())
    )
