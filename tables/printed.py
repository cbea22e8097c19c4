"""The printed numbers as a table's cells ask for them: an index over `results.published.load()`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from benchmark.errors import hint, unknown
from benchmark.spec.matrix import Cell, Table, built_in_tables
from benchmark.spec.runs import NONE
from tables.cells import number

TOP1 = ("top1", "top1_acc")


@dataclass(frozen=True)
class Printed:
    """A printed top-1 (in %) with its provenance, as in `results/published`; None where the paper says nothing (value: printed blank)."""

    paper: str
    table: str
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
        return f"{self.paper}/{self.table}"


class Prints:
    """All printed top-1 numbers of one data set."""

    def __init__(self, frame: pd.DataFrame, dataset: str, errata: Sequence[Mapping[str, str]] = ()) -> None:
        """frame: with the columns of `results.published.load()`. errata: rows of `results.published.errata()`, which join the notes."""
        chosen = frame[(frame["dataset"] == dataset) & frame["metric"].isin(TOP1)]
        self._all = [_with_errata(_printed(r), errata) for r in chosen.to_dict("records")]
        self._by_place: dict[tuple[str, str, str, str, str], Printed] = {}
        for p in self._all:
            self._by_place.setdefault((p.paper, p.table, p.teacher, p.student, p.method), p)

    @staticmethod
    def read(dataset: str) -> Prints:
        from results import published

        return Prints(published.load(), dataset, published.errata())

    @property
    def papers(self) -> list[str]:
        return sorted({p.paper for p in self._all})

    def of(self, table: Table, cell: Cell) -> Printed | None:
        """The number that a table prints in a cell; where the table has none, that of the first place with one which the row names (`from`)."""
        places = [(table.paper, table.table)]
        for source in cell.row.sources:
            paper, _, name = source.partition("/")
            places.append((paper, name))
        blank = None
        for paper, name in places:
            for teacher, student in _pairs(cell):
                found = self._by_place.get((paper, name, teacher, student, cell.row.published))
                if found is not None and found.value is not None:
                    return found
                blank = blank or found
        return blank

    def of_paper(self, paper: str, cell: Cell) -> Printed | None:
        """What another paper prints for a cell (numbers it ran itself before copied ones). `InputError` for a paper that is not there."""
        if paper not in self.papers:
            raise unknown("paper", paper, self.papers)
        pairs, names = _pairs(cell), (cell.row.method, cell.row.published)
        found = [
            p
            for p in self._all
            if p.paper == paper
            and p.method in names
            and (p.teacher, p.student) in pairs
            and p.value is not None
        ]
        found.sort(key=lambda p: (names.index(p.method), "cop" in p.origin or "from" in p.origin))
        return self._with_rule_of_its_origin(found[0]) if found else None

    def _with_rule_of_its_origin(self, number: Printed) -> Printed:
        """A copied number was reported by the rule of the table that it comes from."""
        paper, _, table = number.origin.removeprefix("copied from ").partition("/")
        original = self._by_place.get((paper, table, number.teacher, number.student, number.method))
        if number.rule in ("last", "best") or original is None:
            return number
        return replace(number, rule=original.rule)


def unprinted(table: Table) -> str:
    """A line that says so where nothing is printed of a table, "" where something is: it may be right so, and it may be a slip."""
    from results import published

    known = published.tables(table.paper)
    if table.table in known or table.name in built_in_tables():  # ours say themselves where they have none
        return ""
    what = f"table '{table.table}' of {table.paper}" if known else f"paper '{table.paper}'"
    near = hint(table.table, known) if known else hint(table.paper, published.papers())
    return f"{table.name}: no {what} is among the printed numbers{near}; KD_PUBLISHED= names folders of more"


def _pairs(cell: Cell) -> list[tuple[str, str]]:
    """The pair, and the ways in which a plain training may stand in the registry without its partner."""
    alone = {"teacher": [(cell.teacher, NONE), (NONE, cell.teacher)], "student": [(NONE, cell.student)]}
    return [(cell.teacher, cell.student), *alone.get(cell.row.method, [])]


def _with_errata(number: Printed, errata: Sequence[Mapping[str, str]]) -> Printed:
    """The number with what is known to be wrong with it: errata of its paper that name its method (or no method, but its pair)."""
    found = []
    for e in errata:
        own = {
            "paper": number.paper,
            "teacher": number.teacher,
            "student": number.student,
            "method": number.method,
        }
        narrow = e["method"] or e["teacher"] or e["student"]
        if narrow and all(not e[k] or e[k] == v for k, v in own.items()):
            found.append(f"erratum: {e['what']}")
    return replace(number, note="; ".join(filter(None, [number.note, *found]))) if found else number


def _printed(row: Mapping[Any, Any]) -> Printed:
    def text(name: str) -> str:
        value = row.get(name)
        return value if isinstance(value, str) else ""

    def whole(name: str) -> int | None:
        value = number(row.get(name))
        return None if value is None else int(value)

    return Printed(
        text("paper"),
        text("table"),
        text("teacher") or NONE,
        text("student") or NONE,
        text("method"),
        number(row.get("value")),
        number(row.get("std")),
        whole("n"),
        whole("epochs"),
        text("rule"),
        text("origin"),
        text("recipe"),
        text("source"),
        text("note"),
    )
