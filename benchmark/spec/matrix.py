"""The matrix: `tables/*.toml` read as data and expanded to runs.

A table file states a printed table: its title, paper, protocol, columns (pairs), rows (methods) and where the printed numbers come from.

    title = "..."                      what the table is
    paper = "crd"                      the paper, as in results/published
    table = "table1"                   its table there
    dataset = "cifar100"
    protocol = "crd"                   of all rows that do not name their own
    seeds = 5                          runs a cell
    columns = ["wrn_40_2:wrn_16_2"]    pairs, teacher:student (or none:student where there is no teacher); one at least, as of rows
    quick_columns = ["none:resnet20"]  optional: the columns that profile `quick` makes, where all would take a laptop hours
    note = "..."                       printed below the table

    [[rows]]
    label = "KD"                       as printed
    method = "kd"                      `a+b` combines; `teacher` and `student` are the plain trainings
    protocol = "sskd"                  optional
    set = { "kd.temperature" = 4.0 }   optional settings: of the row's methods, `ce`, `recipe.FIELD`
    published = "kd"                   optional: the row's name in results/published (default: the method's)
    from = "crd/table1"                optional: which paper's table really produced the printed numbers (several: "a/x, b/y", the first that has one)
    not_comparable = "..."             optional: why a comparison with the printed numbers means nothing
    missing = "..."                    optional: why the row cannot be run yet
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmark import data, methods
from benchmark.errors import InputError, hint, unknown
from benchmark.methods import PLAIN
from benchmark.spec import protocols
from benchmark.spec.runs import NONE, Request, Resolver, Run, network_info, parse_pair, skip_reason
from benchmark.user_files import find_toml, toml_files
from results.published import reader as published

MOST_SEEDS = 1_000
"""Each seed of a number of seeds is a run that is planned."""

FOLDER = Path(__file__).resolve().parents[2] / "tables"
"""The built-in tables."""
USER_FOLDER = Path("tables")
"""Tables of the user, in the working folder."""


@dataclass(frozen=True)
class Row:
    """A row of a table. See the module's docstring for the fields."""

    label: str
    method: str
    protocol: str
    settings: tuple[tuple[str, Any], ...] = ()
    published: str = ""
    source: str = ""
    not_comparable: str = ""
    missing: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        """The places that `source` names."""
        return tuple(filter(None, (place.strip() for place in self.source.split(","))))


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    paper: str
    table: str
    dataset: str
    protocol: str
    seeds: int
    columns: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    note: str = ""
    protocol_override: str = ""
    quick_columns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Cell:
    """A table's entry: the runs over the seeds, or the reason why there are none."""

    row: Row
    teacher: str
    student: str
    runs: tuple[Run, ...] = ()
    reason: str = ""
    missing: bool = False

    @property
    def pair(self) -> str:
        return f"{self.teacher}:{self.student}"


@dataclass(frozen=True)
class Expansion:
    """A table under one profile: its cells, and every run they need (teachers and heads too, each once, those first that others need).
    overrides: the settings that were asked for (`--set`), where they make other runs than the table's own."""

    table: Table
    profile: str
    dataset: str
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    runs: tuple[Run, ...] = field(default=())
    overrides: tuple[tuple[str, Any], ...] = ()

    @property
    def suffix(self) -> str:
        """What follows the profile's name in names of files and in CSV ("" for the table's own settings): another table must not pass for it."""
        protocol = self.table.protocol_override
        settings = {**({"protocol": protocol} if protocol else {}), **dict(self.overrides)}
        text = ",".join(f"{k}={v}" for k, v in settings.items())
        if not re.fullmatch(
            r"[\w.,=+-]{0,60}", text, re.ASCII
        ):  # too long for a file's name, or not fit for one
            text = hashlib.sha256(text.encode()).hexdigest()[:10]
        return text and f"-set-{text}"


def table_names() -> tuple[str, ...]:
    """Return the names of all tables: built-in ones, and those in `tables/` of the working folder."""
    return tuple(toml_files(FOLDER, USER_FOLDER))


def built_in_tables() -> tuple[str, ...]:
    """Return the names of the tables that come with kd-tables."""
    return tuple(sorted(p.stem for p in FOLDER.glob("*.toml")))


_TOP = {
    "title": str,
    "paper": str,
    "table": str,
    "dataset": str,
    "protocol": str,
    "seeds": int,
    "columns": list,
    "quick_columns": list,
    "rows": list,
    "note": str,
}
_ROW = {
    "label": str,
    "method": str,
    "protocol": str,
    "set": dict,
    "published": str,
    "from": str,
    "not_comparable": str,
    "missing": str,
}


def _check(where: str, values: Mapping[str, Any], kinds: Mapping[str, type], required: Iterable[str]) -> None:
    for key, value in values.items():
        if key not in kinds:
            raise unknown(f"field in {where}:", key, kinds)
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            kind = kinds[key].__name__
            one = f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
            raise InputError(f"{where}: {key} = {value!r} is not {one}; allowed: {one}")
    for key in required:
        if key not in values:
            raise InputError(f"{where}: {key} is not there; needed: {', '.join(required)}")


def load_table(name: str, folder: Path = FOLDER) -> Table:
    """Read a table: a built-in one, `tables/NAME.toml` of the working folder, or a path that ends in .toml.

    Raises `InputError` with what is wrong. folder: of the built-in tables.
    """
    path = find_toml("table", name, built_in=folder, user=USER_FOLDER)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path.name} is not valid TOML: {error}; allowed: the form described in benchmark/spec/matrix.py"
        ) from error
    _check(
        path.name, raw, _TOP, ("title", "paper", "table", "dataset", "protocol", "seeds", "columns", "rows")
    )
    protocols.get_protocol(raw["protocol"])
    data.info(raw["dataset"])
    if not 1 <= raw["seeds"] <= MOST_SEEDS:
        raise InputError(f"{path.name}: seeds = {raw['seeds']}; allowed: 1 to {MOST_SEEDS}")
    rows = []
    for i, row in enumerate(raw["rows"]):
        where = f"{path.name}, row {i + 1}"
        if not isinstance(row, dict):
            raise InputError(f"{where} is not a table; allowed: [[rows]]")
        _check(where, row, _ROW, ("label", "method"))
        protocols.get_protocol(row.get("protocol", raw["protocol"]))
        settings = (
            ()
            if row.get("missing")
            else tuple(sorted((k, _check_override(k, v)) for k, v in row.get("set", {}).items()))
        )
        if unused := [k for k, _ in settings if not _concerns(k, row["method"])]:
            own = (
                "none: it is a plain training"
                if row["method"] in _PLAIN_ROWS
                else f"settings of {row['method']}, ce, recipe.FIELD"
            )
            raise InputError(
                f"{where} ('{row['label']}'): set has {', '.join(unused)}, which no run of the row has; allowed: {own}"
            )
        rows.append(
            Row(
                row["label"],
                row["method"],
                row.get("protocol", raw["protocol"]),
                settings,
                str(row.get("published", row["method"])),
                row.get("from", ""),
                row.get("not_comparable", ""),
                row.get("missing", ""),
            )
        )
    for what in ("columns", "rows"):
        if not raw[what]:
            raise InputError(f"{path.name}: {what} is empty; allowed: one at least")
    quick = raw.get("quick_columns", [])
    if not all(isinstance(c, str) for c in [*raw["columns"], *quick]):
        raise InputError(f"{path.name}: columns must be pairs written teacher:student")
    if strange := [c for c in quick if c not in raw["columns"]]:
        raise InputError(
            f"{path.name}: quick_columns has {', '.join(strange)}; allowed: {', '.join(raw['columns'])}"
        )
    for what, names in (("columns", raw["columns"]), ("rows labelled", [r.label for r in rows])):
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise InputError(f"{path.name}: {what} {', '.join(twice)} twice; allowed: each once")
    columns = tuple(parse_pair(c) for c in raw["columns"])
    _check_places(path.name, raw, rows)
    return Table(
        path.stem,
        raw["title"],
        raw["paper"],
        raw["table"],
        raw["dataset"],
        raw["protocol"],
        raw["seeds"],
        columns,
        tuple(rows),
        raw.get("note", ""),
        quick_columns=tuple(parse_pair(c) for c in quick),
    )


def _check_places(where: str, table: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """`InputError` for a `from` that names no printed table, and for a `published` that none of the row's printed tables has.

    A paper of one's own need not be known (its numbers may be elsewhere now, or nowhere): then only `from` is looked at.
    """
    if not any(r.source or r.published != r.method for r in rows):
        return
    known: dict[str, set[str]] = {}
    for number in published.numbers():
        known.setdefault(number.published_in, set()).add(number.method)
    own = f"{table['paper']}/{table['table']}"
    for i, row in enumerate(rows):
        row_is = f"{where}, row {i + 1} ('{row.label}')"
        for place in row.sources:
            if place not in known:
                papers = {p.partition("/")[0] for p in known}
                allowed = [p for p in known if p.partition("/")[0] == place.partition("/")[0]] or sorted(
                    papers
                )
                raise InputError(
                    f"{row_is}: from = '{place}' is not among the printed numbers{hint(place, known)}; allowed: {', '.join(allowed)}, "
                    "and what KD_PUBLISHED= adds"
                )
        names = {n for place in (own, *row.sources) for n in known.get(place, ())}
        if own in known and row.published not in {row.method, *names}:
            raise unknown(f"name in `published` of {row_is}:", row.published, sorted(names))


def _check_override(key: str, value: Any) -> Any:
    return (
        protocols.check_recipe_override(key, value)
        if key.startswith("recipe.")
        else methods.check_override(key, value)
    )


def parse_overrides(texts: Sequence[str]) -> tuple[tuple[str, Any], ...]:
    """`--set` arguments (`kd.temperature=8`, `recipe.epochs=3`, `ce=0.5`) to checked values."""
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(
                f"--set {text} is not of the form method.field=value; allowed: e.g. kd.temperature=8 or recipe.epochs=10"
            )
        found[key.strip()] = _check_override(key.strip(), value.strip())
    return tuple(sorted(found.items()))


def row_request(
    row: Row,
    table: Table,
    dataset: str,
    profile: str,
    teacher: str,
    student: str,
    overrides: tuple[tuple[str, Any], ...],
) -> Request:
    """What a row asks for in a column."""
    protocol = table.protocol_override or row.protocol
    if row.method == "teacher":
        protocol = protocols.get_protocol(protocol).teacher_protocol
        return Request(dataset, protocol, profile, NONE, teacher, PLAIN, _recipe_only(overrides))
    if row.method == "student":
        return Request(dataset, protocol, profile, NONE, student, PLAIN, _recipe_only(overrides))
    own = {**dict(row.settings), **{k: v for k, v in overrides if _concerns(k, row.method)}}
    spec = methods.parse(row.method, {k: v for k, v in own.items() if not k.startswith("recipe.")})
    if spec.self_teacher or not spec.needs_teacher:
        teacher = NONE  # trained once for all columns of its student
    return Request(dataset, protocol, profile, teacher, student, row.method, tuple(sorted(own.items())))


_PLAIN_ROWS = ("teacher", "student")


def _concerns(key: str, method: str) -> bool:
    """Whether a row of this method has the setting: it is of one of its methods, of what they require, or of every training."""
    if method in _PLAIN_ROWS:
        return False
    name = key.partition(".")[0]
    return (
        name in ("ce", "recipe", *(w.strip() for w in method.split("+")))
        or name in methods.parse(method).requires
    )


def _recipe_only(overrides: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    return tuple((k, v) for k, v in overrides if k.startswith("recipe."))


def expand(
    table: Table,
    profile: str,
    resolver: Resolver | None = None,
    *,
    seeds: Sequence[int] | None = None,
    pairs: Sequence[str] = (),
    only_methods: Sequence[str] = (),
    overrides: tuple[tuple[str, Any], ...] = (),
    dataset: str | None = None,
) -> Expansion:
    """All cells of a table under a profile, and the runs they need.

    seeds: replaces the profile's or table's. pairs, only_methods: narrow to these columns and rows (by method or label; Teacher and
    Student rows stay). Raises `InputError` for a pair or method that the table does not have.
    """
    resolver = resolver or Resolver()
    p = protocols.get_profile(profile)
    where = dataset or p.dataset or table.dataset
    chosen = tuple(seeds) if seeds is not None else tuple(range(p.seeds or table.seeds))
    made = table.quick_columns if profile == "quick" and table.quick_columns and not pairs else table.columns
    columns = _narrow("pair", made, [parse_pair(x) for x in pairs], lambda c: {f"{c[0]}:{c[1]}"}, table.name)
    rows = [r for r in table.rows if r.method in ("teacher", "student")] + list(
        _narrow(
            "method",
            [r for r in table.rows if r.method not in ("teacher", "student")],
            [m.lower() for m in only_methods],
            lambda r: {r.method.lower(), r.label.lower()},
            table.name,
        )
    )
    rows = [r for r in table.rows if r in rows]
    cells, ordered = [], dict[str, Run]()

    def collect(run: Run) -> None:
        if run.key not in ordered:
            for needed in run.needs_runs:
                collect(needed)
            ordered[run.key] = run

    for row in rows:
        for teacher, student in columns:
            cell = _cell(row, table, where, profile, teacher, student, resolver, chosen, overrides)
            cells.append(cell)
            for run in cell.runs:
                collect(run)
    if overrides:  # the values that the table has anyway change nothing
        own = expand(
            table, profile, resolver, seeds=seeds, pairs=pairs, only_methods=only_methods, dataset=dataset
        )
        overrides = () if ordered.keys() == {r.key for r in own.runs} else overrides
    return Expansion(replace(table), profile, where, chosen, tuple(cells), tuple(ordered.values()), overrides)


def _narrow(kind: str, items: Sequence[Any], wanted: Sequence[Any], names: Any, table: str) -> list[Any]:
    if not wanted:
        return list(items)
    texts = [w if isinstance(w, str) else f"{w[0]}:{w[1]}" for w in wanted]
    for text in texts:
        if not any(text in names(i) for i in items):
            raise unknown(f"{kind} in {table}:", text, [sorted(names(i))[0] for i in items])
    return [i for i in items if names(i) & set(texts)]


def _cell(
    row: Row,
    table: Table,
    dataset: str,
    profile: str,
    teacher: str,
    student: str,
    resolver: Resolver,
    seeds: tuple[int, ...],
    overrides: tuple[tuple[str, Any], ...],
) -> Cell:
    if row.missing:
        return Cell(row, teacher, student, reason=row.missing, missing=True)
    if row.method == "teacher" and teacher == NONE:
        return Cell(row, teacher, student, reason="no teacher")
    request = row_request(row, table, dataset, profile, teacher, student, overrides)
    if row.method == "teacher":
        protocol = table.protocol_override or row.protocol
        ref = resolver.teacher(dataset, protocol, profile, teacher, _recipe_only(overrides))
        if ref.run is None:
            return Cell(row, teacher, student, (resolver.imported_run(dataset, profile, ref, protocol),))
        return Cell(row, teacher, student, (ref.run,))
    runs = tuple(resolver.run(request, seed) for seed in seeds)
    if reason := skip_reason(runs[0]):
        return Cell(row, teacher, student, reason=reason)
    return Cell(row, teacher, student, runs)


__all__ = [
    "FOLDER",
    "Cell",
    "Expansion",
    "Row",
    "Table",
    "built_in_tables",
    "expand",
    "load_table",
    "network_info",
    "parse_overrides",
    "table_names",
]
