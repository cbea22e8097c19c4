"""A diff as text: for the terminal, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from benchmark.errors import unknown
from benchmark.text import plural
from tables.cells import EPOCH_NOTE
from tables.diff import CellDiff, Diff, count_verdicts, to_frame
from tables.statistics import ASSUMED_STD, RULE, Assumption, power_note
from tables.text import csv_cell, escape_md, escape_tex, mean_std, signed, wrap
from tables.verdicts import FAILING, JUDGED, Verdict

FORMATS = ("plain", "md", "tex", "csv", "json")
MARKS = {
    Verdict.AGREES: "=",
    Verdict.ABOVE: "+",
    Verdict.BELOW: "-",
    Verdict.MISSING: ".",
    Verdict.NOT_COMPARABLE: "~",
}
_COLORS = {
    Verdict.AGREES: "32",
    Verdict.ABOVE: "34",
    Verdict.BELOW: "31",
    Verdict.MISSING: "2",
    Verdict.NOT_COMPARABLE: "2",
}
_COLUMNS = ("method", "pair", "epoch", "ours", "n", "published", "n", "delta", "band", "verdict")


def format_diff(diffs: Sequence[CellDiff], fmt: str = "plain", color: bool = False, head: bool = True) -> str:
    """Return the diff as `plain` text for the terminal, `md`, `tex`, `csv` or `json`.

    head: whether to begin with title and conditions; they are not needed if the diff follows the table.
    color: whether the verdicts of `plain` are coloured. Raises `InputError` for another format.
    """
    if fmt not in FORMATS:
        raise unknown("format", fmt, FORMATS)
    if fmt == "csv":
        return to_frame(diffs).map(csv_cell).to_csv(index=False, lineterminator="\n")
    if fmt == "json":
        return _json(diffs)
    numbers: dict[str, int] = {}
    rows = [_row(c, numbers) for c in diffs]
    above = diffs.head if isinstance(diffs, Diff) and head else []
    below = _below(diffs, numbers)
    if fmt == "tex":
        return _tex(rows, above, below)
    if fmt == "md":
        return _md(rows, above, below)
    if color:
        rows = [
            [*r[:-1], f"\x1b[{_COLORS[c.verdict]}m{r[-1]}\x1b[0m"] for r, c in zip(rows, diffs, strict=True)
        ]
    table = tabulate(
        rows,
        _COLUMNS,
        tablefmt="simple",
        disable_numparse=True,
        colalign=("left", "left", "left", *["right"] * 6, "left"),
    )
    head_lines = [piece for line in above for piece in wrap(line)]
    below_lines = [piece for line in below for piece in wrap(line)]
    return "\n".join([*head_lines, "", *table.splitlines(), "", *below_lines])


def _spread(mean: float | None, std: float | None, assumed: bool) -> str:
    if mean is None:
        return ""
    return f"{mean_std(mean, ASSUMED_STD)}*" if assumed else mean_std(mean, std)


def _delta_and_band(c: CellDiff) -> tuple[str, str]:
    """Format delta and band with two decimals.

    Use three where a difference outside the band would otherwise look equal to the band.
    """
    if c.delta is None:
        return "", ""
    if c.band is None:
        return signed(c.delta), ""
    digits = 3 if c.verdict != Verdict.AGREES and f"{abs(c.delta):.2f}" == f"{c.band:.2f}" else 2
    return signed(c.delta, digits), f"{c.band:.{digits}f}"


def _published_n(c: CellDiff) -> str:
    """Format the n of the published number: `1*` where it was assumed, `?` where it is not known."""
    if c.published is None:
        return ""
    if c.published_n is not None:
        return str(c.published_n)
    return "?" if c.band is None else "1*"


def _row(c: CellDiff, numbers: dict[str, int]) -> list[str]:
    """Return the texts of `_COLUMNS`.

    numbers: text -> number of the reasons and notes that `_below` lists; new ones are added.
    """
    texts = [*([c.reason] if c.reason else []), *c.notes]
    marks = sorted(numbers.setdefault(text, len(numbers) + 1) for text in texts)
    ours = _spread(c.ours, c.ours_std, Assumption.STD_OF_OURS in c.assumed)
    if c.rule == "both" and c.last is not None and c.best is not None:
        ours = f"{c.last:.2f} / {c.best:.2f}"
    return [
        c.label,
        c.pair,
        c.rule,
        ours,
        f"{c.n}/{c.seeds}" if c.seeds else "",
        _spread(c.published, c.published_std, Assumption.STD_OF_PUBLISHED in c.assumed),
        _published_n(c),
        *_delta_and_band(c),
        " ".join([MARKS[c.verdict], c.verdict, *(f"[{i}]" for i in marks)]),
    ]


def _below(diffs: Sequence[CellDiff], numbers: dict[str, int]) -> list[str]:
    """Return the lines below the table: counts, failing cells, the rule, and the numbered reasons."""
    counts = count_verdicts(diffs)
    tally = ", ".join(f"{v} {n}" for v, n in counts.items() if n)
    lines = [f"{plural(len(diffs), 'cell')}: {tally}." if diffs else "no cells."]
    for verdict in FAILING:
        cells = [c for c in diffs if c.verdict == verdict and c.delta is not None]
        if cells:
            lines.append(
                f"{verdict}: " + ", ".join(f"{c.label} {c.pair} ({signed(c.delta or 0.0)})" for c in cells)
            )
    lines.append(f"Rule: {RULE}. {EPOCH_NOTE}.")
    if any(c.rule == "both" for c in diffs):
        lines.append(
            "epoch both: it is not known which epoch the paper reports; ours is shown as last / best, and "
            "there is a verdict if both epochs give the same one."
        )
    if any(counts[v] for v in JUDGED):
        lines.append(power_note(max(c.n for c in diffs if c.band is not None)))
    lines += [f"[{i}] {text}" for text, i in numbers.items()]
    if isinstance(diffs, Diff) and diffs.note:
        lines.append(f"Note: {diffs.note}")
    return lines


def _json(diffs: Sequence[CellDiff]) -> str:
    """Return `{head, rule, best, note, counts, cells}`. Numbers are not rounded."""
    content: dict[str, Any] = {
        "head": diffs.head if isinstance(diffs, Diff) else [],
        "rule": RULE,
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
    lines = [f"% {line}" for line in above]
    lines += [r"\begin{tabular}{lllrrrrrrl}", r"\toprule", " & ".join(_COLUMNS) + r" \\", r"\midrule"]
    lines += [" & ".join(escape_tex(x) for x in r) + r" \\" for r in rows]
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        *(r"\par\noindent\footnotesize " + escape_tex(x) for x in below),
    ]
    return "\n".join(lines) + "\n"
