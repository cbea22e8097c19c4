"""What a method gains over the plain student, by pair and against what its training costs; as figures."""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tables import svg
from tables.cells import BASELINE_ROWS, CellResult, number
from tables.statistics import mean
from tables.summary import FEWEST_PAIRS, baseline, row_scores
from tables.text import signed

FEWEST_ROWS = 3
"""With fewer methods, cost against gain says nothing that the table does not say."""

BY_PAIR = (
    "Each method's number minus that of the plain student of the same pair, by the {epoch}. All pairs have "
    "the same scale."
)
AGAINST_COST = (
    "Mean gain over the plain student by the {epoch}, against the mean hours of one run (its share of its "
    "pack's hours), over the {pairs} that every method shown has. On the line: no method that takes as long "
    "or less gains more. Hours depend on the machine, and on which runs shared a pack."
)


@dataclass(frozen=True)
class Point:
    """A row in the figure of gain against cost."""

    label: str
    hours: float
    """Mean hours of one run."""
    gain: float
    """Mean difference to the plain student in percentage points."""
    best: bool = False
    """Whether no other row is better in one of both and as good in the other."""


def gains(results: Sequence[CellResult], rule: str) -> dict[str, dict[str, float]]:
    """Return pair -> row label -> top-1 minus that of the student of this pair and group of rows.

    Empty without a row of students.

    rule: `last` or `best` epoch.
    """
    scores = row_scores(results, rule)
    rows = {r.cell.row.label: r.cell.row for r in results}
    by_pair: dict[str, dict[str, float]] = {}
    for label, by_row in scores.items():
        row = rows[label]
        student = baseline(rows.values(), scores, "student", row.group)
        for pair, value in by_row.items():
            if row.method not in BASELINE_ROWS and pair in student:
                by_pair.setdefault(pair, {})[label] = value - student[pair]
    return by_pair


def points(results: Sequence[CellResult], rule: str) -> tuple[list[Point], int]:
    """Return the rows with gain and cost, and the number of pairs behind them.

    Only pairs count on which every row has a gain and a cost; a row that has neither on any pair is left out.
    """
    hours = _hours(results)
    both = {
        (label, pair): gain
        for pair, by_row in gains(results, rule).items()
        for label, gain in by_row.items()
        if (label, pair) in hours
    }
    rows = list(dict.fromkeys(label for label, _ in both))
    pairs = [p for p in dict.fromkeys(pair for _, pair in both) if all((row, p) in both for row in rows)]
    if not pairs:
        return [], 0
    unmarked = [
        Point(row, mean([hours[row, p] for p in pairs]), mean([both[row, p] for p in pairs])) for row in rows
    ]
    return [
        Point(
            p.label,
            p.hours,
            p.gain,
            best=not any(
                q.hours <= p.hours and q.gain >= p.gain and (q.hours, q.gain) != (p.hours, p.gain)
                for q in unmarked
            ),
        )
        for p in unmarked
    ], len(pairs)


def _hours(results: Sequence[CellResult]) -> dict[tuple[str, str], float]:
    """Return (row label, pair) -> mean hours of a run."""
    by_cell: dict[tuple[str, str], list[float]] = {}
    for r in results:
        for run in r.runs:
            if run.row is not None and (seconds := number(run.row.get("share_seconds"))):
                by_cell.setdefault((r.cell.row.label, r.cell.pair), []).append(seconds / 3600)
    return {cell: mean(values) for cell, values in by_cell.items()}


def bars_by_pair(by_pair: Mapping[str, Mapping[str, float]]) -> str:
    """Draw a small plot for each pair, a bar for each row. "" for fewer than three pairs."""
    if len(by_pair) < FEWEST_PAIRS:
        return ""
    values = [v for by_row in by_pair.values() for v in by_row.values()]
    scale = svg.Scale(min(0.0, *values), max(0.0, *values), svg.LABEL, 340)
    figures = [
        f'<figure data-pair="{html.escape(pair, quote=True)}">'
        f"<figcaption>{html.escape(pair.replace(':', ' → '))}</figcaption>"
        f"{_bars(pair, by_row, scale)}</figure>"
        for pair, by_row in by_pair.items()
    ]
    return f'<div class="small-multiples">{"".join(figures)}</div>'


def _bars(pair: str, by_row: Mapping[str, float], scale: svg.Scale) -> str:
    bottom = svg.ROW * len(by_row) + 6
    zero = scale(0)
    body = [*scale.axis(2, bottom), svg.line(zero, 2, zero, bottom, "whisker")]
    for i, (label, gain) in enumerate(by_row.items()):
        y, end = svg.ROW * i + 12, scale(gain)
        body += [
            svg.text(svg.LABEL - 8, y + 4, label, "end", "label"),
            f'<rect x="{min(zero, end):.1f}" y="{y - 6}" width="{abs(end - zero):.1f}" height="12" '
            f'class="bar {"over" if gain >= 0 else "under"}"/>',
            svg.text(346, y + 4, signed(gain).replace("-", svg.MINUS), "start", "value"),
        ]
    return svg.draw(400, bottom + 20, body, f"gain over the plain student, {pair}")


def against_cost(rows: Sequence[Point]) -> str:
    """Draw gain against hours, with a line through the rows that no cheaper one equals.

    Returns "" for fewer than three rows.
    """
    if len(rows) < FEWEST_ROWS:
        return ""
    across = svg.Scale(0.0, max(p.hours for p in rows), 60, 430)
    up = svg.Scale(min(p.gain for p in rows), max(p.gain for p in rows), 260, 20)
    body = across.axis(14, 266)
    for t in svg.ticks(up.low, up.high):
        body += [svg.line(60, up(t), 436, up(t), "rule"), svg.text(54, up(t) + 4, f"{t:g}", "end", "tick")]
    front = sorted((p for p in rows if p.best), key=lambda p: p.hours)
    body += [
        svg.line(across(a.hours), up(a.gain), across(b.hours), up(b.gain), "group")
        for a, b in itertools.pairwise(front)
    ]
    body += [svg.circle(across(p.hours), up(p.gain), 3.5, "dot" if p.best else "ring") for p in rows]
    body += _labels(rows, across, up)
    body += [
        svg.text(436, 294, "hours of one run", "end", "tick"),
        svg.text(4, 10, "gain over the plain student", "start", "tick"),
    ]
    return svg.draw(560, 300, body, "gain over the plain student against hours of training")


def _labels(rows: Sequence[Point], across: svg.Scale, up: svg.Scale) -> list[str]:
    """Return the labels, moved down where they would lie on another one."""
    placed: list[tuple[float, float]] = []
    labels = []
    for p in sorted(rows, key=lambda p: -p.gain):
        x, y = across(p.hours) + 7, up(p.gain) + 4
        while any(abs(x - px) < 90 and abs(y - py) < 11 for px, py in placed):
            y += 11
        placed.append((x, y))
        labels.append(svg.text(x, y, p.label, "start", "label"))
    return labels
