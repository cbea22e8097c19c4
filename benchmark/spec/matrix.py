"""The matrix: a table expanded to cells (pairs x rows) and the runs that they need."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from benchmark import data, methods
from benchmark.errors import InputError, unknown
from benchmark.methods import PLAIN
from benchmark.spec import profiles, protocols
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import (
    NONE,
    Overrides,
    Request,
    Run,
    TeacherRef,
    closure,
    parse_pair,
    recipe_only,
    skip_reason,
    teacher_overrides,
)
from benchmark.spec.table_file import (
    FOLDER,
    MOST_SEEDS,
    PLAIN_ROWS,
    Row,
    Table,
    built_in_tables,
    check_override,
    concerns,
    load_table,
    measured_forms,
    table_names,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """An entry of a table: its runs over the seeds, or the reason why it has none."""

    row: Row
    teacher: str
    student: str
    runs: tuple[Run, ...] = ()

    reason: str = ""
    """Why there are no runs, "" if there are."""

    missing: bool = False
    """The row cannot be run yet (as opposed to a pair that the method cannot train)."""

    @property
    def pair(self) -> str:
        return f"{self.teacher}:{self.student}"


@dataclass(frozen=True)
class Expansion:
    """A table under one profile."""

    table: Table
    profile: str
    dataset: str
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]

    runs: tuple[Run, ...] = ()
    """Every run that the cells need, teachers and heads included; each once, required runs first."""

    overrides: Overrides = ()
    """The requested settings (`--set`); empty if they give the same runs as the table's own settings."""

    @property
    def suffix(self) -> str:
        """What follows the profile in file names and in CSV; "" for the table's own settings.

        It keeps results of other settings from being mistaken for the table.
        """
        protocol = self.table.protocol_override
        settings = {**({"protocol": protocol} if protocol else {}), **dict(self.overrides)}
        text = ",".join(f"{k}={v}" for k, v in settings.items())
        if not re.fullmatch(r"[\w.,=+-]{0,60}", text, re.ASCII):  # too long or unsuitable for a file name
            text = hashlib.sha256(text.encode()).hexdigest()[:10]
        return text and f"-set-{text}"


def parse_overrides(texts: Sequence[str]) -> Overrides:
    """Parse `--set` arguments (`kd.temperature=8`, `recipe.epochs=3`, `ce=0.5`). Raises `InputError`."""
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or ("." not in key and key.strip() != "ce"):
            raise InputError(
                f"--set {text} is not written method.field=value, "
                "for example kd.temperature=8, recipe.epochs=10 or ce=0.5"
            )
        values[key.strip()] = check_override(key.strip(), value.strip())
    return tuple(sorted(values.items()))


@dataclass(frozen=True)
class Expander:
    """Makes the cells of a table under a profile."""

    table: Table
    profile: str
    dataset: str
    seeds: tuple[int, ...]
    overrides: Overrides = ()
    resolver: Resolver = field(default_factory=Resolver)

    def request(self, row: Row, teacher: str, student: str) -> Request:
        """Return the request of a row for a pair."""
        protocol, method = self.table.protocol_override or row.protocol, row.method
        overrides: Overrides
        if method in PLAIN_ROWS:
            overrides = tuple(sorted({**dict(row.settings), **dict(recipe_only(self.overrides))}.items()))
            if method == "teacher":
                overrides = teacher_overrides(overrides)
                protocol, student = protocols.get_protocol(protocol).teacher_protocol, teacher
            method, teacher = PLAIN, NONE
        else:
            requested = {k: v for k, v in self.overrides if concerns(k, method)}
            overrides = tuple(sorted({**dict(row.settings), **requested}.items()))
            spec = methods.parse(method, {k: v for k, v in overrides if not k.startswith("recipe.")})
            if spec.self_teacher or not spec.needs_teacher:
                teacher = NONE  # trained once for all columns of its student
        return Request(
            dataset=self.dataset,
            protocol=protocol,
            profile=self.profile,
            teacher=teacher,
            student=student,
            method=method,
            overrides=overrides,
            teacher_weights=self._listed_weights(teacher, student),
        )

    def _listed_weights(self, teacher: str, student: str) -> str:
        """Return the hash of the teacher that `teachers.toml` names for this pair in this table, or ""."""
        if teacher == NONE:
            return ""
        ref = self.resolver.listed_teacher(
            teacher, dataset=self.dataset, student=student, table=self.table.name
        )
        return "" if ref is None else ref.weights

    def cell(self, row: Row, teacher: str, student: str) -> Cell:
        """Return the cell of a row and a pair."""
        if row.missing:
            return Cell(row, teacher, student, reason=row.missing, missing=True)
        cell = self._trained_cell(row, teacher, student)
        return (
            cell if row.measured is None else replace(cell, runs=tuple(map(self._measuring(row), cell.runs)))
        )

    def _measuring(self, row: Row) -> Callable[[Run], Run]:
        """Return the function from a row's training to the run that measures its network."""
        measured = row.measured
        assert measured is not None
        protocol = protocols.get_protocol(self.table.protocol_override or row.protocol)
        if row.method == "teacher":
            epoch = protocol.teacher_epoch
        else:
            epoch = measured.epoch or ("best" if protocol.report == "best" else "last")
        stand_in = self.dataset if self.dataset != self.table.dataset else ""
        spec = measured.spec(self.profile, stand_in, self.overrides)

        def measuring(run: Run) -> Run:
            subject = run.evaluates or TeacherRef(run.student, run=run, epoch=epoch)
            return self.resolver.measuring(subject, spec, run)

        return measuring

    def _trained_cell(self, row: Row, teacher: str, student: str) -> Cell:
        if row.method == "teacher":
            return self._teacher_cell(row, teacher, student)
        request = self.request(row, teacher, student)
        runs = tuple(self.resolver.run(request, seed) for seed in self.seeds)
        if reason := skip_reason(runs[0]):
            return Cell(row, teacher, student, reason=reason)
        return Cell(row, teacher, student, runs=runs)

    def _teacher_cell(self, row: Row, teacher: str, student: str) -> Cell:
        if teacher == NONE:
            return Cell(row, teacher, student, reason="no teacher")
        protocol = self.table.protocol_override or row.protocol
        ref = self.resolver.listed_teacher(
            teacher, dataset=self.dataset, student=student, table=self.table.name
        ) or self.resolver.teacher(
            teacher,
            dataset=self.dataset,
            protocol=protocol,
            profile=self.profile,
            overrides=recipe_only(self.overrides),
        )
        if not ref.has_classifier and row.measured is None:
            return Cell(row, teacher, student, reason="the imported teacher has no classifier")
        run = ref.run or self.resolver.imported_run(
            ref, dataset=self.dataset, protocol=protocol, profile=self.profile
        )
        return Cell(row, teacher, student, runs=(run,))


def expand(
    table: Table,
    profile: str,
    resolver: Resolver | None = None,
    *,
    seeds: Sequence[int] | None = None,
    pairs: Sequence[str] = (),
    only_methods: Sequence[str] = (),
    overrides: Overrides = (),
    dataset: str | None = None,
) -> Expansion:
    """Expand a table under a profile to its cells and the runs that they need.

    seeds: replace those of the profile or the table.
    pairs, only_methods: select columns, and rows by method or label; the Teacher and Student rows stay. A
    method that the table has no row for gets one, under the table's protocol (`with_rows_for`).

    Raises `InputError` for a pair that the table does not have, and for an unknown method.
    """
    table = with_rows_for(table, only_methods)
    p = profiles.get_profile(profile)
    expander = Expander(
        table=table,
        profile=profile,
        dataset=dataset or _dataset(table, p),
        seeds=tuple(range(p.seeds or table.seeds)) if seeds is None else tuple(seeds),
        overrides=overrides,
        resolver=resolver or Resolver(),
    )
    columns = _columns(table, profile, pairs)
    rows = _rows(table, only_methods)
    cells = [expander.cell(row, *column) for row in rows for column in columns]
    runs = closure(run for cell in cells for run in cell.runs)
    if overrides:
        default = expand(
            table,
            profile,
            expander.resolver,
            seeds=seeds,
            pairs=pairs,
            only_methods=only_methods,
            dataset=dataset,
        )
        if {r.key for r in runs} == {r.key for r in default.runs}:
            overrides = ()
    return Expansion(
        table=table,
        profile=profile,
        dataset=expander.dataset,
        seeds=expander.seeds,
        cells=tuple(cells),
        runs=tuple(runs),
        overrides=overrides,
    )


def with_rows_for(table: Table, only_methods: Sequence[str]) -> Table:
    """Return the table with a row for each of these methods that it has none for, at its end.

    So a method of one's own is compared with a table's without a copy of the table. Words that name neither a
    row nor methods are left to `expand`, which reports them.
    """
    known = {name for row in table.rows for name in (row.method.lower(), row.label.lower())}
    new = list(dict.fromkeys(m.lower() for m in only_methods))
    trainable = set(methods.names())
    rows: Sequence[Row] = [
        Row(
            label="+".join(methods.get(part).title for part in name.split("+")),
            method=name,
            protocol=table.protocol,
            published=name,
        )
        for name in new
        if name not in known and trainable.issuperset(name.split("+"))
    ]
    return replace(table, rows=(*table.rows, *measured_forms(rows, table.measured))) if rows else table


def _dataset(table: Table, profile: profiles.Profile) -> str:
    """Return the data set of a table under a profile. A user's own stays: nothing has to stand in for it."""
    if profile.dataset and table.quick_dataset:
        return table.quick_dataset
    is_the_users = table.dataset not in data.DATASETS
    return table.dataset if is_the_users else profile.dataset or table.dataset


def _columns(table: Table, profile: str, pairs: Sequence[str]) -> Sequence[tuple[str, str]]:
    if not pairs:
        return table.quick_columns if profile == "quick" and table.quick_columns else table.columns
    wanted = [":".join(parse_pair(pair)) for pair in pairs]
    return _select(table.columns, wanted, names=lambda c: [":".join(c)], kind=f"pair in {table.name}:")


def _rows(table: Table, only_methods: Sequence[str]) -> Sequence[Row]:
    if not only_methods:
        return table.rows
    selected = _select(
        [r for r in table.rows if r.method not in PLAIN_ROWS],
        [m.lower() for m in only_methods],
        names=lambda r: [r.method.lower(), r.label.lower()],
        kind=f"method in {table.name}:",
    )
    return [r for r in table.rows if r.method in PLAIN_ROWS or r in selected]


def _select(
    items: Sequence[T], wanted: Sequence[str], *, names: Callable[[T], Sequence[str]], kind: str
) -> list[T]:
    """Return the items that have one of the wanted names. Raises `InputError` for a name that no item has."""
    for name in wanted:
        if not any(name in names(item) for item in items):
            raise unknown(kind, name, [names(item)[0] for item in items])
    return [item for item in items if not set(names(item)).isdisjoint(wanted)]


__all__ = [
    "FOLDER",
    "MOST_SEEDS",
    "Cell",
    "Expander",
    "Expansion",
    "Row",
    "Table",
    "built_in_tables",
    "expand",
    "load_table",
    "parse_overrides",
    "table_names",
]
