"""A diff as text: for the terminal, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from benchmark.errors import unknown
from benchmark.text import given_width, plural
from results.published.schema import OriginKind, parse_origin
from results.published.yardsticks import TAU
from tables import diff_narrow
from tables.between_methods import power_note
from tables.cells import EPOCH_NOTE, IMPORTED_MARK, REFERENCE_LEGEND, REFERENCE_MARK, imported_legend
from tables.diff import CellDiff, Diff, count_verdicts, to_frame
from tables.latex import network_name, number
from tables.statistics import RULE, Assumption
from tables.text import csv_cell, escape_md, escape_tex, mean_std, printable, signed, wrap
from tables.verdicts import MARKS, Verdict

FORMATS = ("plain", "md", "tex", "csv", "json")
_BOLD, _GREEN, _BLUE, _RED, _FAINT = "1", "32", "34", "31", "2"
_STYLES = {
    Verdict.SAME: _GREEN,
    Verdict.DIFFERS: _BOLD,
    Verdict.DIFFERS_LITTLE: _BOLD,
    Verdict.UNDECIDED: "",
    Verdict.SAME_CHECKPOINT: _FAINT,
    Verdict.MISSING: _FAINT,
    Verdict.NOT_COMPARABLE: _FAINT,
}
_COLUMNS = ("method", "pair", "epoch", "ours", "n", "published", "n", "delta", "90% interval", "verdict")
_DELTA = _COLUMNS.index("delta")

BOTH = (
    "; both = it is not known which of the two the paper reports: ours and delta are shown as last / best, "
    "and interval and verdict hold for both"
)


def format_diff(diffs: Sequence[CellDiff], fmt: str = "plain", color: bool = False, head: bool = True) -> str:
    """Return the diff as `plain` text for the terminal, `md`, `tex`, `csv` or `json`.

    head: whether to begin with title and conditions; they are not needed if the diff follows the table.
    color: whether the deltas (blue: above, red: below) and the verdicts of `plain` are coloured.

    Raises `InputError` for another format.
    """
    if fmt not in FORMATS:
        raise unknown("format", fmt, FORMATS)
    if fmt == "csv":
        return to_frame(diffs).map(csv_cell).to_csv(index=False, lineterminator="\n")
    if fmt == "json":
        return _json(diffs)
    numbers: dict[str, int] = {}
    shared = _shared_reasons(diffs)
    rows = [_row(c, numbers, shared) for c in diffs]
    above = diffs.head if isinstance(diffs, Diff) and head else []
    below = _below(diffs, numbers, shared)
    if fmt == "tex":
        return _tex(rows, above, below)
    if fmt == "md":
        return _md(rows, above, below)
    head_lines = [piece for line in above for piece in wrap(line)]
    below_lines = [piece for line in below for piece in wrap(line)]
    table = _table(rows, diffs, color)
    return "\n".join([*head_lines, "", *table, "", *below_lines])


def _table(rows: list[list[str]], diffs: Sequence[CellDiff], color: bool) -> list[str]:
    """Return the lines of the plain table; a block for each pair where it is too wide for the terminal."""
    lines, width = _wide(rows), given_width(sys.stdout)
    shown = [_coloured(r, c) for r, c in zip(rows, diffs, strict=True)] if color else rows
    if width and max(map(len, lines)) > width:
        return diff_narrow.blocks(rows, shown, [_half_width(c) for c in diffs], width)
    return _wide(shown)


def _wide(rows: list[list[str]]) -> list[str]:
    table = tabulate(
        rows,
        _COLUMNS,
        tablefmt="simple",
        disable_numparse=True,
        colalign=("left", "left", "left", *["right"] * 6, "left"),
    )
    return table.splitlines()


def _coloured(row: list[str], c: CellDiff) -> list[str]:
    """Colour the delta by its sign and the verdict by what it says."""

    def styled(text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if style and text else text

    deltas = _deltas(c)
    sign = _BLUE if min(deltas, default=0.0) > 0 else _RED if max(deltas, default=0.0) < 0 else ""
    sign = "" if c.low is None else sign
    delta = styled(row[_DELTA], sign)
    return [*row[:_DELTA], delta, *row[_DELTA + 1 : -1], styled(row[-1], _STYLES[c.verdict])]


def _value(mean: float | None, std: float | None, n: int | None, assumed: bool) -> str:
    """Format a value with the std that was measured. A star marks that one was assumed; it is not printed."""
    if mean is None:
        return ""
    return f"{mean:.2f}*" if assumed else mean_std(mean, None if n == 1 else std)


def _half_width(c: CellDiff) -> str:
    """Return half of the interval's width. The interval lies evenly around the delta."""
    return "" if c.low is None or c.high is None else f"{(c.high - c.low) / 2:.2f}"


def _interval(c: CellDiff) -> str:
    return "" if c.low is None or c.high is None else f"{signed(c.low)} to {signed(c.high)}"


def _published_n(c: CellDiff) -> str:
    """Format the n of the published number: `1*` where it was assumed, `?` where it is not known."""
    if c.published is None:
        return ""
    if c.published_n is not None:
        return str(c.published_n)
    if c.low is None:
        return "?"
    return "2*" if Assumption.N_OF_PUBLISHED_STD in c.assumed else "1*"


def _verdict(c: CellDiff) -> str:
    """Return a verdict, for an undecided one with the number of seeds that would decide."""
    if c.verdict is not Verdict.UNDECIDED:
        return f"{MARKS[c.verdict]} {c.verdict}"
    return f"{MARKS[c.verdict]} {c.verdict} (n {'-' if c.needed is None else c.needed})"


def _deltas(c: CellDiff) -> list[float]:
    """Return ours minus published: of the last and the best epoch where the paper's is not known."""
    if c.delta is None:
        return []
    if c.rule != "both" or c.last is None or c.best is None or c.published is None:
        return [c.delta]
    return [c.last - c.published, c.best - c.published]


def _shared_reasons(diffs: Sequence[CellDiff]) -> dict[Verdict, str]:
    """Return the reason that all cells without a comparison share, by verdict, where two or more have it."""
    shared = {}
    for verdict in (Verdict.MISSING, Verdict.NOT_COMPARABLE):
        reasons = [c.reason for c in diffs if c.verdict is verdict]
        if len(reasons) > 1 and len(set(reasons)) == 1:
            shared[verdict] = reasons[0]
    return shared


def _is_said_below(c: CellDiff, shared: Mapping[Verdict, str]) -> bool:
    """Whether the lines below the table say a cell's reason, so that it needs no note."""
    judged_for_both_epochs = c.rule == "both" and c.low is not None
    return judged_for_both_epochs or c.verdict is Verdict.SAME_CHECKPOINT or c.verdict in shared


def _row(c: CellDiff, numbers: dict[str, int], shared: Mapping[Verdict, str]) -> list[str]:
    """Return the texts of `_COLUMNS`.

    numbers: text -> number of the reasons and notes that `_below` lists; new ones are added. shared: see
    `_shared_reasons`.
    """
    texts = [*([] if not c.reason or _is_said_below(c, shared) else [c.reason]), *c.notes]
    notes = sorted(numbers.setdefault(text, len(numbers) + 1) for text in texts)
    ours = _value(c.ours, c.ours_std, c.n, Assumption.STD_OF_OURS in c.assumed)
    if c.rule == "both" and c.last is not None and c.best is not None:
        ours = f"{c.last:.2f} / {c.best:.2f}"
    return [
        c.label,
        c.pair,
        c.rule,
        ours + (c.marks if ours else ""),
        f"{c.n}/{c.seeds}" if c.seeds else "",
        _value(c.published, c.published_std, c.published_n, Assumption.STD_OF_PUBLISHED in c.assumed),
        _published_n(c),
        " / ".join(map(signed, _deltas(c))),
        _interval(c),
        " ".join([_verdict(c), *(f"[{i}]" for i in notes)]),
    ]


def _below(diffs: Sequence[CellDiff], numbers: dict[str, int], shared: Mapping[Verdict, str]) -> list[str]:
    """Return the lines below the table: counts, cells that differ, the rule, origins, and the numbered notes.

    shared: see `_shared_reasons`.
    """
    lines = [_tally(diffs, shared)]
    for verdict in (Verdict.DIFFERS, Verdict.DIFFERS_LITTLE):
        cells = [c for c in diffs if c.verdict == verdict and c.delta is not None]
        if cells:
            lines.append(f"{verdict}: " + ", ".join(_difference(c) for c in cells))
    judged = [c for c in diffs if c.low is not None]
    if judged:
        lines += [_sensitivity(judged), f"Rule: {RULE}{_other_taus(judged)}."]
    both = any(c.rule == "both" for c in diffs)
    lines.append(f"Epoch: {EPOCH_NOTE}{BOTH if both else ''}.")
    if any(c.assumed for c in judged):
        s0 = sorted({f"{c.s0:.2f}" for c in judged if c.assumed and c.s0 is not None})
        lines.append(
            "*: not known. The verdict assumes the std s0 of the student's family, from published ones "
            f"({', '.join(s0)}), and a single run."
        )
    lines += _seeds([c for c in diffs if c.verdict is Verdict.UNDECIDED])
    if judged:
        lines.append(power_note(max(c.n for c in judged)))
    lines += _origins(diffs)
    lines += [f"[{i}] {text}" for text, i in numbers.items()]
    if isinstance(diffs, Diff) and diffs.note:
        lines.append(f"Note: {diffs.note}")
    return lines


def _tally(diffs: Sequence[CellDiff], shared: Mapping[Verdict, str]) -> str:
    """Count the cells by verdict, with the reason that all of one share.

    Checks of the same checkpoint stand apart: they show no training.
    """
    if not diffs:
        return "no cells."
    counts = count_verdicts(diffs)
    checked = counts.pop(Verdict.SAME_CHECKPOINT)
    tally = ", ".join(f"{v} {n}{f' ({shared[v]})' if v in shared else ''}" for v, n in counts.items() if n)
    text = f"{plural(len(diffs) - checked, 'cell')}: {tally}." if tally else ""
    apart = f"The same checkpoint, evaluated again with the same result: {plural(checked, 'cell')}."
    return " ".join(filter(None, [text, apart if checked else ""]))


def _seeds(undecided: Sequence[CellDiff]) -> list[str]:
    """Say what the n of undecided cells means."""
    needed = [c.needed for c in undecided]
    lines = []
    if any(n is not None for n in needed):
        lines.append(
            "undecided (n ...): the number of our seeds that would decide, if mean and std stayed as they "
            "are. That is optimistic, because the mean will move."
        )
    if None in needed:
        lines.append("undecided (n -): no number of our seeds would decide.")
    return lines


def _origins(diffs: Sequence[CellDiff]) -> list[str]:
    """Say which numbers are of reference records or imported checkpoints, and which are copies."""
    lines = []
    marks = "".join(c.marks for c in diffs if c.ours is not None)
    if REFERENCE_MARK in marks:
        lines.append(REFERENCE_LEGEND)
    evaluated = dict.fromkeys(c.imported for c in diffs if IMPORTED_MARK in c.marks and c.ours is not None)
    taught = dict.fromkeys(c.imported for c in diffs if c.imported and IMPORTED_MARK not in c.marks)
    if evaluated:
        students = "; its students learnt from it" if set(evaluated) == set(taught) else ""
        lines.append(imported_legend(evaluated, students))
    if taught and set(evaluated) != set(taught):
        lines.append(f"Students learnt from imported checkpoints: {', '.join(taught)}.")
    copies: dict[str, list[str]] = {}
    published = [c for c in diffs if c.published is not None]
    for c in published:
        origin = parse_origin(c.origin)
        if origin.kind is OriginKind.COPY:
            copies.setdefault(origin.table, []).append(c.label)
    for table, labels in copies.items():
        which = "all" if len(labels) == len(published) else ", ".join(dict.fromkeys(labels))
        lines.append(f"Published values copied from {table}: {which}.")
    return lines


def _difference(c: CellDiff) -> str:
    p = "" if c.adjusted_p is None else f", p {c.adjusted_p:.2g}"
    return f"{c.label} {c.pair} ({signed(c.delta or 0.0)}{p})"


def _sensitivity(judged: Sequence[CellDiff]) -> str:
    """Say which verdicts are others with the larger tau."""
    taus = dict.fromkeys((c.wide_tau, c.tau) for c in judged)
    tau = "With tau = " + " and ".join(f"{wide:g} instead of {usual:g}" for wide, usual in taus)
    changed = [c for c in judged if c.with_wide_tau not in (None, c.verdict)]
    if not changed:
        return f"{tau}, every verdict is the same."
    cells = ", ".join(f"{c.label} {c.pair} is {c.with_wide_tau}" for c in changed)
    return f"{tau}: {cells}; every other verdict is the same."


def _other_taus(judged: Sequence[CellDiff]) -> str:
    """Name the tau of cells that have another one than top-1, "" if there are none."""
    others = sorted({c.tau for c in judged if c.tau is not None and c.tau not in (0.0, TAU)})
    return f" ({', '.join(f'{tau:g}' for tau in others)} in top-5)" if others else ""


def _json(diffs: Sequence[CellDiff]) -> str:
    """Return `{head, rule, best, note, counts, cells}`. Numbers are not rounded."""
    content: dict[str, Any] = {
        "head": diffs.head if isinstance(diffs, Diff) else [],
        "rule": RULE + _other_taus(diffs),
        "best": EPOCH_NOTE,
        "note": diffs.note if isinstance(diffs, Diff) else "",
        "counts": count_verdicts(diffs),
        "cells": [dataclasses.asdict(c) for c in diffs],
    }
    return json.dumps(content, indent=1, allow_nan=False)


def _md(rows: list[list[str]], above: Sequence[str], below: Sequence[str]) -> str:
    escaped = [[escape_md(x) for x in r] for r in rows]
    table = tabulate(escaped, _COLUMNS, tablefmt="pipe", disable_numparse=True)
    # two spaces at the end of a line are a line break
    return "\n".join([*(f"{x}  " for x in above), "", table, "", *(f"{x}  " for x in below)]) + "\n"


def _tex(rows: list[list[str]], above: Sequence[str], below: Sequence[str]) -> str:
    """Return a longtable, since a diff has a row a cell and may need several pages."""
    pair, verdict = _COLUMNS.index("pair"), len(_COLUMNS) - 1
    lines = [f"% {printable(line)}" for line in above]
    lines += [
        "% needs the packages booktabs, longtable",
        r"{\fontsize{6}{7.5}\selectfont\setlength{\tabcolsep}{1pt}",
        r"\begin{longtable}{lllrrrrrr@{\hspace{4pt}}p{16mm}}",
        r"\toprule",
        " & ".join(map(escape_tex, _COLUMNS)) + r" \\",
        r"\midrule",
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
    ]
    for row in rows:
        cells = [number(x) if " ± " in x else escape_tex(x) for x in row]
        cells[pair] = ":".join(map(network_name, row[pair].split(":")))
        cells[verdict] = r"\raggedright " + cells[verdict] + r"\tabularnewline"
        lines.append(" & ".join(cells))
    lines += [r"\end{longtable}}", *(r"\par\noindent{\footnotesize " + escape_tex(x) + "}" for x in below)]
    return "\n".join(lines) + "\n"
