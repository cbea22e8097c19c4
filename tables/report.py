"""The report: one self-contained HTML page, without network, of all that the records say about the tables.

`tables/page/` holds its style sheet and its script; `tables.svg` draws what is drawn beforehand; the curves are drawn by the script when a cell is
opened, from data that rides along as JSON.
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
from results.files import atomic
from results.store import Store
from tables.cells import LOUD, ON_TEST_SET, changed_settings, column_title, header
from tables.curves import BAND
from tables.diff import VERDICTS, CellDiff, diff_table
from tables.published_cells import PublishedCells
from tables.render import PLAIN_ROWS, Entry, lay_out
from tables.report_details import details
from tables.report_figures import figures
from tables.statistics import RULE, signed
from tables.svg import MARKS

PAGE = Path(__file__).resolve().parent / "page"
MINUS = "\u2212"


def write_report(
    expansions: Sequence[Expansion],
    frame: pd.DataFrame,
    store: Store,
    out: Path | str = "report",
    published: PublishedCells | None = None,
) -> Path:
    """Writes `<out>/index.html` and returns its path. frame: `results.load()`; store: where the runs' curves are.

    With settings of `--set` it is `index-set-<settings>.html`: the page of the tables' own settings stays.
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
    """The page's text."""
    sections: list[str] = []
    data: dict[str, Any] = {}
    published_curves: dict[str, Any] = {}
    for e in expansions:
        section, cells = _section(e, frame, store, published, published_curves)
        sections.append(section)
        data |= cells
    blob = json.dumps(
        {"cells": data, "published_curves": published_curves, "band": BAND},
        separators=(",", ":"),
        allow_nan=False,
    )
    style, script = ((PAGE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    loud = ""
    if any(e.profile == "quick" for e in expansions):
        loud = '<p class="loud">Quick profile: these numbers mean only that it works. They say nothing about any method.</p>'
    elif any(e.profile != "paper" for e in expansions):
        loud = '<p class="loud">Shortened profile: not the published schedule; nothing here can be compared with printed numbers.</p>'
    for line in dict.fromkeys(map(changed_settings, expansions)):
        loud += f'<p class="loud">{_e(line)}</p>' if line else ""
    return "\n".join([
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">',
        '<link rel="icon" href="data:,">\n<title>Distillation tables: regenerated, published, difference</title>',
        f"<style>\n{style}</style>\n</head>\n<body>",
        '<header><h1>Distillation tables: regenerated, published, difference</h1>',
        f'<p class="meta">{len(expansions)} {"tables" if len(expansions) != 1 else "table"}; written {now}. Top-1 accuracy in %. '
        f"{_e(ON_TEST_SET[0].upper() + ON_TEST_SET[1:])}.</p>", loud, _filters(expansions, frame), "</header>\n<main>",
        *sections, _explanations(), "</main>", f'<script type="application/json" id="data">{blob.replace("</", "<" + chr(92) + "/")}</script>',
        f"<script>\n{script}</script>\n</body>\n</html>\n",
    ])  # fmt: skip


def _e(text: object) -> str:
    return html.escape(str(text), quote=True)


def _filters(expansions: Sequence[Expansion], frame: pd.DataFrame) -> str:
    pairs = sorted({f"{t}:{s}" for e in expansions for t, s in e.table.columns})
    boxes = "".join(
        f'<label class="v-{_slug(v)}"><input type="checkbox" name="verdict" value="{v}" checked> {MARKS[v]} {v} <b data-count="{v}"></b></label>'
        for v in VERDICTS
    )  # fmt: skip
    tables = "".join(f'<option value="{_e(e.table.name)}">{_e(e.table.name)}</option>' for e in expansions)
    options = "".join(f'<option value="{_e(p)}">{_e(p.replace(":", " → "))}</option>' for p in pairs)
    return (
        '<form id="filters" aria-label="Filters"><label>Table <select name="table"><option value="">all</option>' + tables + "</select></label>"
        '<label>Pair <select name="pair"><option value="">all</option>' + options + "</select></label>"
        '<label>Method <input name="method" type="search" placeholder="any" size="9"></label>'
        '<label>Show <select name="view"><option value="all">side by side</option><option value="ours">regenerated</option>'
        '<option value="published">published</option><option value="delta">difference</option></select></label>'
        f'<fieldset><legend>Verdict</legend>{boxes}</fieldset><button type="reset">Reset</button>'
        '<label>Theme <select name="theme"><option value="">as the system</option><option>light</option><option>dark</option></select></label>'
        '<output id="matches" aria-live="polite"></output></form>'
    )  # fmt: skip


def _slug(verdict: str) -> str:
    return verdict.replace(" ", "-")


def _section(
    e: Expansion,
    frame: pd.DataFrame,
    store: Store,
    published: PublishedCells | None,
    published_curves: dict[str, Any],
) -> tuple[str, dict[str, Any]]:
    layout = lay_out(e, frame, store)
    diffs = diff_table(e, frame, store=store, published=published)
    results = layout.results
    at = {(r.cell.row, r.cell.teacher, r.cell.student): i for i, r in enumerate(results)}
    name, columns = e.table.name, layout.columns
    heads = "".join(
        f'<th scope="col" class="g-{g}">{_column(*c)}</th>'
        for g in ("ours", "published", "delta")
        for c in columns
    )
    groups = "".join(
        f'<th scope="colgroup" colspan="{len(columns)}" class="g-{g}">{title}</th>'
        for g, title in (
            ("ours", "Regenerated"),
            ("published", "Published"),
            ("delta", "Difference (regenerated − published)"),
        )
    )
    lines = []
    for row, entries in zip(layout.rows, layout.entries, strict=True):
        cells: dict[str, list[str]] = {"ours": [], "published": [], "delta": []}
        for column, entry in zip(columns, entries, strict=True):
            i = at[(row, *column)]
            d = diffs[i]
            common = f'data-cell="{_e(name)}/{i}" data-verdict="{d.verdict}" data-pair="{_e(d.pair)}"'
            cells["ours"].append(f'<td class="g-ours" {common}>{_ours(entry)}</td>')
            cells["published"].append(f'<td class="g-published" {common}>{_published(d)}</td>')
            label = f"{row.label}, {d.pair}: {d.verdict}; details"
            cells["delta"].append(
                f'<td class="g-delta v-{_slug(d.verdict)}" {common}><button type="button" aria-expanded="false" aria-label="{_e(label)}" '
                f'title="{_e(_tip(d))}">{_delta(d)}</button></td>'
            )
        kind = "plain" if row.method in PLAIN_ROWS else "method"
        lines.append(f'<tr class="{kind}" data-method="{_e((row.label + " " + row.method).lower())}"><th scope="row" '
                     f'title="{_e(row.method)}, protocol {_e(row.protocol)}">{_e(row.label)}</th>'
                     + "".join("".join(cells[g]) for g in ("ours", "published", "delta")) + "</tr>")  # fmt: skip
    counts = diffs.counts()
    tally = " ".join(
        f'<span class="chip v-{_slug(v)}">{MARKS[v]} {n} {v}</span>' for v, n in counts.items() if n
    )
    head = header(e, results)
    below = "".join(f"<p>{_e(line)}</p>" for line in layout.below)
    text = (
        f'<section class="table" data-table="{_e(name)}" id="{_e(name)}"><h2>{_e(head[0])}</h2>'
        + "".join(f'<p class="{"loud" if x.startswith(LOUD) else "meta"}">{_e(x)}</p>' for x in head[1:])
        + f'<p class="tally">{tally}</p><div class="scroll"><table class="grid" aria-label="{_e(name)}">'
        f'<thead><tr><th rowspan="2" scope="col">Method</th>{groups}</tr>'
        f"<tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div><details><summary>Notes to this table</summary>{below}</details>"
        + figures(e, results, diffs) + "</section>"
    )  # fmt: skip
    return text, {
        f"{name}/{i}": details(e, r, diffs[i], results, store, published_curves)
        for i, r in enumerate(results)
    }


def _column(teacher: str, student: str) -> str:
    return "<br>".join(_e(x) for x in column_title(teacher, student).split("\n"))


def _ours(entry: Entry) -> str:
    notes = entry.flag + (f"<sup>{','.join(map(str, entry.notes))}</sup>" if entry.notes else "")
    parts = list(entry.parts)

    def part(text: str, place: int) -> str:
        mean, sign, spread = text.partition(" ± ")
        mean = {1: f"<b>{_e(mean)}</b>", 2: f"<u>{_e(mean)}</u>"}.get(place, _e(mean))
        return mean + (notes if text == parts[-1] else "") + (f"<small>±{_e(spread)}</small>" if sign else "")

    return entry.text(part, joint="<small>last / best</small>")


def _published(d: CellDiff) -> str:
    if d.published is None:
        return '<span class="dim">–</span>'
    std = f"±{d.published_std:.2f}" if d.published_std is not None else ""
    return f"{d.published:.2f}" + (f"<small>{std}</small>" if std else "")


def _delta(d: CellDiff) -> str:
    text = "" if d.delta is None else signed(d.delta).replace("-", MINUS)
    return f'<span class="mark" aria-hidden="true">{MARKS[d.verdict]}</span> {text}'


def _tip(d: CellDiff) -> str:
    return d.verdict + (
        f": {d.reason}" if d.reason else f" (band ±{d.band:.2f})" if d.band is not None else ""
    )


def _explanations() -> str:
    lines = (
        f"Verdict: {RULE}.",
        "missing: one side has no number. not comparable: a difference would mean nothing (another profile, data set, protocol, teachers or "
        "reporting rule); the reason is in the cell's details. Neither is a failure.",
        f"{ON_TEST_SET[0].upper()}{ON_TEST_SET[1:]}. Bold: best method of its column; underlined: second.",
        f"Curves: {BAND}.",
        "Keys: Tab reaches a table, the arrow keys move between its cells, Enter opens and closes a cell's details, Escape closes them.",
    )
    body = "".join(f"<p>{_e(line)}</p>" for line in lines)
    return f'<section class="table" id="rules"><h2>How to read this</h2>{body}</section>'
