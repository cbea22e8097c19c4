"""The cards at the top of the report: one a table, with its state and its result in a few numbers."""

from __future__ import annotations

import html
from collections.abc import Sequence

from benchmark.spec.matrix import Expansion
from benchmark.text import plural
from tables.cells import BASELINE_ROWS, CellResult, rank_rule
from tables.diff import Diff
from tables.statistics import mean
from tables.summary import summaries
from tables.svg import MARKS, MINUS
from tables.text import signed


def card(anchor: str, e: Expansion, results: Sequence[CellResult], diffs: Diff) -> str:
    """Return the HTML of a table's card, which links to its section. anchor: the section's id."""
    done, total = runs_done(results)
    chips = "".join(
        f'<span class="chip v-{v.css}" title="{html.escape(v)}">{MARKS[v]} {n}</span>'
        for v, n in diffs.counts().items()
        if n
    )
    lines = [f"{done} of {plural(total, 'run')} done"]
    if has_gains(e):
        lines += gains(results, rank_rule(e.table))
    profile = e.profile + e.suffix
    return (
        f'<a class="card" href="#{html.escape(anchor, quote=True)}"><b>{html.escape(e.table.name)}</b> '
        f'<span class="meta">{html.escape(profile)}</span>'
        f"{''.join(f'<span>{html.escape(x)}</span>' for x in lines)}<span>{chips}</span></a>"
    )


def has_gains(e: Expansion) -> bool:
    """Whether the rows of a table have a common scale on which more is better.

    Several numbers that are measured on a network have none, nor has a number without a better side.
    """
    return len(e.table.measured) < 2 and all(row.ranked for row in e.table.rows)


def runs_done(results: Sequence[CellResult]) -> tuple[int, int]:
    """Return the number of finished runs and of all runs; a run that cells share counts once."""
    # a dict, because columns share plain students and teachers
    done = {r.run.key: r.last is not None for c in results for r in c.runs}
    return sum(done.values()), len(done)


def gains(results: Sequence[CellResult], rule: str) -> list[str]:
    """Return the mean gain of the methods over the student, and the best method; [] if there is none.

    The best method has the largest mean gain of those that have a number on as many pairs as any has.
    """
    methods = {r.cell.row.label for r in results if r.cell.row.method not in BASELINE_ROWS}
    rows = [s for label, s in summaries(results, rule).items() if label in methods]
    known = [(s.over_student, s) for s in rows if s.over_student is not None]
    if not known:
        return []
    lines = [f"mean gain over the student {_points(mean([gain for gain, _ in known]))}"]
    most = max(s.pairs for _, s in known)
    complete = [(gain, s.label) for gain, s in known if s.pairs == most]
    if len(complete) > 1:
        gain, label = max(complete)
        lines.append(f"best: {label} ({_points(gain)})")
    return lines


def _points(x: float) -> str:
    return signed(x).replace("-", MINUS)
