"""The regenerated table: for the terminal, Markdown, LaTeX and CSV; `write_all` writes files.

A cell shows mean and std over the seeds, under the reporting rule of its row. The best method of a column is
bold, the second underlined, as in the papers. Teacher and student are not ranked. Means are rounded to
the shown digits before ranking, and ties share a rank, unless so many methods tie that a mark would single
out none. A cell without a number says why.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmark.errors import unknown
from benchmark.spec.matrix import Expansion, Row
from benchmark.spec.table_file import ERROR
from results.files import atomic
from results.store import Store
from tables import entropy_pictures, held_out, latex
from tables.cells import (
    BASELINE_ROWS,
    IMPORTED_MARK,
    REFERENCE_LEGEND,
    REFERENCE_MARK,
    RULES,
    CellResult,
    Header,
    collect,
    column_title,
    header,
    imported_legend,
    metrics_of,
    rank_rule,
    what_is_shown,
)
from tables.plain import plain_table
from tables.plots import KINDS, heat_map, pictures
from tables.remarks import remarks
from tables.statistics import Sample
from tables.text import (
    capitalized,
    csv_cell,
    escape_md,
    escape_tex,
    mean_std,
    printable,
    terminal_width,
    wrap,
)

FORMATS = ("plain", "md", "tex", "csv")
FILES = ("md", "tex", "csv", *KINDS)


@dataclass(frozen=True)
class Entry:
    """The text of a cell."""

    parts: tuple[str, ...]
    """One text, or two: those of the last and of the best epoch."""
    rank: int = 0
    """1: best of its column, 2: second, 0: neither."""
    ranked_part: int = 0
    """Index of the part that is ranked."""
    reasons: tuple[int, ...] = ()
    """Numbers of the reasons below the table."""
    flag: str = ""
    """`CellResult.marks`."""

    def text(self, mark: Callable[[str, int], str], joint: str = " / ") -> str:
        """Return the cell with `mark(text, rank)` applied to its parts.

        The rank is 0 for a part that is not ranked.
        """
        return joint.join(
            mark(p, self.rank if i == self.ranked_part else 0) for i, p in enumerate(self.parts)
        )


@dataclass(frozen=True)
class Layout:
    """A table ready to be written."""

    header: Header
    columns: list[tuple[str, str]]
    rows: list[Row]
    entries: list[list[Entry]]
    """One list a row, one entry a column."""
    reasons: list[str]
    """The texts that the entries' numbers (from 1) refer to."""
    results: list[CellResult]


def _show(sample: Sample, shown: str) -> str:
    return mean_std(100 - sample.mean if shown == ERROR else sample.mean, sample.std)


def lay_out(expansion: Expansion, frame: pd.DataFrame, store: Store | None = None) -> Layout:
    """Return the texts, ranks and reasons of all cells."""
    results = collect(expansion, frame, store)
    columns = list(dict.fromkeys((r.cell.teacher, r.cell.student) for r in results))
    rows = list(dict.fromkeys(r.cell.row for r in results))
    by_cell = {(r.cell.row, r.cell.teacher, r.cell.student): r for r in results}
    rule = rank_rule(expansion.table)
    ranks = _ranks(results, rule)
    reasons: dict[str, int] = {}
    entries = [
        [
            _entry(by_cell[row, *c], ranks.get((row, *c), 0), rule, reasons, expansion.table.shown)
            for c in columns
        ]
        for row in rows
    ]
    return Layout(
        header=header(expansion, results),
        columns=columns,
        rows=rows,
        entries=entries,
        reasons=list(reasons),
        results=results,
    )


def _ranks(results: Sequence[CellResult], rule: str) -> dict[tuple[Row, str, str], int]:
    """Return the cells of rank 1 and 2 in each column and group of rows, by means rounded to two decimals.

    Numbers without a better side have no ranks, nor has a column with a single method. A rank that more than
    two methods and more than a third of them share is left out, and with the first the second.
    """
    scores: dict[tuple[str, str, str], dict[Row, float]] = {}
    for r in results:
        sample = r.sample(rule)
        if sample is not None and r.cell.row.ranked and r.cell.row.method not in BASELINE_ROWS:
            group = (r.cell.row.group, r.cell.teacher, r.cell.student)
            scores.setdefault(group, {})[r.cell.row] = round(sample.mean, 2)
    ranks: dict[tuple[Row, str, str], int] = {}
    for (_, teacher, student), by_row in scores.items():
        most = min(max(2, len(by_row) // 3), len(by_row) - 1)
        for rank, value in enumerate(sorted(set(by_row.values()), reverse=True)[:2], 1):
            tied = [row for row, v in by_row.items() if v == value]
            if len(tied) > most:
                break
            ranks.update({(row, teacher, student): rank for row in tied})
    return ranks


def _entry(result: CellResult, rank: int, rule: str, reasons: dict[str, int], shown: str) -> Entry:
    """Return the text of a cell. reasons: text -> number; new ones are added. shown: see `Table`."""

    def numbers(*texts: str) -> tuple[int, ...]:
        return tuple(sorted(reasons.setdefault(t, len(reasons) + 1) for t in texts if t))

    if result.cell.missing:
        return Entry(("missing",), reasons=numbers(result.cell.reason))
    if not result.runs:
        return Entry(("N/A",), reasons=numbers(result.cell.reason))
    last, best = result.sample("last"), result.sample("best")
    if last is None or best is None:
        return Entry((f"({result.absence()})",), reasons=numbers(*result.reasons()))
    samples = {"both": (last, best), "best": (best,), "last": (last,)}[result.rule]
    parts = tuple(_show(sample, shown) for sample in samples)
    incomplete = f"{result.absence()}: not in the mean" if result.absence() else ""
    return Entry(
        parts=parts,
        rank=rank,
        ranked_part=int(rule == "best") if len(parts) == 2 else 0,
        reasons=numbers(incomplete, *result.reasons()),
        flag=result.marks,
    )


def explanations(
    layout: Layout, expansion: Expansion, best: str = "Bold", second: str = "underlined"
) -> list[str]:
    """Return the lines below the table, without the numbered reasons.

    best, second: how these ranks are marked.
    """
    results, rule = layout.results, rank_rule(expansion.table)
    seeds = max((r.n for r in results), default=0)
    spread = "one seed: no spread"
    if seeds > 1:
        spread = f"mean ± std (n - 1) over up to {seeds} seeds; each teacher is one run"
    what = what_is_shown(expansion.table)
    if not expansion.table.measured:
        kind = " error (100 - accuracy)" if expansion.table.shown == ERROR else " accuracy"
        what = f"{metrics_of(expansion.table).capitalize()}{kind} in %"
    lines = [f"{capitalized(what)}, {spread}."]
    if chosen := dict.fromkeys(m.shown for m in expansion.table.measured if m.shown.endswith("_best")):
        lines.append(f"{', '.join(chosen)}: of the classifier's best epoch, chosen on the test set.")
    if unknown_rule := dict.fromkeys(r.cell.row.label for r in results if r.rule == "both"):
        which = "" if set(unknown_rule) == {r.cell.row.label for r in results} else ", ".join(unknown_rule)
        lines.append(
            f"{which}{': it' if which else 'It'} is not known which epoch the paper reports; shown as last / "
            "best (best chosen on the test set)."
        )
    lines += held_out.lines(results)
    entries = [e for line in layout.entries for e in line]
    if any(e.rank for e in entries):
        epoch = "" if expansion.table.measured else f" of the {RULES[rule]}"
        group = " and the group of rows" if any(row.group for row in layout.rows) else ""
        lines.append(
            f"{best}: best method of the column{group}; {second}: second; both by the mean{epoch}. "
            "A rank alone is no evidence: see the paired differences in the report."
        )
    flags = "".join(e.flag for e in entries)
    if REFERENCE_MARK in flags:
        lines.append(REFERENCE_LEGEND)
    if IMPORTED_MARK in flags:
        lines.append(imported_legend(r.imported_name for r in results if r.measures_imported))
    lines += remarks(results)
    if expansion.table.note:
        lines.append(f"Note: {expansion.table.note}")
    return lines


def render(expansion: Expansion, frame: pd.DataFrame, fmt: str = "md", store: Store | None = None) -> str:
    """Return the table as text.

    fmt: `plain` (terminal), `md`, `tex` or `csv`. frame: `results.load()`. Raises `InputError` for another
    format.
    """
    if fmt not in FORMATS:
        raise unknown("format", fmt, FORMATS)
    return write(lay_out(expansion, frame, store), expansion, fmt)


def write(layout: Layout, expansion: Expansion, fmt: str) -> str:
    """Return a layout as text. fmt: one of `FORMATS`."""
    return {"plain": _plain, "md": _md, "tex": _tex, "csv": _csv}[fmt](layout, expansion)


def plain_lines(layout: Layout) -> list[str]:
    """Return the lines of the table itself for the terminal, not wider than it."""

    def text(e: Entry) -> str:
        # a cell of two epochs would be as wide as two columns, so it takes two lines
        marked = e.text(
            lambda t, rank: {1: f"**{t}**", 2: f"_{t}_"}.get(rank, t).replace(" ± ", "±"), joint="\n/ "
        )
        return marked + e.flag + "".join(f" [{i}]" for i in e.reasons)

    return plain_table(
        labels=[row.label for row in layout.rows],
        heads=[column_title(*c) for c in layout.columns],
        rows=[[text(e) for e in line] for line in layout.entries],
        width=terminal_width(),
    )


def _plain(layout: Layout, expansion: Expansion) -> str:
    below = [
        *explanations(layout, expansion, best="**x**", second="_x_"),
        *(f"[{i}] {reason}" for i, reason in enumerate(layout.reasons, 1)),
    ]
    lines = [
        *(piece for x in layout.header.lines for piece in wrap(x)),
        "",
        *plain_lines(layout),
        "",
        *(piece for x in below for piece in wrap(x)),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _md(layout: Layout, expansion: Expansion) -> str:
    def text(e: Entry) -> str:
        marked = e.text(lambda t, rank: {1: f"**{t}**", 2: f"<u>{t}</u>"}.get(rank, t))
        return marked + e.flag + (f" <sup>{', '.join(map(str, e.reasons))}</sup>" if e.reasons else "")

    heads = ["Method", *(escape_md(column_title(*c, arrow=" → ")) for c in layout.columns)]
    rows = [
        [escape_md(row.label), *(text(e) for e in line)]
        for row, line in zip(layout.rows, layout.entries, strict=True)
    ]
    # two spaces at the end of a line are a line break
    head = [
        f"# {escape_md(layout.header.title)}",
        "",
        *(f"**{escape_md(x)}**  " for x in layout.header.warnings),
        *(f"{escape_md(x)}  " for x in layout.header.conditions),
    ]
    below = [
        *(f"{escape_md(x)}  " for x in explanations(layout, expansion)),
        *(f"<sup>{i}</sup> {escape_md(x)}  " for i, x in enumerate(layout.reasons, 1)),
    ]
    table = ["| " + " | ".join(r) + " |" for r in [heads, *rows]]
    table.insert(1, "|:---|" + "---:|" * len(layout.columns))
    return "\n".join([*head, "", *table, "", *below]) + "\n"


def _tex(layout: Layout, expansion: Expansion) -> str:
    """Return a float with a short caption and a label; the conditions are in the note below."""

    def text(e: Entry) -> str:
        marks = {1: r"\textbf{%s}", 2: r"\underline{%s}"}
        parts = e.text(lambda t, rank: marks.get(rank, "%s") % latex.number(t), joint=r"\\/ ")
        value = rf"\shortstack{{{parts}}}" if len(e.parts) > 1 else parts
        value += escape_tex(e.flag)
        return value + (rf"$^{{{','.join(map(str, e.reasons))}}}$" if e.reasons else "")

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    head = layout.header
    names = [("Teacher", [c[0] for c in layout.columns]), ("Student", [c[1] for c in layout.columns])]
    heads = [
        line([word, *(latex.network_name(n) for n in which)])
        for word, which in names
        if set(which) != {"none"}
    ]
    rows = [
        (row, line([escape_tex(row.label), *(text(e) for e in entries)]))
        for row, entries in zip(layout.rows, layout.entries, strict=True)
    ]
    below = [
        *(rf"\textbf{{{escape_tex(x)}}}" for x in head.warnings),
        *(escape_tex(f"{capitalized(x)}.") for x in head.conditions),
        *(escape_tex(x) for x in explanations(layout, expansion)),
        *(rf"$^{{{i}}}$ {escape_tex(x)}" for i, x in enumerate(layout.reasons, 1)),
    ]
    tabular = [
        r"\begin{tabular}{l" + "c" * len(layout.columns) + "}",
        r"\toprule",
        *heads,
        r"\midrule",
        *(text for row, text in rows if row.method in BASELINE_ROWS),
        r"\midrule",
        *(text for row, text in rows if row.method not in BASELINE_ROWS),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    label = re.sub(r"[^\w.+-]", "-", f"{expansion.table.name}-{expansion.profile}{expansion.suffix}")
    lines = [
        *(f"% {printable(x)}" for x in head.lines),
        f"% needs the packages {latex.PACKAGES}",
        r"\begin{table}[t]",
        r"\centering\small",
        rf"\caption{{{escape_tex(head.title)}.}}",
        rf"\label{{tab:{label}}}",
        *latex.shrunk(tabular),
        *latex.note(below),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


CSV_COLUMNS = (
    *("table", "profile", "dataset", "protocol", "label", "method", "teacher", "student", "rule"),
    *("mean", "std", "n", "seeds", "last_mean", "last_std", "best_on_test_set_mean", "best_on_test_set_std"),
    *("rank", "state", "reason"),
)


def _csv(layout: Layout, expansion: Expansion) -> str:
    """Return one line a cell, for programs; values are always accuracies.

    mean, std: under the row's rule, empty where that is `both`. best_on_test_set_*: of the best epoch, which
    is chosen on the test set. profile: with the settings of `--set`, as in the names of files.
    """
    entry_of = {
        (row, *c): e
        for row, line in zip(layout.rows, layout.entries, strict=True)
        for c, e in zip(layout.columns, line, strict=True)
    }
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)

    def digits(value: float | None) -> str:
        return "" if value is None else f"{value:.4f}"

    for r in layout.results:
        c = r.cell
        last, best = r.sample("last"), r.sample("best")
        shown = {"last": last, "best": best}.get(r.rule)
        pairs = [(s.mean, s.std) if s is not None else (None, None) for s in (shown, last, best)]
        state = "missing" if c.missing else "N/A" if not r.runs else r.absence() or "done"
        writer.writerow(
            csv_cell(value)
            for value in (
                expansion.table.name,
                expansion.profile + expansion.suffix,
                expansion.dataset,
                r.protocol,
                c.row.label,
                c.row.method,
                c.teacher,
                c.student,
                r.rule,
                digits(pairs[0][0]),
                digits(pairs[0][1]),
                r.n,
                r.expected,
                *(digits(v) for p in pairs[1:] for v in p),
                entry_of[c.row, c.teacher, c.student].rank or "",
                state,
                c.reason or "; ".join(r.reasons()),
            )
        )
    return out.getvalue()


def write_all(
    expansion: Expansion,
    frame: pd.DataFrame,
    out_dir: Path,
    alias: str | None = None,
    store: Store | None = None,
) -> list[Path]:
    """Write `<table>-<profile>.{md,tex,csv,png,pdf,svg}`, and the same as `<alias>.*`; return the paths.

    A table of pixel entropies also gets `<table>-<profile>-maps-<teacher>-<student>.png`. Each file is
    written atomically. The names contain the settings of `--set`, so that the files of the table's own
    settings are kept.
    """
    layout = lay_out(expansion, frame, store)
    contents: dict[str, bytes] = {fmt: write(layout, expansion, fmt).encode() for fmt in ("md", "tex", "csv")}
    contents |= pictures(heat_map(expansion, layout.results))
    paths = []
    for stem in [f"{expansion.table.name}-{expansion.profile}", *([alias] if alias else [])]:
        for suffix in FILES:
            path = Path(out_dir) / f"{stem}{expansion.suffix}.{suffix}"
            with atomic(path, "wb") as f:
                f.write(contents[suffix])
            paths.append(path)
    if store is not None:
        stem = f"{expansion.table.name}-{expansion.profile}{expansion.suffix}"
        for name, content in entropy_pictures.contents(expansion, layout.results, store).items():
            paths.append(Path(out_dir) / f"{stem}-{name}.png")
            with atomic(paths[-1], "wb") as f:
                f.write(content)
    return paths
