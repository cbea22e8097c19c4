"""The report: one self-contained HTML page with all tables. It needs no network.

`tables/page/` has its style sheet and script. `tables.svg` draws the figures. The script draws curves when a
cell is opened, from JSON data in the page.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.spec.matrix import Expansion
from benchmark.text import plural
from results.files import atomic
from results.store import Store
from tables.cells import BASELINE_ROWS, EPOCH_NOTE, changed_settings, column_title, profile_warning
from tables.curves import BAND
from tables.diff import CellDiff, diff_table
from tables.published_cells import PublishedCells
from tables.render import Entry, explanations, lay_out
from tables.report_details import details
from tables.report_figures import figures
from tables.statistics import RULE
from tables.svg import MARKS, MINUS
from tables.text import signed
from tables.verdicts import Verdict

PAGE = Path(__file__).resolve().parent / "page"
TITLE = "Distillation tables: regenerated, published, difference"


def write_report(
    expansions: Sequence[Expansion],
    frame: pd.DataFrame,
    store: Store,
    out: Path | str = "report",
    published: PublishedCells | None = None,
) -> Path:
    """Write `<out>/index.html` and return its path. frame: `results.load()`. store: has the runs' curves.

    With settings of `--set` the name is `index-set-<settings>.html`, so that the page of the tables' own
    settings is kept.
    """
    path = Path(out) / f"index{max((e.suffix for e in expansions), default='')}.html"
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
    sections: list[str] = []
    data: dict[str, Any] = {}
    published_curves: dict[str, Any] = {}
    for e in expansions:
        section, cells = _section(e, frame, store, published, published_curves)
        sections.append(section)
        data |= cells
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
            f'<p class="meta">{plural(len(expansions), "table")}; written {now}. Top-1 accuracy in %. '
            f"{_e(_capitalized(EPOCH_NOTE))}.</p>",
            *(_warning(w) for w in dict.fromkeys(warnings)),
            _filters(expansions),
            "</header>\n<main>",
            *sections,
            _explanations(),
            "</main>",
            f'<script type="application/json" id="data">{blob}</script>',
            f"<script>\n{script}</script>\n</body>\n</html>\n",
        ]
    )


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


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
    tables = "".join(_option(e.table.name, e.table.name) for e in expansions)
    options = "".join(_option(p, p.replace(":", " → ")) for p in pairs)
    views = (
        ("all", "side by side"),
        ("ours", "regenerated"),
        ("published", "published"),
        ("delta", "difference"),
    )
    themes = (("", "as the system"), ("light", "light"), ("dark", "dark"))
    return (
        '<form id="filters" aria-label="Filters">'
        f'<label>Table <select name="table">{_option("", "all")}{tables}</select></label>'
        f'<label>Pair <select name="pair">{_option("", "all")}{options}</select></label>'
        '<label>Method <input name="method" type="search" placeholder="any" size="9"></label>'
        f'<label>Show <select name="view">{"".join(_option(*v) for v in views)}</select></label>'
        f'<fieldset><legend>Verdict</legend>{boxes}</fieldset><button type="reset">Reset</button>'
        f'<label>Theme <select name="theme">{"".join(_option(*t) for t in themes)}</select></label>'
        '<output id="matches" aria-live="polite"></output></form>'
    )


GROUPS = {
    "ours": "Regenerated",
    "published": "Published",
    "delta": "Difference (regenerated − published)",
}
"""The groups of columns, by the style class of their cells."""


def _section(
    e: Expansion,
    frame: pd.DataFrame,
    store: Store,
    published: PublishedCells | None,
    published_curves: dict[str, Any],
) -> tuple[str, dict[str, Any]]:
    """Return the HTML of a table and the details of its cells.

    published_curves: those of the cells are added.
    """
    layout = lay_out(e, frame, store)
    diffs = diff_table(e, frame, store=store, published=published)
    results, columns, name = layout.results, layout.columns, e.table.name
    index = {(r.cell.row, r.cell.teacher, r.cell.student): i for i, r in enumerate(results)}
    heads = "".join(
        f'<th scope="col" class="g-{g}">{_column(*column)}</th>' for g in GROUPS for column in columns
    )
    groups = "".join(
        f'<th scope="colgroup" colspan="{len(columns)}" class="g-{g}">{title}</th>'
        for g, title in GROUPS.items()
    )
    rows = []
    for row, entries in zip(layout.rows, layout.entries, strict=True):
        indices = [index[row, *column] for column in columns]
        cells = [_cells(f"{name}/{i}", diffs[i], x) for i, x in zip(indices, entries, strict=True)]
        kind = "plain" if row.method in BASELINE_ROWS else "method"
        rows.append(
            f'<tr class="{kind}" data-method="{_e((row.label + " " + row.method).lower())}">'
            f'<th scope="row" title="{_e(row.method)}, protocol {_e(row.protocol)}">{_e(row.label)}</th>'
            + "".join(c[g] for g in GROUPS for c in cells)
            + "</tr>"
        )
    tally = " ".join(
        f'<span class="chip v-{v.css}">{MARKS[v]} {n} {v}</span>' for v, n in diffs.counts().items() if n
    )
    head = layout.header
    below = [*explanations(layout, e), *(f"[{i}] {x}" for i, x in enumerate(layout.reasons, 1))]
    text = "".join(
        [
            f'<section class="table" data-table="{_e(name)}" id="{_e(name)}"><h2>{_e(head.title)}</h2>',
            *(_warning(x) for x in head.warnings),
            *(f'<p class="meta">{_e(x)}</p>' for x in head.conditions),
            f'<p class="tally">{tally}</p>',
            f'<div class="scroll"><table class="grid" aria-label="{_e(name)}">',
            f'<thead><tr><th rowspan="2" scope="col">Method</th>{groups}</tr><tr>{heads}</tr></thead>',
            f"<tbody>{''.join(rows)}</tbody></table></div>",
            "<details><summary>Notes to this table</summary>",
            *(f"<p>{_e(x)}</p>" for x in below),
            "</details>",
            figures(e, results, diffs),
            "</section>",
        ]
    )
    return text, {
        f"{name}/{i}": details(e, r, diffs[i], results, store, published_curves)
        for i, r in enumerate(results)
    }


def _cells(identifier: str, d: CellDiff, entry: Entry) -> dict[str, str]:
    """Return the HTML of one cell in each of `GROUPS`. identifier: of its details."""
    common = f'data-cell="{_e(identifier)}" data-verdict="{d.verdict}" data-pair="{_e(d.pair)}"'
    label = f"{d.label}, {d.pair}: {d.verdict}; details"
    button = (
        f'<button type="button" aria-expanded="false" aria-label="{_e(label)}" title="{_e(_tip(d))}">'
        f"{_delta(d)}</button>"
    )
    return {
        "ours": f'<td class="g-ours" {common}>{_ours(entry)}</td>',
        "published": f'<td class="g-published" {common}>{_published(d)}</td>',
        "delta": f'<td class="g-delta v-{d.verdict.css}" {common}>{button}</td>',
    }


def _column(teacher: str, student: str) -> str:
    return "<br>".join(_e(x) for x in column_title(teacher, student).split("\n"))


def _ours(entry: Entry) -> str:
    marks = entry.flag + (f"<sup>{','.join(map(str, entry.reasons))}</sup>" if entry.reasons else "")

    def part(text: str, rank: int) -> str:
        mean, plus_minus, std = text.partition(" ± ")
        mean = {1: f"<b>{_e(mean)}</b>", 2: f"<u>{_e(mean)}</u>"}.get(rank, _e(mean))
        spread = f"<small>±{_e(std)}</small>" if plus_minus else ""
        return mean + (marks if text == entry.parts[-1] else "") + spread

    return entry.text(part, joint="<small>last / best</small>")


def _published(d: CellDiff) -> str:
    if d.published is None:
        return '<span class="dim">–</span>'
    std = f"<small>±{d.published_std:.2f}</small>" if d.published_std is not None else ""
    return f"{d.published:.2f}{std}"


def _delta(d: CellDiff) -> str:
    text = "" if d.delta is None else signed(d.delta).replace("-", MINUS)
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
        f"{_capitalized(EPOCH_NOTE)}. Bold: best method of its column; underlined: second.",
        f"Curves: {BAND}.",
        "Keys: Tab moves into a table, the arrow keys move between its cells, Enter opens and closes a "
        "cell's details, Escape closes them.",
    )
    body = "".join(f"<p>{_e(line)}</p>" for line in lines)
    return f'<section class="table" id="rules"><h2>How to read this</h2>{body}</section>'
