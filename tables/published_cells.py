"""The published numbers that belong to the cells of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from benchmark.errors import hint, unknown
from benchmark.spec.matrix import Cell, Table, built_in_tables
from benchmark.spec.runs import NONE
from benchmark.text import plural
from results import published
from results.published import reader, spelling
from results.published.schema import ERRATA_KEYS, OriginKind, PublishedNumber, erratum_applies


class PublishedCells:
    """All published numbers, by cell and metric.

    A row without a data set of its own has those of one data set.
    """

    def __init__(
        self,
        numbers: Iterable[PublishedNumber],
        dataset: str,
        errata: Iterable[Mapping[str, str]] = (),
    ) -> None:
        """Index the numbers.

        dataset: the one whose numbers count for rows without a `published_dataset`.
        errata: rows of `results.published.errata()`. Those on a whole paper or table are left out.
        """
        self._errata = [e for e in errata if any(e[c] for c in ERRATA_KEYS[2:])]
        self._dataset = dataset
        self._numbers = list(numbers)
        self._by_cell: dict[tuple[str, str, str, str, str, str], PublishedNumber] = {}
        for x in self._numbers:
            self._by_cell.setdefault(_index(x, x.published_in), x)

    @staticmethod
    def read(dataset: str) -> PublishedCells:
        """Return the numbers of the registry."""
        return PublishedCells(reader.numbers(), dataset, published.errata())

    @property
    def papers(self) -> list[str]:
        """The papers that have a number of the data set, sorted."""
        return sorted({x.paper for x in self._numbers if x.dataset == self._dataset and x.metric == "top1"})

    def errata_of(self, number: PublishedNumber) -> tuple[str, ...]:
        """Return what the errata say about a number."""
        return tuple(e["what"] for e in self._errata if erratum_applies(e, number))

    def _dataset_of(self, cell: Cell) -> str:
        return cell.row.published_dataset or self._dataset

    def of(self, table: Table, cell: Cell) -> PublishedNumber | None:
        """Return the number that a table publishes for a cell.

        If the table has none, the number is that of the first of the row's other sources (`from`) with one.
        """
        blank, dataset = None, self._dataset_of(cell)
        for source in (f"{table.paper}/{table.table}", *cell.row.sources):
            for teacher, student in _pairs(cell):
                number = self._by_cell.get(
                    (dataset, cell.row.metric, source, teacher, student, cell.row.published)
                )
                if number is not None and number.value is not None:
                    return number
                blank = blank or number
        return blank

    def of_paper(self, paper: str, cell: Cell) -> PublishedNumber | None:
        """Return what another paper publishes for a cell. Copied numbers come after all others.

        Raises `InputError` for a paper that has no number.
        """
        if paper not in self.papers:
            raise unknown("paper", paper, self.papers)
        if cell.row.measured is not None:
            return None
        pairs, names = _pairs(cell), (cell.row.method, cell.row.published)
        candidates = [
            x
            for x in self._numbers
            if x.paper == paper
            and x.dataset == self._dataset_of(cell)
            and x.metric == cell.row.metric
            and x.method in names
            and (x.teacher, x.student) in pairs
            and x.value is not None
        ]
        if not candidates:
            return None
        return self._with_original_rule(
            min(candidates, key=lambda x: (names.index(x.method), x.origin_kind is OriginKind.COPY))
        )

    def _with_original_rule(self, number: PublishedNumber) -> PublishedNumber:
        """Give a copied number whose reporting rule is not known the rule of its original."""
        if number.rule in ("last", "best") or number.origin_kind is not OriginKind.COPY:
            return number
        original = self._by_cell.get(_index(number, number.copied_from))
        return number if original is None else replace(number, rule=original.rule)


def _index(x: PublishedNumber, table: str) -> tuple[str, str, str, str, str, str]:
    """Return what a number is looked up by, as that of a table."""
    return x.dataset, x.metric, table, x.teacher, x.student, x.method


def nothing_published(table: Table) -> str:
    """Return a note if the registry has no number of a table, "" if it has.

    The reason may be a misspelt name, so the note suggests a similar one.
    """
    known = published.tables(table.paper)
    if table.table in known or table.name in built_in_tables():  # the built-in tables explain themselves
        return ""
    what = f"table '{table.table}' of {table.paper}" if known else f"paper '{table.paper}'"
    near = hint(table.table, known) if known else hint(table.paper, published.papers())
    nothing = f"{table.name}: the registry has no published numbers of {what}{near}"
    return f"{nothing}; name folders with more in KD_PUBLISHED="


def rows_without_cell(table: Table) -> list[str]:
    """Return a line for each name of which the registry has published numbers of a table that no cell shows.

    The name may be misspelt, so the line suggests a similar one. Numbers that come with the project are left
    out: their names are right, and the table has reasons to leave some out.
    """
    pairs = {
        pair for column in table.columns for row in table.rows for pair in _pairs_of(row.method, *column)
    }
    networks = {name for pair in pairs for name in pair}
    of_table = {row.published for row in table.rows}
    datasets = {row.published_dataset or table.dataset for row in table.rows}
    own = {(x.published_in, *x.cell) for x in reader.built_in()}
    metrics = {row.metric for row in table.rows}
    counts: Counter[str] = Counter()
    for x in reader.numbers():
        here = x.published_in == f"{table.paper}/{table.table}" and x.dataset in datasets
        if not here or x.metric not in metrics or (x.published_in, *x.cell) in own:
            continue
        if x.method not in of_table:
            meant = spelling.method(x.method, of_table)
            counts[f"method '{x.method}'{_did_you_mean(meant) or hint(x.method, of_table)}"] += 1
        elif odd := next((name for name in (x.teacher, x.student) if name not in networks), ""):
            meant = spelling.network(odd, networks)
            counts[f"network '{odd}'{_did_you_mean(meant) or hint(odd, networks)}"] += 1
        elif (x.teacher, x.student) not in pairs:
            counts[f"pair {x.teacher}:{x.student}"] += 1
    return [
        f"{table.name}: no cell takes {plural(count, 'published value')} of {what}"
        for what, count in counts.items()
    ]


def _did_you_mean(name: str) -> str:
    return f" (did you mean {name}?)" if name else ""


def _pairs(cell: Cell) -> list[tuple[str, str]]:
    """Return the pairs under which the registry may have a cell.

    It may have a teacher or a plain student without the other network of the pair.
    """
    return _pairs_of(cell.row.method, cell.teacher, cell.student)


def _pairs_of(method: str, teacher: str, student: str) -> list[tuple[str, str]]:
    teacher, student = spelling.published_name(teacher), spelling.published_name(student)
    alone = {"teacher": [(teacher, NONE), (NONE, teacher)], "student": [(NONE, student)]}
    return [(teacher, student), *alone.get(method, [])]
