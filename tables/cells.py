"""The cells of a table with the records of their runs.

Diff, rendering, figures and report start from them.
"""

from __future__ import annotations

import json
import math
import numbers
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmark import measures
from benchmark.spec import profiles, protocols
from benchmark.spec.matrix import Cell, Expansion, Row, Table
from benchmark.spec.runs import NONE, Run
from benchmark.spec.table_file import ERROR
from benchmark.text import plural
from results import imported_logs
from results.published.schema import METRIC_WORDS
from results.store import Store
from tables.statistics import Sample

BASELINE_ROWS = ("teacher", "student")
"""The rows that are not distillation methods."""

EPOCH_NOTE = "best = the best epoch, chosen on the test set, as the papers do; last = the last epoch"

BEST_MARK = "ᵇ"
"""Marks a number of the best epoch, chosen on the test set, where there is no room for words."""

BEST_LEGEND = f"{BEST_MARK} best epoch, chosen on the test set"

REFERENCE_MARK, IMPORTED_MARK = "†", "‡"
"""Mark the numbers of reference records, and of imported checkpoints that were only evaluated here."""

REFERENCE_LEGEND = f"{REFERENCE_MARK} reference records, which come with the project and were not made here."


def imported_legend(names: Iterable[str], more: str = "") -> str:
    """Return the line that explains `IMPORTED_MARK`. names: those of the checkpoints."""
    return f"{IMPORTED_MARK} an imported checkpoint, evaluated here{more}: {', '.join(dict.fromkeys(names))}."


RULES = {
    "last": "last epoch",
    "best": "best epoch, chosen on the test set",
    "both": "epoch not known, both shown",
}
"""The reporting rules in words."""


STATE_WORDS = {
    "absent": "not run",
    "started": "started, not finished",
    "running": "running",
    "failed": "failed",
    "diverged": "diverged",
}


@dataclass(frozen=True)
class Header:
    """The lines above every form of a table."""

    title: str
    warnings: tuple[str, ...]
    """Why the numbers are not the published ones: a shortened profile, changed settings."""
    conditions: tuple[str, ...]
    """How the numbers were made."""

    @property
    def lines(self) -> list[str]:
        """All lines in order."""
        return [self.title, *self.warnings, *self.conditions]


@dataclass(frozen=True)
class RunResult:
    """A run with its record."""

    run: Run
    state: str
    """As returned by `Store.state`."""
    row: Mapping[str, Any] | None
    """The record's row of `results.load()`. None if there is no record."""
    reason: str = ""
    """Why the run failed or diverged."""
    last: float | None = None
    """The row's metric (top-1 or top-5) of the last epoch in %. None if there is no number, or none that
    counts because the run diverged.
    """
    best: float | None = None
    """The same of the epoch with the best top-1."""

    @property
    def is_reference(self) -> bool:
        """Whether the record is one of the reference records that come with the project."""
        return self.row is not None and self.row.get("origin") == "reference"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the record; without a record, those of the run."""
        if self.row is not None and isinstance(self.row.get("settings"), str):
            recorded: dict[str, Any] = json.loads(self.row["settings"])
            return recorded
        return self.run.settings


@dataclass(frozen=True)
class CellResult:
    """A cell with the results of its runs."""

    cell: Cell
    protocol: str
    rule: str
    """The reporting rule of the row's protocol: `last`, `best` or `both`."""
    runs: tuple[RunResult, ...]
    """In order of seed."""
    imported_logs: tuple[tuple[float, float], ...] = ()
    """Top-1 of the last and the best epoch of trainings elsewhere, from their logs. They are in no mean."""

    @property
    def expected(self) -> int:
        """Number of runs that the cell should have."""
        return len(self.runs)

    def by_seed(self, which: str) -> dict[int, float]:
        """Return seed -> top-1 of the `last` or `best` epoch, for the runs that have one."""
        values = ((r.run.seed, r.last if which == "last" else r.best) for r in self.runs)
        return {seed: value for seed, value in values if value is not None}

    def sample(self, which: str) -> Sample | None:
        """Return mean, std and n over the finished seeds; None if there is none."""
        values = [v for _, v in sorted(self.by_seed(which).items())]
        return Sample.of(values) if values else None

    @property
    def n(self) -> int:
        """Number of runs that have a number."""
        return len(self.by_seed("last"))

    @property
    def is_reference(self) -> bool:
        """Whether some number comes from a reference record."""
        return any(r.is_reference for r in self.runs if r.last is not None)

    @property
    def imported(self) -> str:
        """Hash of the imported checkpoint that the cell measures or learns from, "" if there is none."""
        for r in self.runs:
            training = r.run
            if training.evaluates is not None and training.evaluates.run is not None:
                training = training.evaluates.run
            ref = training.evaluates or training.teacher_ref
            if ref is not None and ref.run is None:
                return ref.weights
        return ""

    @property
    def measures_imported(self) -> bool:
        """Whether the cell evaluates an imported checkpoint, without any training."""
        return any(r.run.evaluates is not None and r.run.evaluates.run is None for r in self.runs)

    @property
    def imported_name(self) -> str:
        """The imported checkpoint as `NETWORK (HASH)`, "" if there is none."""
        network = self.cell.student if self.cell.teacher == NONE else self.cell.teacher
        return f"{network} ({self.imported[:10]})" if self.imported else ""

    @property
    def marks(self) -> str:
        """The marks of the cell's number for its origin."""
        return origin_marks(self.is_reference, self.measures_imported)

    def states(self) -> dict[str, int]:
        """Return the number of unfinished runs by state."""
        return dict(sorted(Counter(r.state for r in self.runs if r.last is None).items()))

    def absence(self) -> str:
        """Say why runs are missing, "" if none is. Examples: `failed`, `2 of 5 not run, 1 of 5 diverged`."""
        if not self.runs:
            return "" if self.cell.missing else f"N/A: {self.cell.reason}"
        parts = []
        for state, count in self.states().items():
            words = STATE_WORDS.get(state, state)
            parts.append(words if count == self.expected else f"{count} of {self.expected} {words}")
        return ", ".join(parts)

    def reasons(self) -> tuple[str, ...]:
        """Return why runs failed or diverged, without repetitions."""
        return tuple(dict.fromkeys(r.reason for r in self.runs if r.reason))


def origin_marks(reference: bool, imported: bool) -> str:
    """Return the marks of a number: of reference records, of an imported checkpoint, both or none."""
    return (REFERENCE_MARK if reference else "") + (IMPORTED_MARK if imported else "")


def rank_rule(table: Table) -> str:
    """Return the epoch (`last` or `best`) by which all methods of a table are ranked.

    It is the one that the table's protocol reports. Where the protocol's epoch is not known it is the last
    one, which was not chosen on the test set. Rows with another rule are ranked by this one as well, because
    every record has both.
    """
    rule = protocols.get_protocol(table.protocol_override or table.protocol).report
    return "last" if rule == "both" else rule


def collect(expansion: Expansion, frame: pd.DataFrame, store: Store | None = None) -> list[CellResult]:
    """Return the cells of an expansion with their results.

    frame: `results.load()`. A user's record takes precedence over a reference record with the same key.
    store: tells failed and running runs from those that were never started. Without it, every run without a
    record is `absent`.
    """
    rows: dict[str, dict[str, Any]] = {}
    keys = {r.key for c in expansion.cells for r in c.runs}
    records = frame[frame["key"].isin(keys)]
    # descending, so that the origin `runs` comes before `reference`
    records = records.sort_values(["key", "origin"], ascending=[True, False])
    for row in records.to_dict("records"):
        rows.setdefault(str(row["key"]), {str(k): v for k, v in row.items()})
    results = []
    logs = _imported_logs(expansion, frame)
    for cell in expansion.cells:
        protocol = expansion.table.protocol_override or cell.row.protocol
        runs = sorted(cell.runs, key=lambda r: (r.seed, r.key))
        results.append(
            CellResult(
                cell=cell,
                protocol=protocol,
                rule=protocols.get_protocol(protocol).report
                if cell.row.measured is None
                else cell.row.measured.rule,
                runs=tuple(_result(run, rows.get(run.key), store, cell.row) for run in runs),
                imported_logs=logs.get((protocol, *_name_of(cell)), ()) if cell.row.metric == "top1" else (),
            )
        )
    return results


def _name_of(cell: Cell) -> tuple[str, str, str]:
    """Return teacher, student and method. A plain student is the same for all teachers."""
    method = cell.row.method
    return NONE if method == "student" else cell.teacher, cell.student, method


def _imported_logs(
    expansion: Expansion, frame: pd.DataFrame
) -> dict[tuple[str, str, str, str], tuple[tuple[float, float], ...]]:
    """Return last and best top-1 of the imported logs by protocol, teacher, student and method."""
    chosen = frame[
        (frame["origin"] == imported_logs.ORIGIN)
        & (frame["dataset"] == expansion.dataset)
        & (frame["profile"] == expansion.profile)
    ]
    logs: dict[tuple[str, str, str, str], tuple[tuple[float, float], ...]] = {}
    for row in chosen.sort_values("key").to_dict("records"):
        teacher = NONE if row["method"] == "student" else str(row["teacher"])
        name = (str(row["protocol"]), teacher, str(row["student"]), str(row["method"]))
        last, best = number(row["top1_last"]), number(row["top1_best"])
        if last is not None and best is not None:
            logs[name] = (*logs.get(name, ()), (last, best))
    return logs


def number(value: Any) -> float | None:
    """Return a finite number as a float, None for anything else (NaN, NA, None)."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) else None


def _result(run: Run, row: Mapping[str, Any] | None, store: Store | None, of: Row) -> RunResult:
    if row is None:
        state = "absent" if store is None else store.state(run.key)
        if state in ("done", "diverged"):  # finished after the records were read; the next command shows it
            state = "running"
        failure = store.failure(run.key) if store is not None and state == "failed" else None
        return RunResult(run, state, None, "" if failure is None else str(failure.get("reason", "")))
    reason = row.get("reason")
    reason = reason if isinstance(reason, str) else ""
    if row.get("status") != "done":
        return RunResult(run, "diverged", row, reason)
    if of.measured is not None:
        last = best = number(measured_numbers(row).get(of.measured.shown))
        problem = f"the record has no number {of.measured.shown}"
    else:
        last, best = number(row.get(f"{of.metric}_last")), number(row.get(f"{of.metric}_best"))
        problem = f"the record has no {METRIC_WORDS[of.metric]}"
    if last is None and best is None:
        return RunResult(run, "failed", row, problem)
    return RunResult(
        run=run,
        state="done",
        row=row,
        reason=reason,
        last=best if last is None else last,
        best=last if best is None else best,
    )


def measured_numbers(row: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return all numbers of a measure's record by name, {} for any other record and for none."""
    text = None if row is None else row.get("numbers")
    return json.loads(text) if isinstance(text, str) else {}


def other_numbers(result: CellResult) -> str:
    """Return what else was measured for a cell, as means over its seeds; "" if nothing was."""
    shown = "" if result.cell.row.measured is None else result.cell.row.measured.shown
    values: dict[str, list[float]] = {}
    for r in result.runs:
        for name, value in measured_numbers(r.row).items():
            if name != shown:
                values.setdefault(name, []).append(value)
    return ", ".join(f"{name} {sum(v) / len(v):.2f}" for name, v in values.items())


def conditions(results: list[CellResult]) -> str:
    """Return the devices and precisions of the records behind a table."""
    counts: Counter[str] = Counter()
    for r in {r.run.key: r for c in results for r in c.runs if r.row is not None}.values():
        assert r.row is not None
        device, precision = (
            r.row.get(k) if isinstance(r.row.get(k), str) else "unknown" for k in ("device", "precision")
        )
        counts[f"{device}, {precision}"] += 1
    if not counts:
        return "no records yet"
    return "; ".join(f"{name} ({plural(count, 'run')})" for name, count in sorted(counts.items()))


def changed_settings(expansion: Expansion) -> str:
    """Return a warning that names the settings of `--set`, "" if there are none."""
    settings = ", ".join(f"{k}={v}" for k, v in expansion.overrides)
    return settings and (
        f"SETTINGS CHANGED: {settings}. Where they apply, these are neither the published settings nor the "
        "profile's."
    )


def profile_warning(profile: str) -> str:
    """Return a warning for a profile whose numbers are not comparable with published ones, "" for `paper`."""
    if profile == "quick":
        return "QUICK PROFILE: these numbers only show that the program works, nothing about any method."
    if profile != "paper":
        return (
            f"PROFILE {profile.upper()}: not the published schedule. These numbers cannot be compared with "
            "published ones."
        )
    return ""


def header(expansion: Expansion, results: list[CellResult]) -> Header:
    """Return the lines that belong above every form of a table."""
    table, profile = expansion.table, profiles.get_profile(expansion.profile)
    changed = changed_settings(expansion)
    title = profile.title_on(expansion.dataset)
    title = f"except for the changed settings: {title}" if changed else title
    used = dict.fromkeys(c.protocol for c in results)
    rules = ", ".join(f"{p} ({RULES[protocols.get_protocol(p).report]})" for p in used)
    # a dict, because columns share plain students and teachers
    done = {r.run.key: r.last is not None for c in results for r in c.runs}
    lines = [
        f"profile {profile.name} ({title}); data set {expansion.dataset}; protocol {rules}; "
        f"seeds {', '.join(map(str, expansion.seeds))}",
        f"conditions: {conditions(results)}; {sum(done.values())} of {len(done)} runs done",
    ]
    chosen = dict.fromkeys(r.run.recipe.selection.describe() for c in results for r in c.runs)
    if selections := "; ".join(filter(None, chosen)):
        lines.append(f"training images: {selections}; teachers learn from all images and clean labels")
    if table.measured:
        lines.append(measured_line(results))
    columns = len({c.cell.pair for c in results})
    if profile.name == "quick" and table.quick_columns and columns < len(table.columns):
        lines.append(f"{columns} of {len(table.columns)} columns: this profile leaves out the others")
    if table.protocol_override:
        lines.append(
            f"protocol {table.protocol_override} instead of the table's: not comparable with the published "
            "numbers"
        )
    warnings = tuple(filter(None, (profile_warning(profile.name), changed)))
    return Header(title=table.title, warnings=warnings, conditions=tuple(lines))


def what_is_shown(table: Table) -> str:
    """Return what the numbers of a table are, with their unit.

    Examples: `top-1 in %`, `linear probe: top1_best, knn_top1 in %`.
    """
    names: dict[tuple[str, str], list[str]] = {}
    for m in table.measured:
        names.setdefault((measures.get(m.name).title, m.unit), []).append(m.shown)
    parts: dict[str, list[str]] = {}
    for (title, unit), shown in names.items():
        what = ", ".join(dict.fromkeys(shown))
        parts.setdefault(title, []).append(f"{what} in {unit}" if unit else what)
    words = "; ".join(f"{title}: {' and '.join(texts)}" for title, texts in parts.items())
    return words or f"{metrics_of(table)}{' error' if table.shown == ERROR else ''} in %"


def metrics_of(table: Table) -> str:
    """Return which accuracies a table shows: `top-1`, `top-1 and top-5`."""
    return " and ".join(dict.fromkeys(METRIC_WORDS[row.accuracy] for row in table.rows))


def measured_line(results: list[CellResult]) -> str:
    """Return what a table shows that is measured on its networks, with the settings that are not defaults."""
    specs = {json.dumps(r.run.measure.order()): r.run for c in results for r in c.runs if r.run.measure}
    targets: dict[tuple[str, str], list[str]] = {}
    for run in specs.values():
        assert run.measure is not None
        defaults = run.measure.measure.Config()
        changed = [_setting(k, v) for k, v in run.measure.fields().items() if v != getattr(defaults, k)]
        settings = f" ({', '.join(changed)})" if changed else ""
        of = run.evaluates
        epoch = "" if of is None or of.run is None else f", networks of the {RULES[of.epoch]}"
        targets.setdefault((f"{run.measure.measure.title}{settings}", epoch), []).append(run.measured_on)
    words = (f"{what} on {' and '.join(dict.fromkeys(on))}{epoch}" for (what, epoch), on in targets.items())
    return f"measured on the trained networks, not their top-1: {'; '.join(words)}"


def _setting(name: str, value: Any) -> str:
    """Return a setting of a measure in words: a size of 0 leaves the images as they are."""
    return "images at their own size" if (name, value) == ("size", 0) else f"{name} {value}"


def column_title(teacher: str, student: str, arrow: str = "\n") -> str:
    """Return a column's title: teacher and student, or the student alone where there is no teacher."""
    return student if teacher == NONE else f"{teacher}{arrow}{student}"
