"""The question that `judge` answers, and the published number that it compares with."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from benchmark.errors import InputError
from benchmark.spec import matrix, protocols
from benchmark.spec.matrix import Cell, Row
from benchmark.spec.runs import NONE
from results.logs import Log
from results.published.reader import choose
from results.published.schema import OriginKind, PublishedNumber
from tables.published_cells import PublishedCells

DATASET = "cifar100"
"""s0, tau and the margin are of this data set."""

REPRODUCTIONS = "reproductions"
"""The paper's name of results that users of published code report."""


@dataclass(frozen=True)
class Question:
    """Somebody's results of one cell."""

    teacher: str
    student: str
    method: str
    values: tuple[float, ...] = ()
    """Top-1 in %, one value for each seed."""
    epoch: str = ""
    """The epoch of the values: `last`, `best`, or "" if it is not known."""
    logs: tuple[Log, ...] = ()
    """Instead of values: the logs of the trainings, which have both epochs."""
    protocol: str = ""
    """The protocol that they were trained under, "" if none is named."""
    teacher_top1: float | None = None
    their_code: bool = False
    """Whether the runs are of the code that the publisher released."""

    @property
    def pair(self) -> str:
        """The pair as TEACHER:STUDENT."""
        return f"{self.teacher}:{self.student}"


@dataclass(frozen=True)
class Target:
    """The published number that is compared, and what is known of its protocol."""

    number: PublishedNumber
    method: str
    """The method as our runs name it: a paper may print `pkt` for what is run as `pkt+kd`."""
    epochs: int
    """Length of the training."""
    batch_size: int | None
    not_comparable: str = ""
    """Why nothing can be compared with it, "" if it can."""
    note: str = ""


def target_of(q: Question) -> Target:
    """Return the published number to compare with.

    With a protocol, that of the first table whose row is run under it; without one, the number of the paper
    that ran the cell first, of our epoch if there is one.

    Raises `InputError` if nothing is published of the cell.
    """
    note = ""
    if q.protocol:
        protocol = protocols.get_protocol(q.protocol)
        if rows := _of_tables(q):
            row, x = rows[0]
            return Target(
                number=x,
                method=row.method,
                epochs=x.epochs or protocol.epochs,
                batch_size=protocol.batch_size,
                not_comparable=row.not_comparable,
            )
        note = f"no table under protocol {q.protocol} has this cell; compared with the first that ran it"
    # papers repeat a plain student in the columns of all its pairs
    teacher = None if (q.teacher, q.method) == (NONE, "student") else q.teacher
    numbers = choose(teacher=teacher, student=q.student, method=q.method, dataset=DATASET, metric="top1")
    usable = [x for x in numbers if x.value is not None and x.origin_kind is not OriginKind.COPY]
    if not usable:
        raise InputError(_nothing(q))
    kinds = list(OriginKind)

    def order(x: PublishedNumber) -> tuple[bool, int, bool, bool, int]:
        kind = kinds.index(x.origin_kind or OriginKind.UNKNOWN)
        other_epoch = bool(q.epoch) and x.rule != q.epoch
        return x.paper == REPRODUCTIONS, kind, bool(x.recipe), other_epoch, x.year or 9999

    x = min(usable, key=order)
    epochs = protocols.get_protocol(q.protocol).epochs if q.protocol else 240
    return Target(number=x, method=q.method, epochs=x.epochs or epochs, batch_size=None, note=note)


@functools.cache
def _tables() -> tuple[matrix.Table, ...]:
    return tuple(matrix.load_table(name) for name in matrix.built_in_tables())


def _of_tables(q: Question) -> list[tuple[Row, PublishedNumber]]:
    """Return the numbers of the built-in tables whose row has the method and the protocol."""
    cells = PublishedCells(choose(student=q.student, dataset=DATASET), DATASET)
    rows: list[tuple[Row, PublishedNumber]] = []
    for table in _tables():
        columns = [c for c in table.columns if c == (q.teacher, q.student)]
        if (q.teacher, q.method) == (NONE, "student"):
            columns = [c for c in table.columns if c[1] == q.student][:1]
        for row in table.rows if table.dataset == DATASET else ():
            if row.protocol == q.protocol and q.method in (row.method, row.published):
                numbers = (cells.of(table, Cell(row, *column)) for column in columns)
                rows += [(row, x) for x in numbers if x is not None and x.value is not None]

    def order(choice: tuple[Row, PublishedNumber]) -> tuple[bool, bool, bool]:
        # a row that is run as named comes before one that only is printed so
        row, x = choice
        return x.origin_kind is OriginKind.COPY, x.paper != q.protocol, row.method != q.method

    return sorted(rows, key=order)


def _nothing(q: Question) -> str:
    of_pair = choose(teacher=q.teacher, student=q.student, dataset=DATASET, metric="top1")
    methods = sorted({x.method for x in of_pair if x.value is not None})
    return (
        f"{q.pair} {q.method} on {DATASET}: no published top-1, so nothing to judge by; published of this "
        f"pair: {', '.join(methods) or 'nothing'}"
    )
