"""The regenerated table: for the terminal, Markdown, LaTeX and CSV; with `write_all`, as files.

Mean and std over seeds under each row's own reporting rule; the best method of a column bold, the second underlined, as the papers do (teacher
and student do not compete; by what is printed, so ties share). What is not there says why.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from benchmark.errors import unknown
from benchmark.spec.matrix import Expansion, Row
from results.files import atomic
from results.store import Store
from tables.cells import LOUD, ON_TEST_SET, CellResult, collect, column_title, header, rank_rule
from tables.diff_text import escape_tex
from tables.statistics import Sample

FORMATS = ("plain", "md", "tex", "csv")
FILES = ("md", "tex", "csv", "png")
PLAIN_ROWS = ("teacher", "student")


@dataclass(frozen=True)
class Entry:
    """A cell as shown. parts: one text, or those of the last and the best epoch; place: 1 best of its column, 2 second, 0 neither;
    ranked: the part that the place is about; notes: numbers of the reasons below the table."""

    parts: tuple[str, ...]
    place: int = 0
    ranked: int = 0
    notes: tuple[int, ...] = ()
    flag: str = ""

    def text(self, marks: Callable[[str, int], str], joint: str = " / ") -> str:
        """The cell with `marks(text, place)` applied to the part that has the place."""
        return joint.join(marks(p, self.place if i == self.ranked else 0) for i, p in enumerate(self.parts))


@dataclass(frozen=True)
class Layout:
    """A table ready to be written. entries: one list a row, one entry a column. below: lines under it, the numbered reasons last."""

    head: list[str]
    columns: list[tuple[str, str]]
    rows: list[Row]
    entries: list[list[Entry]]
    below: list[str]
    results: list[CellResult]


def show(sample: Sample) -> str:
    """`76.04 ± 0.12`, without a std where there is one run."""
    return f"{sample.mean:.2f}" if sample.std is None else f"{sample.mean:.2f} ± {sample.std:.2f}"


def lay_out(expansion: Expansion, frame: pd.DataFrame, store: Store | None = None) -> Layout:
    """Places, marks and reasons of every cell."""
    results = collect(expansion, frame, store)
    columns = list(dict.fromkeys((r.cell.teacher, r.cell.student) for r in results))
    rows = list(dict.fromkeys(r.cell.row for r in results))
    at = {(r.cell.row, r.cell.teacher, r.cell.student): r for r in results}
    rule = rank_rule(expansion.table)
    places = _places(results, rule)
    reasons: dict[str, int] = {}
    entries = [
        [_entry(at[row, *c], places.get((row, *c), 0), rule, reasons) for c in columns] for row in rows
    ]
    return Layout(
        header(expansion, results),
        columns,
        rows,
        entries,
        _below(expansion, results, entries, rule, reasons),
        results,
    )


def _places(results: Sequence[CellResult], rule: str) -> dict[tuple[Row, str, str], int]:
    """1 and 2 for the best and second methods of a column, by two-decimal means; nobody wins alone."""
    scores: dict[tuple[str, str], dict[Row, float]] = {}
    for r in results:
        sample = r.sample(rule)
        if sample is not None and r.cell.row.method not in PLAIN_ROWS:
            scores.setdefault((r.cell.teacher, r.cell.student), {})[r.cell.row] = round(sample.mean, 2)
    found = {}
    for column, by_row in scores.items():
        order = sorted(set(by_row.values()), reverse=True)
        if len(by_row) > 1:
            found.update({(row, *column): order.index(v) + 1 for row, v in by_row.items() if v in order[:2]})
    return found


def _entry(result: CellResult, place: int, rule: str, reasons: dict[str, int]) -> Entry:
    def note(*texts: str) -> tuple[int, ...]:
        return tuple(sorted(reasons.setdefault(t, len(reasons) + 1) for t in texts if t))

    if result.cell.missing:
        return Entry(("missing",), notes=note(result.cell.reason))
    if not result.runs:
        return Entry(("N/A",), notes=note(result.cell.reason))
    last, best = result.sample("last"), result.sample("best")
    if last is None or best is None:
        return Entry((f"({result.absence()})",), notes=note(*result.reasons()))
    parts = (
        (show(last), show(best))
        if result.rule == "both"
        else (show(best if result.rule == "best" else last),)
    )
    ranked = int(rule == "best") if len(parts) == 2 else 0
    flag = ("†" if result.is_reference else "") + (
        "‡" if result.imported and result.runs[0].run.evaluates is not None else ""
    )
    incomplete = f"{result.absence()}: not in the mean" if result.absence() else ""
    return Entry(parts, place, ranked, note(incomplete, *result.reasons()), flag)


def _below(
    expansion: Expansion,
    results: Sequence[CellResult],
    entries: Sequence[Sequence[Entry]],
    rule: str,
    reasons: dict[str, int],
) -> list[str]:
    seeds = max((r.n for r in results), default=0)
    rules = {r.rule for r in results}
    lines = [
        f"Top-1 accuracy in %, {'mean ± std (n - 1) over up to ' + str(seeds) + ' seeds' if seeds > 1 else 'one seed: no spread'}; "
        f"teachers are one run. {ON_TEST_SET}."
    ]
    if "both" in rules:
        rows = list(dict.fromkeys(r.cell.row.label for r in results if r.rule == "both"))
        lines.append(
            f"{', '.join(rows)}: which epoch the paper reports is not known; shown as last / best (best chosen on the test set)."
        )
    if any(e.place for line in entries for e in line):
        ordered = "best epoch, chosen on the test set" if rule == "best" else "last epoch"
        lines.append(
            f"Bold: best method of the column; underlined: second; both by the mean of the {ordered}. A place is no proof: see the diff's intervals."
        )
    flags = "".join(e.flag for line in entries for e in line)
    if "†" in flags:
        lines.append("† reference records that ship with the code, not made here.")
    if "‡" in flags:
        lines.append(
            "‡ an imported checkpoint, measured here: "
            + ", ".join(
                dict.fromkeys(
                    f"{r.cell.teacher} ({r.imported[:10]})"
                    for r in results
                    if r.imported and r.runs[0].run.evaluates is not None
                )
            )
            + "."
        )
    if expansion.table.note:
        lines.append(f"Note: {expansion.table.note}")
    return lines + [f"[{i}] {text}" for text, i in reasons.items()]


def render(expansion: Expansion, frame: pd.DataFrame, fmt: str = "md", store: Store | None = None) -> str:
    """The table as text. fmt: `plain` (terminal), `md`, `tex` or `csv`. frame: `results.load()`. `InputError` for another format."""
    if fmt not in FORMATS:
        raise unknown("format", fmt, FORMATS)
    return write(lay_out(expansion, frame, store), expansion, fmt)


def write(layout: Layout, expansion: Expansion, fmt: str) -> str:
    """A layout as text."""
    return {"plain": _plain, "md": _md, "tex": _tex, "csv": _csv}[fmt](layout, expansion)


def _plain(layout: Layout, expansion: Expansion) -> str:
    from tables.diff_text import _wrap

    def text(e: Entry) -> str:
        text = e.text(
            lambda t, place: {1: f"**{t}**", 2: f"_{t}_"}.get(place, t).replace(" ± ", "±"), joint="\n/ "
        )
        return text + e.flag + "".join(f" [{i}]" for i in e.notes)

    # a cell of two epochs is as wide as two columns: it takes two lines instead
    rows = [
        [row.label, *(text(e) for e in line)] for row, line in zip(layout.rows, layout.entries, strict=True)
    ]
    heads = ["", *(column_title(*c) for c in layout.columns)]
    table = tabulate(
        rows,
        heads,
        tablefmt="simple",
        disable_numparse=True,
        colalign=("left", *["right"] * len(layout.columns)),
    )
    below = [line.replace("Bold:", "**x**:").replace("underlined:", "_x_:") for line in layout.below]
    lines = [
        *(p for x in layout.head for p in _wrap(x)),
        "",
        *table.splitlines(),
        "",
        *(p for x in below for p in _wrap(x)),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _md(layout: Layout, expansion: Expansion) -> str:
    def text(e: Entry) -> str:
        marked = e.text(lambda t, place: {1: f"**{t}**", 2: f"<u>{t}</u>"}.get(place, t))
        return marked + e.flag + (f" <sup>{', '.join(map(str, e.notes))}</sup>" if e.notes else "")

    def plain(value: str) -> str:
        return value.replace("|", "\\|").replace("_", "\\_").replace("<", "&lt;")

    heads = ["Method", *(plain(column_title(*c, arrow=" → ")) for c in layout.columns)]
    rows = [
        [plain(row.label), *(text(e) for e in line)]
        for row, line in zip(layout.rows, layout.entries, strict=True)
    ]
    head = [
        f"# {plain(layout.head[0])}",
        "",
        *(
            f"**{plain(x)}**  " if x.isupper() or x.startswith(LOUD) else f"{plain(x)}  "
            for x in layout.head[1:]
        ),
    ]
    below = [re.sub(r"^\[(\d+)\]", r"<sup>\1</sup>", plain(x)) + "  " for x in layout.below]
    table = ["| " + " | ".join(r) + " |" for r in [heads, *rows]]
    table.insert(1, "|:---|" + "---:|" * len(layout.columns))
    return "\n".join([*head, "", *table, "", *below]) + "\n"


def _tex(layout: Layout, expansion: Expansion) -> str:
    def text(e: Entry) -> str:
        marks = {1: r"\textbf{%s}", 2: r"\underline{%s}"}
        value = e.text(lambda t, place: marks.get(place, "%s") % escape_tex(t))
        value += e.flag.replace("†", r"$^\dagger$").replace("‡", r"$^\ddagger$")
        return value + (rf"$^{{{','.join(map(str, e.notes))}}}$" if e.notes else "")

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    names = [("Teacher", [c[0] for c in layout.columns]), ("Student", [c[1] for c in layout.columns])]
    heads = [
        line([f"{word} network", *(escape_tex(n) for n in which)])
        for word, which in names
        if set(which) != {"none"}
    ]
    rows = [
        (row, line([escape_tex(row.label), *(text(e) for e in entries)]))
        for row, entries in zip(layout.rows, layout.entries, strict=True)
    ]
    plain, methods = ([t for r, t in rows if (r.method in PLAIN_ROWS) == first] for first in (True, False))
    below = [re.sub(r"^\[(\d+)\]", r"$^{\1}$", escape_tex(x)) for x in layout.below]
    loud = [rf"\textbf{{{escape_tex(x)}}}\par" for x in layout.head if x.startswith(LOUD)]
    return (
        "\n".join(
            [
                *(f"% {x}" for x in layout.head),
                "% needs the package booktabs",
                r"\begin{table}",
                r"\centering",
                *loud,
                rf"\caption{{{escape_tex('. '.join(x for x in layout.head if not x.startswith(LOUD)))}.}}",
                r"\begin{tabular}{l" + "c" * len(layout.columns) + "}",
                r"\toprule",
                *heads,
                r"\midrule",
                *plain,
                r"\midrule",
                *methods,
                r"\bottomrule",
                r"\end{tabular}",
                *(r"\par\footnotesize " + x for x in below),
                r"\end{table}",
            ]
        )
        + "\n"
    )


CSV_COLUMNS = (
    "table",
    "profile",
    "dataset",
    "protocol",
    "label",
    "method",
    "teacher",
    "student",
    "rule",
    "mean",
    "std",
    "n",
    "seeds",
    "last_mean",
    "last_std",
    "best_on_test_set_mean",
    "best_on_test_set_std",
    "place",
    "state",
    "reason",
)


def _csv(layout: Layout, expansion: Expansion) -> str:
    """One line a cell, for programs. mean, std: under the row's rule, empty where that is `both`; `best_on_test_set_*` is chosen on the test set.
    profile: with the settings of `--set`, as in the files' names."""
    at = {
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
            [
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
                at[c.row, c.teacher, c.student].place or "",
                state,
                c.reason or "; ".join(r.reasons()),
            ]
        )
    return out.getvalue()


def write_all(
    expansion: Expansion,
    frame: pd.DataFrame,
    out_dir: Path,
    alias: str | None = None,
    store: Store | None = None,
) -> list[Path]:
    """Writes `<table>-<profile>.{md,tex,csv,png}` to a folder, and the same as `<alias>.*`; each file atomically. Returns the paths.

    With settings of `--set` the names have them too: the files of the table's own settings stay.
    """
    from tables.plots import heat_map_png

    layout = lay_out(expansion, frame, store)
    contents: dict[str, bytes] = {fmt: write(layout, expansion, fmt).encode() for fmt in ("md", "tex", "csv")}
    contents["png"] = heat_map_png(expansion, layout.results)
    paths = []
    for stem in [f"{expansion.table.name}-{expansion.profile}", *([alias] if alias else [])]:
        for suffix in FILES:
            path = Path(out_dir) / f"{stem}{expansion.suffix}.{suffix}"
            with atomic(path, "wb") as f:
                f.write(contents[suffix])
            paths.append(path)
    return paths
