"""A table's cells with the records that belong to them: what diff, rendering, figures and report all read."""

from __future__ import annotations

import json
import math
import numbers
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmark.spec import protocols
from benchmark.spec.matrix import Cell, Expansion, Table
from benchmark.spec.runs import NONE, Run
from results.store import Store
from tables.statistics import Sample

ON_TEST_SET = "best = the best epoch, chosen on the test set, as the papers do; last = the last epoch"

RULES = {
    "last": "last epoch",
    "best": "best epoch, chosen on the test set",
    "both": "epoch not known, both shown",
}
"""Reporting rules in words."""

LOUD = ("QUICK", "PROFILE", "SETTINGS")
"""How those lines of a header begin that say why its numbers are not the published ones."""

STATE_WORDS = {
    "absent": "not run",
    "started": "begun, not finished",
    "running": "running",
    "failed": "failed",
    "diverged": "diverged",
}


@dataclass(frozen=True)
class RunResult:
    """A run and its record's row of `results.load()` (None: there is none). state: as `Store.state`; reason: why it failed or diverged.

    last, best: top-1 in %, None where there is no number (a diverged run has none that counts).
    """

    run: Run
    state: str
    row: Mapping[str, Any] | None
    reason: str = ""
    last: float | None = None
    best: float | None = None

    @property
    def is_reference(self) -> bool:
        return self.row is not None and self.row.get("origin") == "reference"

    @property
    def settings(self) -> dict[str, Any]:
        found: dict[str, Any] = self.run.settings
        if self.row is not None and isinstance(self.row.get("settings"), str):
            found = json.loads(self.row["settings"])
        return found


@dataclass(frozen=True)
class CellResult:
    """A cell and its runs' results, in order of seed. rule: the reporting rule of the row's protocol (`last`, `best` or `both`)."""

    cell: Cell
    protocol: str
    rule: str
    runs: tuple[RunResult, ...]

    @property
    def expected(self) -> int:
        return len(self.runs)

    def by_seed(self, which: str) -> dict[int, float]:
        """seed -> top-1 of the `last` or `best` epoch, of the runs that have one."""
        found = ((r.run.seed, r.last if which == "last" else r.best) for r in self.runs)
        return {seed: value for seed, value in found if value is not None}

    def sample(self, which: str) -> Sample | None:
        """Mean, std and n over the seeds that are done; None if none is."""
        values = [v for _, v in sorted(self.by_seed(which).items())]
        return Sample.of(values) if values else None

    @property
    def n(self) -> int:
        return len(self.by_seed("last"))

    @property
    def is_reference(self) -> bool:
        return any(r.is_reference for r in self.runs if r.last is not None)

    @property
    def imported(self) -> str:
        """The hash of the imported checkpoint that this cell measures or learns from ("" if all is ours)."""
        for r in self.runs:
            ref = r.run.evaluates or r.run.teacher_ref
            if ref is not None and ref.run is None:
                return ref.weights
        return ""

    def states(self) -> dict[str, int]:
        """How many runs are not done, by state."""
        return dict(sorted(Counter(r.state for r in self.runs if r.last is None).items()))

    def absence(self) -> str:
        """What keeps the cell from being complete, in words ("" if nothing does): `failed`, `2 of 5 not run, 1 of 5 diverged`."""
        if not self.runs:
            return "" if self.cell.missing else f"N/A: {self.cell.reason}"
        parts = []
        for state, count in self.states().items():
            words = STATE_WORDS.get(state, state)
            parts.append(words if count == self.expected else f"{count} of {self.expected} {words}")
        return ", ".join(parts)

    def reasons(self) -> tuple[str, ...]:
        """Why runs failed or diverged, each once."""
        return tuple(dict.fromkeys(r.reason for r in self.runs if r.reason))


def rank_rule(table: Table) -> str:
    """The one rule by which methods of a table are ordered: its protocol's; where that is not known, the last epoch (the one that was
    not chosen on the test set). Rows of another rule are ordered by this one too: every record has both."""
    rule = protocols.get_protocol(table.protocol_override or table.protocol).report
    return "last" if rule == "both" else rule


def collect(expansion: Expansion, frame: pd.DataFrame, store: Store | None = None) -> list[CellResult]:
    """The cells of an expansion with their results.

    frame: `results.load()`; where a key is there twice, our own record wins over a reference record. store: tells failed and running runs
    from those never begun; without it every run that has no record is `absent`.
    """
    rows: dict[str, dict[str, Any]] = {}
    wanted = {r.key for c in expansion.cells for r in c.runs}
    found = frame[frame["key"].isin(wanted)]
    for row in found.sort_values(["key", "origin"], ascending=[True, False]).to_dict(
        "records"
    ):  # `runs` sorts after `reference`
        rows.setdefault(str(row["key"]), {str(k): v for k, v in row.items()})
    results = []
    for cell in expansion.cells:
        protocol = expansion.table.protocol_override or cell.row.protocol
        runs = tuple(
            _result(run, rows.get(run.key), store) for run in sorted(cell.runs, key=lambda r: (r.seed, r.key))
        )
        results.append(CellResult(cell, protocol, protocols.get_protocol(protocol).report, runs))
    return results


def number(value: Any) -> float | None:
    """A finite float, or None for anything else (NaN, NA, None)."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) else None


def _result(run: Run, row: Mapping[str, Any] | None, store: Store | None) -> RunResult:
    if row is None:
        state = "absent" if store is None else store.state(run.key)
        if state in (
            "done",
            "diverged",
        ):  # it ended after the records were read: the next reading will show it
            state = "running"
        failure = store.failure(run.key) if store is not None and state == "failed" else None
        return RunResult(run, state, None, "" if failure is None else str(failure.get("reason", "")))
    reason = row.get("reason")
    reason = reason if isinstance(reason, str) else ""
    if row.get("status") != "done":
        return RunResult(run, "diverged", row, reason)
    last, best = number(row.get("top1_last")), number(row.get("top1_best"))
    if last is None and best is None:
        return RunResult(run, "failed", row, "the record holds no top-1")
    return RunResult(run, "done", row, reason, best if last is None else last, last if best is None else best)


def conditions(results: list[CellResult]) -> str:
    """Device and precision of the records that a table rests on."""
    found: Counter[str] = Counter()
    for r in {r.run.key: r for c in results for r in c.runs if r.row is not None}.values():
        assert r.row is not None
        device, precision = (
            r.row.get(k) if isinstance(r.row.get(k), str) else "unknown" for k in ("device", "precision")
        )
        found[f"{device}, {precision}"] += 1
    if not found:
        return "no records yet"
    if len(found) == 1:
        return f"{next(iter(found))} ({_runs(found.total())})"
    return "; ".join(f"{name} ({_runs(count)})" for name, count in sorted(found.items()))


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def changed_settings(expansion: Expansion) -> str:
    """A line that names the settings of `--set` ("" where there are none). It says it of the profile too, whose title names some."""
    settings = ", ".join(f"{k}={v}" for k, v in expansion.overrides)
    return (
        settings
        and f"SETTINGS CHANGED: {settings}. Wherever they apply, these are not the published settings, nor the profile's."
    )


def header(expansion: Expansion, results: list[CellResult]) -> list[str]:
    """What has to stand above any showing of a table: what it is, how it was made, and for `quick` that it means nothing."""
    table, profile = expansion.table, protocols.get_profile(expansion.profile)
    changed = changed_settings(expansion)
    used = dict.fromkeys(c.protocol for c in results)
    runs = {
        r.run.key: r.last is not None for c in results for r in c.runs
    }  # columns share plain students and teachers
    lines = [
        table.title,
        f"profile {profile.name} ({'but for the changed settings: ' if changed else ''}{profile.title}); data set {expansion.dataset}; protocol "
        + ", ".join(f"{p} ({RULES[protocols.get_protocol(p).report]})" for p in used)
        + f"; seeds {', '.join(map(str, expansion.seeds))}",
        f"conditions: {conditions(results)}; {sum(runs.values())} of {len(runs)} runs of the cells done",
    ]
    if changed:
        lines.insert(1, changed)
    if profile.name == "quick":
        lines.insert(
            1, "QUICK PROFILE: these numbers mean only that it works. They say nothing about any method."
        )
    elif profile.name != "paper":
        lines.insert(
            1,
            f"PROFILE {profile.name.upper()}: not the published schedule. These numbers cannot be compared with printed ones.",
        )
    made = len({c.cell.pair for c in results})
    if profile.name == "quick" and table.quick_columns and made < len(table.columns):
        lines.append(f"{made} of {len(table.columns)} columns: the others are left out of this profile")
    if table.protocol_override:
        lines.append(
            f"protocol {table.protocol_override} instead of the table's own: not comparable with the printed numbers"
        )
    return lines


def column_title(teacher: str, student: str, arrow: str = "\n") -> str:
    return student if teacher == NONE else f"{teacher}{arrow}{student}"
