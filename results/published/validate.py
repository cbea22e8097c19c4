"""Checks the registry: names, ranges, duplicates, sources, and that copied rows equal what they were copied from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from results.published.evidence import ORIGINS, kind, named_place
from results.published.reader import folders
from results.published.schema import (
    ERRATA_COLUMNS,
    HERE,
    METRICS,
    PublishedError,
    PublishedNumber,
    parse,
    read_rows,
    table_files,
)

NETWORKS = (
    *(
        "resnet8",
        "resnet14",
        "resnet20",
        "resnet32",
        "resnet44",
        "resnet56",
        "resnet110",
        "resnet8x4",
        "resnet32x4",
    ),
    *("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2", "vgg8", "vgg11", "vgg13", "vgg16", "vgg19"),
    *("ResNet50", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet18", "ResNet34", "none"),
)
"""Names whose other spellings are mistakes. Other networks are free to be: a user's table may be of any."""
DATASETS = ("cifar100", "imagenet", "cifar10")

_SLUG = re.compile(r"[a-z0-9][a-z0-9+-]*")
_METHOD = re.compile(r"[a-z0-9][a-z0-9+*_-]*(\[[a-z0-9=./-]+\])?(\+[a-z0-9+*_-]+)?")
_NETWORK = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")

_Found = list[tuple[str, PublishedNumber]]


def validate(folder: Path | None = None) -> list[str]:
    """One line a problem (`file:line: what; allowed: ...`), [] if all is sound.

    folder: checks the tables of that folder alone; None checks the registry with all folders that were added to it. Copies may be of
    any table of the folder or the registry.
    """
    checked = folders() if folder is None else (Path(folder),)
    problems: list[str] = []
    found: _Found = []
    for place in checked:
        found += _read(place, problems)
    registry = found if folder is None else [*found, *_read(HERE, [])]
    values = {(x.published_in, *x.cell): x for _, x in reversed(registry)}
    for where, x in found:
        problems += [f"{where}: {what}" for what in (*_of_one(x), *_of_copy(x, values))]
    problems += _duplicates(found)
    problems += _top5_below_top1(found)
    for place in checked:
        problems += _of_errata(place, {x.paper for _, x in registry})
    return problems


def _read(folder: Path, problems: list[str]) -> _Found:
    """The numbers of a folder with their places; what cannot be read goes to `problems`."""
    found: _Found = []
    for path in table_files(folder):
        where = path.relative_to(folder) if folder == HERE else path
        try:
            for line, row in read_rows(path):
                try:
                    found.append((f"{where}:{line}", parse(path, line, row)))
                except PublishedError as error:
                    problems.append(str(error))
        except PublishedError as error:
            problems.append(str(error))
    return found


def _of_one(x: PublishedNumber) -> Iterator[str]:
    """What is wrong with a number by itself."""
    for column in ("paper", "table", "dataset"):
        text = getattr(x, column)
        if not _SLUG.fullmatch(text):
            yield f"{column} '{text}'; allowed: lower-case letters, digits, - and +"
    yield from _misspelt("dataset", x.dataset, DATASETS)
    if x.metric not in METRICS:
        yield f"metric '{x.metric}'; allowed: {', '.join(METRICS)}"
    for column in ("teacher", "student"):
        text = getattr(x, column)
        if not _NETWORK.fullmatch(text):
            yield f"{column} '{text}'; allowed: a network's name, or none"
        yield from _misspelt(column, text, NETWORKS)
    if x.student == "none":
        yield "student 'none'; allowed: a network's name"
    if not _METHOD.fullmatch(x.method):
        yield f"method '{x.method}'; allowed: lower case, a+b for a combination, [..] for a variant"
    if x.value is None and not x.note:
        yield "value is blank and no note says why"
    if x.value is not None and not 1 <= x.value <= 100:
        yield f"value {x.value}; allowed: 1 to 100 percent"
    if x.std is not None and not 0 <= x.std <= 10:
        yield f"std {x.std}; allowed: 0 to 10 percentage points"
    if x.std is not None and x.value is None:
        yield f"std {x.std} of a blank value; allowed: blank"
    if x.n is not None and not 1 <= x.n <= 1000:
        yield f"n {x.n}; allowed: 1 to 1000 runs"
    if x.epochs is not None and not 1 <= x.epochs <= 10000:
        yield f"epochs {x.epochs}; allowed: 1 to 10000, or blank"
    if x.year is None and not x.note:
        yield "year is blank and no note says why"
    if x.year is not None and not 2010 <= x.year <= 2100:
        yield f"year {x.year}; allowed: the year of the paper"
    if not x.source:
        yield "no source"
    if kind(x.origin) is None:
        yield f"origin '{x.origin}'; allowed: {ORIGINS}"


def _misspelt(column: str, text: str, known: tuple[str, ...]) -> Iterator[str]:
    """A name that differs from a known one by case, - or _ only."""
    plain = {re.sub(r"[-_ ]", "", k.lower()): k for k in known}
    meant = plain.get(re.sub(r"[-_ ]", "", text.lower()))
    if meant is not None and meant != text:
        yield f"{column} '{text}'; allowed: {meant}"


def _of_copy(x: PublishedNumber, values: dict[tuple[str, ...], PublishedNumber]) -> Iterator[str]:
    """Whether a copied number is what stands where it was copied from: value and reporting rule."""
    place = named_place(x.origin)
    if place is None:
        return
    original = values.get((place, *x.cell))
    if original is None:
        yield f"{x.origin}, but that table has no such cell"
    elif kind(x.origin) == "copy" and original.value != x.value:
        yield f"{x.value} is {x.origin}, where it is {original.value}"
    elif kind(x.origin) == "copy" and original.rule != x.rule:
        yield f"rule '{x.rule}' of a number that is {x.origin}; allowed: {original.rule}, the rule there"


def _duplicates(found: _Found) -> Iterator[str]:
    """Cells that a table has twice. A value may fill in the blank of another folder."""
    places: dict[tuple[str, ...], tuple[str, PublishedNumber]] = {}
    for where, x in found:
        first_where, first = places.setdefault((x.published_in, *x.cell), (where, x))
        fills_in = (
            first.value is None and x.value is not None and first_where.split(":")[0] != where.split(":")[0]
        )
        if first is not x and not fills_in:
            yield f"{where}: the same cell as {first_where}"


def _top5_below_top1(found: _Found) -> Iterator[str]:
    cells = {(x.published_in, *x.cell): x.value for _, x in found}
    for where, x in found:
        top5 = cells.get((x.published_in, x.dataset, "top5", *x.cell[2:]))
        if x.metric == "top1" and x.value is not None and top5 is not None and top5 < x.value:
            yield f"{where}: top1 {x.value} is above top5 {top5} of the same cell"


def _of_errata(folder: Path, papers: set[str]) -> Iterator[str]:
    path = folder / "errata.csv"
    if not path.is_file():
        return
    try:
        for line, row in read_rows(path, ERRATA_COLUMNS):
            if row["paper"] and row["paper"] not in papers:
                yield f"{path}:{line}: paper '{row['paper']}' has no table here"
            if not row["what"] or not row["source"]:
                yield f"{path}:{line}: what or source is blank"
    except PublishedError as error:
        yield str(error)
