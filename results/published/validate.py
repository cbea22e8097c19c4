"""Checks the registry: names, ranges, duplicates, sources, and that copied rows equal what they were copied from."""

from __future__ import annotations

import re
from pathlib import Path

from results.published.reader import HERE, METRICS, PublishedError, PublishedNumber, files, parse, rows

DATASETS = ("cifar100", "imagenet", "cifar10")
_SLUG = re.compile(r"[a-z0-9][a-z0-9+-]*")
_COPY = re.compile(r"copied from ([a-z0-9-]+)/([a-z0-9-]+)$")


def validate(folder: Path | None = None) -> list[str]:
    """One line a problem (`file:line: what`), [] if the registry is sound. folder: another one than this package's."""
    folder = folder or HERE
    problems: list[str] = []
    found: list[tuple[str, PublishedNumber]] = []
    for path in files(folder):
        try:
            for line, row in rows(path):
                try:
                    found.append((f"{path.relative_to(folder)}:{line}", parse(path, line, row)))
                except PublishedError as error:
                    problems.append(str(error))
        except PublishedError as error:
            problems.append(str(error))
    places: dict[tuple[str, ...], str] = {}
    values: dict[tuple[str, ...], float | None] = {}
    for where, x in found:
        problems += [f"{where}: {what}" for what in _of_one(x)]
        cell = (x.paper, x.table, x.dataset, x.metric, x.teacher, x.student, x.method)
        if cell in places and "second printed value" not in x.note:
            problems.append(f"{where}: the same cell as {places[cell]}")
        places.setdefault(cell, where)
        values.setdefault(cell, x.value)
    for where, x in found:
        if match := _COPY.search(x.origin):
            source = (match[1], match[2], x.dataset, x.metric, x.teacher, x.student, x.method)
            if source not in values:
                problems.append(f"{where}: {x.origin}, but that table has no such cell")
            elif values[source] != x.value:
                problems.append(f"{where}: {x.value} is {x.origin}, where it is {values[source]}")
    return problems


def _of_one(x: PublishedNumber) -> list[str]:
    problems = []
    if not _SLUG.fullmatch(x.paper) or not _SLUG.fullmatch(x.table):
        problems.append(f"paper/table '{x.paper}/{x.table}'; allowed: lower-case letters, digits, - and +")
    if x.dataset not in DATASETS:
        problems.append(f"dataset '{x.dataset}'; allowed: {', '.join(DATASETS)}")
    if x.metric not in METRICS:
        problems.append(f"metric '{x.metric}'; allowed: {', '.join(METRICS)}")
    if not x.teacher or not x.student or not x.method:
        problems.append("teacher, student or method is blank; allowed: names, none")
    if x.method != x.method.lower():
        problems.append(f"method '{x.method}'; allowed: lower case")
    if x.value is None and not x.note:
        problems.append("value is blank and no note says why")
    if x.value is not None and not 1 <= x.value <= 100:
        problems.append(f"value {x.value}; allowed: 1 to 100 percent")
    if x.std is not None and not 0 <= x.std <= 10:
        problems.append(f"std {x.std}; allowed: 0 to 10 percentage points")
    if x.n is not None and x.n < 1:
        problems.append(f"n {x.n}; allowed: 1 and more")
    if not x.source:
        problems.append("no source")
    if not x.origin:
        problems.append("no origin")
    if not 2010 <= x.year <= 2100:
        problems.append(f"year {x.year}; allowed: the year of the paper")
    return problems
