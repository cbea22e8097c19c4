"""The report: one self-contained HTML page with all tables. It needs no network.

`tables/page/` has its style sheet and script. `tables.svg` draws the figures. The script draws curves when a
cell is opened, from JSON data in the page.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.spec.matrix import Expansion, Row
from benchmark.spec.table_file import ERROR
from benchmark.text import plural
from results.files import atomic
from results.store import Store
from tables import entropy_pictures
from tables.cells import (
    BASELINE_ROWS,
    BEST_LEGEND,
    EPOCH_NOTE,
    changed_settings,
    column_title,
    profile_warning,
    rank_rule,
    what_is_shown,
)
from tables.curves import BAND
from tables.diff import CellDiff, diff_table
from tables.published_cells import PublishedCells
from tables.render import Entry, Layout, explanations, lay_out
from tables.report_cards import card, runs_done
from tables.report_details import details
from tables.report_downloads import downloads
from tables.report_figures import figures
from tables.statistics import RULE
from tables.summary import FEWEST_PAIRS, FORMULAS, RowSummary, summaries
from tables.svg import MARKS, MINUS
from tables.text import capitalized, signed
from tables.verdicts import Verdict

PAGE = Path(__file__).resolve().parent / "page"
TITLE = "Distillation tables: regenerated, published, difference"


def write_report(
    expansions: Sequence[Expansion],
    frame: pd.DataFrame,
    store: Store,
    out: Path | str = "report",
    published: PublishedCells | None = None,
    suffix: str | None = None,
) -> Path:
    """Write `<out>/index.html` and return its path. frame: `results.load()`. store: has the runs' curves.

    With settings of `--set` the name is `index-set-<settings>.html`, so that the page of the tables' own
    settings is kept. suffix: what follows `index` (default: the tables' settings).
    """
    if suffix is None:
        suffix = max((e.suffix for e in expansions), default="")
    path = Path(out) / f"index{suffix}.html"
    text = page(expansions, frame, store, published)
    with atomic(path) as f:
        f.write(text)
    return path


def page(
    expansions: Sequence[Expansion],
    frame: pd.DataFrame,
    store: Store,
    published: PublishedCells | None = None,
) -> str:
    """Return the text of the page. published: the published numbers (default: those of the registry)."""
    published_curves: dict[str, Any] = {}
    sections = [
        _section(e, anchor, frame, store, published, published_curves)
        for e, anchor in zip(expansions, _anchors(expansions), strict=True)
    ]
    data = {k: v for section in sections for k, v in section.cells.items()}
    content = {"cells": data, "published_curves": published_curves, "band": BAND}
    # "</script" would end the script, and "<!--<script" hide its end; in JSON "<" stands only in strings
    blob = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    style, script = ((PAGE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    warnings = [w for e in expansions for w in (profile_warning(e.profile), changed_settings(e)) if w]
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f'<link rel="icon" href="data:,">\n<title>{TITLE}</title>',
            f"<style>\n{style}</style>\n</head>\n<body>",
            f"<header><h1>{TITLE}</h1>",
            f'<p class="meta">{plural(len(expansions), "table")}; written {now}. {_e(_what(expansions))}'
            f"{_e(capitalized(EPOCH_NOTE))}.</p>",
            *(_warning(w) for w in dict.fromkeys(warnings)),
            f'<nav class="cards" aria-label="Tables">{"".join(x.card for x in sections)}</nav>',
            _filters(expansions),
            "</header>\n<main>",
            *(x.body for x in sections),
            _explanations(),
            "</main>",
            f'<script type="application/json" id="data">{blob}</script>',
            f"<script>\n{script}</script>\n</body>\n</html>\n",
        ]
    )


def _what(expansions: Sequence[Expansion]) -> str:
    """Return what the numbers are, "" if the tables show different ones: each says it in its notes."""
    shown = {what_is_shown(e.table) for e in expansions}
    return f"{capitalized(shown.pop())}. " if len(shown) == 1 else ""


def _warning(text: str) -> str:
    return f'<p class="loud">{_e(text)}</p>'


def _e(text: object) -> str:
    return html.escape(str(text), quote=True)


def _option(value: str, text: str) -> str:
    return f'<option value="{_e(value)}">{_e(text)}</option>'


def _filters(expansions: Sequence[Expansion]) -> str:
    """Return the form above the tables."""
    pairs = sorted({f"{t}:{s}" for e in expansions for t, s in e.table.columns})
    boxes = "".join(
        f'<label class="v-{v.css}"><input type="checkbox" name="verdict" value="{v}" checked> {MARKS[v]} {v} '
        f'<b data-count="{v}"></b></label>'
        for v in Verdict
    )
    names = dict.fromkeys(e.table.name for e in expansions)
    tables = "".join(_option(name, name) for name in names)
    options = "".join(_option(p, p.replace(":", " → ")) for p in pairs)
    toggle = "".join(
        f'<label><input type="radio" name="view" value="{value}"{" checked" if value == "ours" else ""}> '
        f"{text}</label>"
        for value, text in VIEWS.items()
    )
    themes = (("", "as the system"), ("light", "light"), ("dark", "dark"))
    return (
        '<form id="filters" aria-label="Filters">'
        f'<fieldset class="toggle"><legend>Show</legend>{toggle}</fieldset>'
        '<output id="matches" aria-live="polite"></output>'
        '<details id="fold" open><summary>Filters</summary><div class="fields">'
        f'<label>Table <select name="table">{_option("", "all")}{tables}</select></label>'
        f'<label>Pair <select name="pair">{_option("", "all")}{options}</select></label>'
        '<label>Method <input name="method" type="search" placeholder="any" size="9"></label>'
        f"<fieldset><legend>Verdict</legend>{boxes}</fieldset>"
        '<label><input type="checkbox" name="blank" value="yes"> rows and pairs without records</label>'
        f'<label>Theme <select name="theme">{"".join(_option(*t) for t in themes)}</select></label>'
        '<button type="reset">Reset</button></div></details></form>'
    )


VIEWS = {
    "ours": "regenerated and difference",
    "all": "published too",
    "published": "published",
    "delta": "difference",
}
"""What the cells show, by the value of the form's `view`. A narrow window begins with `delta`."""

ERRORS = (
    "The cells show errors, 100 - accuracy, as the paper does. Differences, figures and details are of "
    "accuracies."
)
"""Stands above a table of errors."""

SUMMARY_COLUMNS = {
    "average": "average",
    "over_student": "over student",
    "over_kd": "over KD",
    "ari": "ARI over KD, %",
}
"""The columns of averages over pairs: field of `RowSummary` and title."""


@dataclass(frozen=True)
class Section:
    """A table in the page."""

    card: str
    body: str
    """Its HTML."""
    cells: dict[str, Any]
    """The details of its cells."""


def _anchors(expansions: Sequence[Expansion]) -> list[str]:
    """Return a name for each section: the table's, with profile and settings if several are of that table."""
    names = [e.table.name for e in expansions]
    anchors: list[str] = []
    for e in expansions:
        several = names.count(e.table.name) > 1
        anchor = f"{e.table.name}-{e.profile}{e.suffix}" if several else e.table.name
        repeated = sum(a == anchor or a.startswith(f"{anchor}~") for a in anchors)
        anchors.append(f"{anchor}~{repeated + 1}" if repeated else anchor)
    return anchors


def _section(
    e: Expansion,
    anchor: str,
    frame: pd.DataFrame,
    store: Store,
    published: PublishedCells | None,
    published_curves: dict[str, Any],
) -> Section:
    """Return a table's section.

    anchor: its name in the page. published_curves: those of the cells are added.
    """
    layout = lay_out(e, frame, store)
    diffs = diff_table(e, frame, store=store, published=published)
    results, columns = layout.results, layout.columns
    index = {(r.cell.row, r.cell.teacher, r.cell.student): i for i, r in enumerate(results)}
    blank_rows, blank_columns = _blank(layout)
    averages = _averages(layout, e)
    heads = "".join(
        f'<th scope="col"{_blank_class(column in blank_columns)}>{_column(*column)}</th>'
        for column in columns
    ) + "".join(f'<th scope="col" class="average">{_e(t)}</th>' for t in SUMMARY_COLUMNS.values() if averages)
    rows = []
    for row, entries in zip(layout.rows, layout.entries, strict=True):
        indices = [index[row, *column] for column in columns]
        cells = "".join(
            _cell(f"{anchor}/{i}", diffs[i], x, column in blank_columns, e.table.shown)
            for i, x, column in zip(indices, entries, columns, strict=True)
        )
        kind = "plain" if row.method in BASELINE_ROWS else "method"
        blank = " data-blank" if row in blank_rows else ""
        rows.append(
            f'<tr class="{kind}"{blank} data-method="{_e((row.label + " " + row.method).lower())}">'
            f'<th scope="row" title="{_e(row.method)}, protocol {_e(row.protocol)}">{_e(row.label)}</th>'
            f"{cells}{_average_cells(averages.get(row.label)) if averages else ''}</tr>"
        )
    tally = " ".join(
        f'<span class="chip v-{v.css}">{MARKS[v]} {n} {v}</span>' for v, n in diffs.counts().items() if n
    )
    head = layout.header
    below = [*explanations(layout, e), *(f"[{i}] {x}" for i, x in enumerate(layout.reasons, 1))]
    left_out = _left_out(len(blank_rows), len(blank_columns))
    unfolded = " open" if runs_done(results)[0] else ""
    body = "".join(
        [
            f'<section class="table" data-table="{_e(e.table.name)}" id="{_e(anchor)}">',
            f'<details class="body"{unfolded}><summary><h2>{_e(head.title)}</h2></summary>',
            *(_warning(x) for x in head.warnings),
            *(f'<p class="meta">{_e(x)}</p>' for x in head.conditions),
            f'<p class="meta">{_e(ERRORS)}</p>' if e.table.shown == ERROR else "",
            f'<p class="tally">{tally}</p>',
            f'<div class="scroll"><table class="grid" aria-label="{_e(anchor)}">',
            f'<thead><tr><th scope="col">Method</th>{heads}</tr></thead>',
            f"<tbody>{''.join(rows)}</tbody></table></div>",
            f'<p class="meta left-out">{_e(left_out)}</p>' if left_out else "",
            f'<p class="meta">{_e(FORMULAS)}</p>' if averages else "",
            downloads(f"{e.table.name}-{e.profile}{e.suffix}", layout, e, diffs),
            "<details><summary>Notes to this table</summary>",
            *(f"<p>{_e(x)}</p>" for x in below),
            "</details>",
            entropy_pictures.section(e, results, store),
            figures(e, results, diffs),
            "</details></section>",
        ]
    )
    details_of = {
        f"{anchor}/{i}": details(e, r, diffs[i], results, store, published_curves)
        for i, r in enumerate(results)
    }
    return Section(card(anchor, e, results, diffs), body, details_of)


def _blank(layout: Layout) -> tuple[set[Row], set[tuple[str, str]]]:
    """Return the rows and columns in which no run has a record; none if that holds for the whole table.

    Rows that are not implemented do not count as blank: their cells say why.
    """
    seen = {
        (r.cell.row, (r.cell.teacher, r.cell.student))
        for r in layout.results
        if any(x.state != "absent" for x in r.runs)
    }
    if not seen:
        return set(), set()
    rows, columns = {row for row, _ in seen}, {column for _, column in seen}
    return set(layout.rows) - rows, set(layout.columns) - columns


def _blank_class(blank: bool) -> str:
    return ' class="blank"' if blank else ""


def _left_out(rows: int, columns: int) -> str:
    """Say how many rows and columns are not shown at first, "" if none."""
    parts = [plural(n, word) for n, word in ((rows, "row"), (columns, "pair")) if n]
    return f"Without any record, and shown only on request: {' and '.join(parts)}." if parts else ""


def _averages(layout: Layout, e: Expansion) -> dict[str, RowSummary]:
    """Return the averages over pairs by row label, {} if there are too few pairs."""
    by_label = summaries(layout.results, rank_rule(e.table))
    enough = max((s.pairs for s in by_label.values()), default=0) >= FEWEST_PAIRS
    return by_label if enough else {}


def _average_cells(s: RowSummary | None) -> str:
    def text(field: str) -> str:
        value = None if s is None else getattr(s, field)
        if value is None:
            return '<span class="dim">–</span>'
        return f"{value:.2f}" if field == "average" else _minus(signed(value, 1 if field == "ari" else 2))

    return "".join(f'<td class="average">{text(field)}</td>' for field in SUMMARY_COLUMNS)


def _minus(text: str) -> str:
    return text.replace("-", MINUS)


def _cell(identifier: str, d: CellDiff, entry: Entry, blank: bool, shown: str) -> str:
    """Return the HTML of one cell: our number, the published one and the difference, one below the other.

    identifier: of its details. blank: whether its column has no record. shown: see `Table`.
    """
    label = f"{d.label}, {d.pair}: {d.verdict}; details"
    return (
        f'<td class="cell v-{d.verdict.css}{" blank" if blank else ""}" data-cell="{_e(identifier)}" '
        f'data-verdict="{d.verdict}" data-pair="{_e(d.pair)}">'
        f'<div class="ours">{_ours(entry)}</div><div class="published">{_published(d, shown)}</div>'
        f'<button type="button" class="delta" aria-expanded="false" aria-label="{_e(label)}" '
        f'title="{_e(_tip(d))}">{_delta(d)}</button></td>'
    )


def _column(teacher: str, student: str) -> str:
    return "<br>".join(_e(x) for x in column_title(teacher, student).split("\n"))


def _ours(entry: Entry) -> str:
    marks = entry.flag + (f"<sup>{','.join(map(str, entry.reasons))}</sup>" if entry.reasons else "")

    def part(text: str, rank: int) -> str:
        mean, plus_minus, std = text.partition(" ± ")
        mean = {1: f"<b>{_e(mean)}</b>", 2: f"<u>{_e(mean)}</u>"}.get(rank, _e(mean))
        spread = f"<small>±{_e(std)}</small>" if plus_minus else ""
        return mean + spread

    return entry.text(part, joint="<small>last / best</small>") + marks


def _published(d: CellDiff, shown: str) -> str:
    if d.published is None:
        return '<span class="dim">–</span>'
    value = 100 - d.published if shown == ERROR else d.published
    std = f"<small>±{d.published_std:.2f}</small>" if d.published_std is not None else ""
    return f"{value:.2f}{std}"


def _delta(d: CellDiff) -> str:
    text = "" if d.delta is None else _minus(signed(d.delta)) + d.best_mark
    if d.low is not None and d.delta:
        text = f'<span class="{"over" if d.delta > 0 else "under"}">{text}</span>'
    return f'<span class="mark" aria-hidden="true">{MARKS[d.verdict]}</span> {text}'


def _tip(d: CellDiff) -> str:
    if d.reason:
        return f"{d.verdict}: {d.reason}"
    if d.low is None or d.high is None:
        return d.verdict
    return f"{d.verdict} (90% interval {signed(d.low)} to {signed(d.high)})"


def _explanations() -> str:
    lines = (
        f"Verdict: {RULE}. The sign and the colour of a difference say only whether ours is above or below.",
        "undecided: these runs show neither; the cell's details say how many of our seeds would decide, if "
        "mean and std stayed as they are. same checkpoint: both numbers are of the same weights, which "
        "checks the evaluation and counts as nothing else.",
        "missing: one side has no number. not comparable: a difference would mean nothing, because the "
        "profile, data set, protocol, teachers or reporting rule differs; the cell's details give the "
        "reason. Only 'differs' is a failure.",
        f"{capitalized(EPOCH_NOTE)}. {BEST_LEGEND}. Bold: best method of its column; underlined: second.",
        f"Curves: {BAND}.",
        "Keys: Tab moves into a table, the arrow keys move between its cells, Enter opens and closes a "
        "cell's details, Escape closes them.",
    )
    body = "".join(f"<p>{_e(line)}</p>" for line in lines)
    return f'<section class="table" id="rules"><h2>How to read this</h2>{body}</section>'
