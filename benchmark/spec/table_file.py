"""Table files: `tables/*.toml`, read and checked.

A table file describes a published table: its paper, protocol, columns (pairs) and rows (methods), and where
its published values come from.

    title = "..."                      what the table shows
    paper = "crd"                      the paper, as in results/published
    table = "table1"                   the paper's table, as in results/published
    dataset = "cifar100"
    protocol = "crd"                   of the rows that do not set `protocol`
    seeds = 5                          runs of each cell
    columns = ["wrn_40_2:wrn_16_2"]    pairs teacher:student (none:student without a teacher); at least one
    quick_columns = ["none:resnet20"]  optional: the columns of profile `quick`, where all take too long
    quick_dataset = "pictures"         optional: the data set of profile `quick`, if not the profile's
    shown = "error"                    optional: how the table prints its values: `accuracy` (the default) or
                                       `error`, 100 - accuracy
    note = "..."                       optional: printed below the table

    [[rows]]                           at least one
    label = "KD"                       the row's name in the published table
    method = "kd"                      `a+b` combines methods; `teacher` and `student` are the plain trainings
    protocol = "sskd"                  optional
    set = { "kd.temperature" = 4.0 }   optional: settings of the row's methods, `ce`, `recipe.FIELD`; of a
                                       `student` row, those of the recipe
    group = "25%"                      optional: the row is ranked among the rows with the same group only
    metric = "top5"                    optional: `top1` (the default) or `top5`; the runs are the same
    published = "kd"                   optional: the row's method in results/published (default: `method`)
    from = "crd/table1"                optional: the published table that the values originate from;
                                       of several ("a/x, b/y") the first one that has the value
    published_dataset = "cifar100-25"  optional: the row's data set in results/published (default: `dataset`)
    not_comparable = "..."             optional: why the runs cannot be compared with the published values
    missing = "..."                    optional: why the row cannot be run yet

A section `[measure]` makes it a table of what is measured on the networks: see measured_rows.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark import data, measures, methods
from benchmark.errors import InputError, hint, require_one_line, unknown
from benchmark.spec import measured_rows, protocols, recipes
from benchmark.spec.measured_rows import Measured
from benchmark.spec.runs import Overrides, parse_pair
from benchmark.user_files import find_toml, read_toml, toml_files
from results.published import reader as published
from results.published.schema import METRICS

MOST_SEEDS = 1_000
"""Upper limit on a number of seeds: every seed adds runs to the plan."""

FOLDER = Path(__file__).resolve().parents[2] / "tables"
"""The built-in tables."""

USER_FOLDER = Path("tables")
"""Tables of the user, in the working folder."""

ACCURACY, ERROR = "accuracy", "error"
SHOWN = (ACCURACY, ERROR)

PLAIN_ROWS = ("teacher", "student")
"""Methods of the rows that show the plain trainings of a pair's networks."""


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    label: str
    """The row's name in the published table."""

    method: str
    protocol: str

    settings: Overrides = ()
    """Settings that differ from the methods' and the protocol's defaults."""

    group: str = ""
    """Rows are ranked among those of the same group."""

    published: str = ""
    """The row's method in `results/published`."""

    source: str = ""
    """The published tables that the values originate from, as the file gives them ("" for the table
    itself)."""

    published_dataset: str = ""
    """The row's data set in `results/published`, "" for the table's."""

    accuracy: str = "top1"
    """Which accuracy the row shows, one of `METRICS`."""

    not_comparable: str = ""
    """Why the runs cannot be compared with the published values, "" if they can."""

    missing: str = ""
    """Why the row cannot be run yet, "" if it can."""

    measured: Measured | None = None
    """What is measured on the row's networks; None for their top-1 on the test set."""

    @property
    def metric(self) -> str:
        """The metric of the row's numbers in `results/published`."""
        return self.accuracy if self.measured is None else self.measured.metric

    @property
    def ranked(self) -> bool:
        """Whether a larger number is better, so that rows can be ranked."""
        return self.measured is None or self.measured.ranked

    @property
    def sources(self) -> tuple[str, ...]:
        """The published tables of `source`, each as `paper/table`."""
        return tuple(filter(None, (name.strip() for name in self.source.split(","))))


@dataclass(frozen=True)
class Table:
    """A published table as this suite regenerates it."""

    name: str
    """The file's name without `.toml`."""

    title: str
    paper: str

    table: str
    """Name of the published table within its paper."""

    dataset: str
    protocol: str

    seeds: int
    """Runs of each cell under the published protocol."""

    columns: tuple[tuple[str, str], ...]
    """Pairs of teacher and student."""

    rows: tuple[Row, ...]
    note: str = ""

    protocol_override: str = ""
    """A protocol for all rows in place of theirs, "" for none."""

    quick_columns: tuple[tuple[str, str], ...] = ()
    """The columns of profile `quick`; empty for all."""

    measured: tuple[Measured, ...] = ()
    """What is measured on the networks of every row; empty for their top-1 on the test set."""

    quick_dataset: str = ""
    """The data set of profile `quick`, "" for the profile's."""

    shown: str = ACCURACY
    """How the table prints its values, one of `SHOWN`."""


def table_names() -> tuple[str, ...]:
    """Return the names of all tables: the built-in ones, and those in `tables/` of the working folder."""
    return tuple(toml_files(FOLDER, USER_FOLDER))


def built_in_tables() -> tuple[str, ...]:
    """Return the names of the tables that come with kd-tables."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load_table(name: str, folder: Path = FOLDER) -> Table:
    """Read and check a table: a built-in one, `tables/NAME.toml` of the working folder, or a file.

    name: a table's name, or the path of a `.toml` file.
    folder: the folder of the built-in tables.

    Raises `InputError` if the file is missing or has an error.
    """
    path = find_toml("table", name, built_in=folder, user=USER_FOLDER)
    raw = read_toml(path, "benchmark/spec/table_file.py describes the format")
    _check_fields(path.name, raw, _TABLE_FIELDS, required=_TABLE_REQUIRED)
    protocols.get_protocol(raw["protocol"])
    for dataset in (raw["dataset"], raw.get("quick_dataset", raw["dataset"])):
        data.check_name(dataset)
    if raw.get("shown", ACCURACY) not in SHOWN:
        raise unknown(f"word in `shown` of {path.name}:", raw["shown"], SHOWN)
    if not 1 <= raw["seeds"] <= MOST_SEEDS:
        raise InputError(f"{path.name}: seeds = {raw['seeds']}; allowed: 1 to {MOST_SEEDS}")
    for field in ("columns", "rows"):
        if not raw[field]:
            raise InputError(f"{path.name}: {field} is empty; a table has at least one")
    rows = tuple(
        _row(f"{path.name}, row {i}", r, raw["protocol"]) for i, r in enumerate(raw["rows"], start=1)
    )
    measured = measured_rows.read(path.name, raw["measure"]) if "measure" in raw else ()
    quick_columns = raw.get("quick_columns", [])
    if not all(isinstance(c, str) for c in [*raw["columns"], *quick_columns]):
        raise InputError(f"{path.name}: columns must be strings, written teacher:student")
    if wrong := [c for c in quick_columns if c not in raw["columns"]]:
        raise InputError(
            f"{path.name}: quick_columns has {', '.join(wrong)}; allowed: {', '.join(raw['columns'])}"
        )
    for what, names in (("columns", raw["columns"]), ("labels", [r.label for r in rows])):
        if repeated := sorted({n for n in names if names.count(n) > 1}):
            raise InputError(f"{path.name}: repeated {what}: {', '.join(repeated)}; keep one of each")
    rows = measured_forms(rows, measured)
    _check_published(path.name, f"{raw['paper']}/{raw['table']}", rows)
    return Table(
        name=path.stem,
        title=raw["title"],
        paper=raw["paper"],
        table=raw["table"],
        dataset=raw["dataset"],
        protocol=raw["protocol"],
        seeds=raw["seeds"],
        columns=tuple(parse_pair(c) for c in raw["columns"]),
        rows=rows,
        note=raw.get("note", ""),
        quick_columns=tuple(parse_pair(c) for c in quick_columns),
        quick_dataset=raw.get("quick_dataset", ""),
        shown=raw.get("shown", ACCURACY),
        measured=measured,
    )


def measured_forms(rows: Sequence[Row], measured: tuple[Measured, ...]) -> tuple[Row, ...]:
    """Return each row once for each number that is measured on its networks; the rows as they are if none is.

    The rows of one data set and number follow each other, and are ranked among themselves.
    """
    if not measured:
        return tuple(rows)
    return tuple(
        replace(
            row,
            label=measured_rows.label(row.label, m, measured),
            group=", ".join(filter(None, [row.group, *measured_rows.group(m, measured)])),
            published_dataset=row.published_dataset or m.target,
            measured=m,
        )
        for m in measured
        for row in rows
    )


def check_override(key: str, value: Any) -> Any:
    """Return the checked value of a setting: `METHOD.FIELD`, `MEASURE.FIELD`, `ce` or `recipe.FIELD`.

    Raises `InputError`.
    """
    if key.partition(".")[0] in measures.names():
        return measures.check_override(key, value)
    if key.startswith("recipe."):
        return recipes.check_recipe_override(key, value)
    return methods.check_override(key, value)


def concerns(key: str, method: str) -> bool:
    """Whether a setting changes the runs of a row with this method.

    It does if it belongs to one of the row's methods, to a method that these require, or to all training. A
    plain student has a recipe, and nothing else that can be set.
    """
    name = key.partition(".")[0]
    if method in PLAIN_ROWS:
        return method == "student" and name == "recipe"
    components = [m.strip() for m in method.split("+")]
    return name in ("ce", "recipe", *components) or name in methods.parse(method).requires


_TABLE_FIELDS = {
    "title": str,
    "paper": str,
    "table": str,
    "dataset": str,
    "protocol": str,
    "seeds": int,
    "columns": list,
    "quick_columns": list,
    "quick_dataset": str,
    "shown": str,
    "rows": list,
    "note": str,
    "measure": dict,
}
_TABLE_REQUIRED = ("title", "paper", "table", "dataset", "protocol", "seeds", "columns", "rows")
_ROW_FIELDS = {
    "label": str,
    "method": str,
    "protocol": str,
    "set": dict,
    "group": str,
    "metric": str,
    "published": str,
    "published_dataset": str,
    "from": str,
    "not_comparable": str,
    "missing": str,
}
_TYPE_NAMES = {str: "a string", int: "a whole number", list: "a list", dict: "a table"}


def _check_fields(
    owner: str, values: Mapping[str, Any], types: Mapping[str, type], *, required: Iterable[str]
) -> None:
    """Raise `InputError` for an unknown field, a value of the wrong type, or a missing required field."""
    for key, value in values.items():
        if key not in types:
            raise unknown(f"field in {owner}:", key, types)
        if not isinstance(value, types[key]) or isinstance(value, bool):
            raise InputError(f"{owner}: {key} = {value!r} is not {_TYPE_NAMES[types[key]]}")
        if isinstance(value, str):
            require_one_line(value, f"{owner}: {key}")
    for key in required:
        if key not in values:
            raise InputError(f"{owner}: {key} is missing; required: {', '.join(required)}")


def _row(owner: str, raw: Any, table_protocol: str) -> Row:
    if not isinstance(raw, dict):
        raise InputError(f"{owner} is not a table; start every row with [[rows]]")
    _check_fields(owner, raw, _ROW_FIELDS, required=("label", "method"))
    protocol, method = raw.get("protocol", table_protocol), raw["method"]
    protocols.get_protocol(protocol)
    if raw.get("metric", "top1") not in METRICS:
        raise unknown(f"metric of {owner}:", raw["metric"], METRICS)
    settings: Overrides = ()
    if not raw.get("missing"):  # the method of a missing row need not exist
        settings = tuple(sorted((k, check_override(k, v)) for k, v in raw.get("set", {}).items()))
    if unused := [k for k, _ in settings if not concerns(k, method)]:
        problem = f"{owner} ('{raw['label']}'): set has {', '.join(unused)}"
        if method in PLAIN_ROWS:
            but = "" if method == "teacher" else " but recipe.FIELD"
            raise InputError(f"{problem}; rows of method {method} have no settings{but}")
        raise InputError(
            f"{problem}, which no run of the row uses; allowed: settings of {method}, ce, recipe.FIELD"
        )
    return Row(
        label=raw["label"],
        method=method,
        protocol=protocol,
        settings=settings,
        group=raw.get("group", ""),
        accuracy=raw.get("metric", "top1"),
        published=str(raw.get("published", method)),
        source=raw.get("from", ""),
        published_dataset=raw.get("published_dataset", ""),
        not_comparable=raw.get("not_comparable", ""),
        missing=raw.get("missing", ""),
    )


def _check_published(file: str, table: str, rows: Sequence[Row]) -> None:
    """Check the rows' `from`, `published` and `published_dataset` against the published values.

    Raises `InputError` for a `from` that is not a published table, and for a `published` or a
    `published_dataset` that none of the row's published tables has. The table itself may be unpublished: then
    only `from` is checked.
    """
    if not any(r.source or r.published_dataset or r.published != r.method for r in rows):
        return
    published_tables: dict[str, set[str]] = {}
    datasets: dict[str, set[str]] = {}
    for number in published.numbers():
        published_tables.setdefault(number.published_in, set()).add(number.method)
        datasets.setdefault(number.published_in, set()).add(number.dataset)
    for i, row in enumerate(rows, start=1):
        owner = f"{file}, row {i} ('{row.label}')"
        for source in row.sources:
            if source not in published_tables:
                raise _unknown_source(owner, source, published_tables)
        published_rows = {m for name in (table, *row.sources) for m in published_tables.get(name, ())}
        if table in published_tables and row.published not in {row.method, *published_rows}:
            raise unknown(f"name in `published` of {owner}:", row.published, sorted(published_rows))
        of_row = {d for name in (table, *row.sources) for d in datasets.get(name, ())}
        named = row.published_dataset if row.measured is None else ""
        if table in published_tables and named not in {"", *of_row}:
            raise unknown(
                f"data set in `published_dataset` of {owner}:", row.published_dataset, sorted(of_row)
            )


def _unknown_source(owner: str, source: str, published_tables: Mapping[str, object]) -> InputError:
    paper = source.partition("/")[0]
    papers = sorted({name.partition("/")[0] for name in published_tables})
    allowed = [name for name in published_tables if name.partition("/")[0] == paper] or papers
    return InputError(
        f"{owner}: from = '{source}' is not a published table{hint(source, published_tables)}; "
        f"allowed: {', '.join(allowed)}, and the tables of KD_PUBLISHED="
    )
