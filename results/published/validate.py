"""Check the registry: names, ranges, duplicates, sources, and that copies equal their originals."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from results.published import spelling
from results.published.reader import built_in, folders
from results.published.schema import (
    ERRATA_COLUMNS,
    METRICS,
    NUMBERS,
    ORIGINS,
    TEACHERS_COLUMNS,
    OriginKind,
    PublishedError,
    PublishedNumber,
    parse,
    read_rows,
    table_files,
)

NETWORKS = (
    *("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    *("resnet8x4", "resnet32x4", "wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"),
    *("vgg8", "vgg11", "vgg13", "vgg16", "vgg19"),
    *("ResNet50", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet18", "ResNet34", "none"),
)
"""Networks whose names are checked for other spellings. Any other network is allowed."""

DATASETS = ("cifar100", "imagenet", "cifar10")

_SLUG = re.compile(r"[a-z0-9][a-z0-9+-]*")
_METHOD = re.compile(r"[a-z0-9][a-z0-9+*_-]*(\[[a-z0-9=./-]+\])?(\+[a-z0-9+*_-]+)?")
_NETWORK = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")


class _Line(NamedTuple):
    """A line of a file, shown as `file:line`."""

    file: Path
    number: int

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


_Located = list[tuple[_Line, PublishedNumber]]


def validate(folder: Path | None = None, known: Collection[str] = ()) -> list[str]:
    """Return one line a problem (`file:line: what; allowed: ...`), [] if there is none.

    folder: check only the tables of this folder. None: check the registry with all folders that were added to
    it. A row may be a copy from any table of the folder or the registry. known: names of networks and methods
    that are right besides those of the project's own tables.
    """
    checked = folders() if folder is None else (Path(folder),)
    problems: list[str] = []
    numbers: _Located = []
    for each in checked:
        numbers += _read(each, problems)
    registry = numbers if folder is None else [*numbers, *_read(NUMBERS, [])]
    by_cell = {(x.published_in, *x.cell): x for _, x in reversed(registry)}
    right = {*known, *(name for x in built_in() for name in (x.teacher, x.student, x.method))}
    for line, x in numbers:
        problems += [f"{line}: {what}" for what in _of_names(x, right)]
        problems += [f"{line}: {what}" for what in (*_of_one(x), *_of_copy(x, by_cell))]
    problems += _duplicates(numbers)
    problems += _top5_below_top1(numbers)
    for each in checked:
        papers = {x.paper for _, x in registry}
        problems += _of_errata(each, papers)
        problems += _of_teachers(each, papers)
    return problems


def _read(folder: Path, problems: list[str]) -> _Located:
    """Return the numbers of a folder with their lines. What cannot be read is added to `problems`."""
    numbers: _Located = []
    for path in table_files(folder):
        shown = path.relative_to(folder) if folder == NUMBERS else path
        try:
            for line, row in read_rows(path):
                try:
                    numbers.append((_Line(shown, line), parse(path, line, row)))
                except PublishedError as error:
                    problems.append(str(error))
        except PublishedError as error:
            problems.append(str(error))
    return numbers


def _of_one(x: PublishedNumber) -> Iterator[str]:
    """Yield what is wrong with a number by itself."""
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
        yield "value is blank and the note is too; say in the note why there is no value"
    if x.value is not None and not 1 <= x.value <= 100:
        yield f"value {x.value}; allowed: 1 to 100 percent"
    if x.std is not None and not 0 <= x.std <= 10:
        yield f"std {x.std}; allowed: 0 to 10 percentage points"
    if x.std is not None and x.value is None:
        yield f"std {x.std} of a blank value; leave it blank"
    if x.n is not None and not 1 <= x.n <= 1000:
        yield f"n {x.n}; allowed: 1 to 1000 runs"
    if x.epochs is not None and not 1 <= x.epochs <= 10000:
        yield f"epochs {x.epochs}; allowed: 1 to 10000, or blank"
    if x.year is None and not x.note:
        yield "year is blank and the note is too; say in the note why there is no year"
    if x.year is not None and not 2010 <= x.year <= 2100:
        yield f"year {x.year}; allowed: 2010 to 2100"
    if not x.source:
        yield "source is blank; say where the number was read"
    if x.origin_kind is None:
        yield f"origin '{x.origin}'; allowed: {ORIGINS}"


def _of_names(x: PublishedNumber, right: Collection[str]) -> Iterator[str]:
    """Yield the names of a number that are other spellings of names here: no cell takes the number."""
    for column in ("teacher", "student"):
        text = getattr(x, column)
        meant = "" if text in right else spelling.network(text, NETWORKS)
        # differences of case, - and _ are reported by `_misspelt`
        if meant and _folded(meant) != _folded(text):
            yield f"{column} '{text}' is the name of no network here; did you mean {meant}?"
    if x.method not in right and (meant := spelling.method(x.method, right)):
        yield f"method '{x.method}' is the name of no method here; did you mean {meant}?"


def _misspelt(column: str, text: str, known: tuple[str, ...]) -> Iterator[str]:
    """Yield a problem if a name differs from a known one only by case, - or _."""
    plain = {_folded(k): k for k in known}
    meant = plain.get(_folded(text))
    if meant is not None and meant != text:
        yield f"{column} '{text}'; allowed: {meant}"


def _folded(text: str) -> str:
    return re.sub(r"[-_ ]", "", text.lower())


def _of_copy(x: PublishedNumber, by_cell: dict[tuple[str, ...], PublishedNumber]) -> Iterator[str]:
    """Yield the differences between a copied number and its original: the value or the reporting rule."""
    if not x.copied_from:
        return
    original = by_cell.get((x.copied_from, *x.cell))
    if original is None:
        yield f"origin is '{x.origin}', but that table has no such cell"
    elif x.origin_kind is OriginKind.COPY and original.value != x.value:
        yield f"value {x.value} is {x.origin}, where it is {original.value}"
    elif x.origin_kind is OriginKind.COPY and original.rule != x.rule:
        yield f"rule '{x.rule}' of a number that is {x.origin}, where the rule is {original.rule}"


def _duplicates(numbers: _Located) -> Iterator[str]:
    """Yield the cells that a table has twice. A value may fill in a blank of another file."""
    first_of: dict[tuple[str, ...], tuple[_Line, PublishedNumber]] = {}
    for line, x in numbers:
        first_line, first = first_of.setdefault((x.published_in, *x.cell), (line, x))
        fills_in = first.value is None and x.value is not None and first_line.file != line.file
        if first is not x and not fills_in:
            yield f"{line}: the same cell as {first_line}"


def _top5_below_top1(numbers: _Located) -> Iterator[str]:
    cells = {(x.published_in, *x.cell): x.value for _, x in numbers}
    for line, x in numbers:
        top5 = cells.get((x.published_in, x.dataset, "top5", *x.cell[2:]))
        if x.metric == "top1" and x.value is not None and top5 is not None and top5 < x.value:
            yield f"{line}: top1 {x.value} is above top5 {top5} of the same cell"


def _of_errata(folder: Path, papers: set[str]) -> Iterator[str]:
    path = folder / "errata.csv"
    if not path.is_file():
        return
    try:
        for line, row in read_rows(path, ERRATA_COLUMNS):
            if row["paper"] and row["paper"] not in papers:
                yield f"{path}:{line}: paper '{row['paper']}' has no table in the registry"
            if not row["what"] or not row["source"]:
                yield f"{path}:{line}: what or source is blank"
    except PublishedError as error:
        yield str(error)


def _of_teachers(folder: Path, papers: set[str]) -> Iterator[str]:
    path = folder / "teachers.csv"
    if not path.is_file():
        return
    try:
        for line, row in read_rows(path, TEACHERS_COLUMNS):
            for column in ("paper", "weights"):
                if row[column] not in papers:
                    yield f"{path}:{line}: {column} '{row[column]}' has no table in the registry"
            if not row["source"]:
                yield f"{path}:{line}: source is blank; say how the checkpoint is known"
    except PublishedError as error:
        yield str(error)
