"""A diff as text: for the terminal, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from benchmark.errors import unknown
from tables import diff
from tables.cells import ON_TEST_SET
from tables.diff import VERDICTS, CellDiff, Diff
from tables.statistics import ASSUMED_STD, RULE, power_note, signed

FORMATS = ("plain", "md", "tex", "csv", "json")
MARKS = {"agrees": "=", "above": "+", "below": "-", "missing": ".", "not comparable": "~"}
_COLORS = {"agrees": "32", "above": "34", "below": "31", "missing": "2", "not comparable": "2"}
_SHOWN = ("method", "pair", "epoch", "ours", "n", "published", "n", "delta", "band", "verdict")


def format_as(diffs: Sequence[CellDiff], fmt: str, color: bool, show_head: bool = True) -> str:
    """See `tables.diff.format_diff`."""
    if fmt not in FORMATS:
        raise unknown("format", fmt, FORMATS)
    if fmt == "csv":
        return diff.to_frame(diffs).to_csv(index=False, lineterminator="\n")
    if fmt == "json":
        return as_json(diffs)
    reasons: dict[str, int] = {}
    rows = [_row(c, reasons) for c in diffs]
    head = diffs.head if isinstance(diffs, Diff) and show_head else []
    below = _below(diffs, reasons)
    if fmt == "tex":
        return _tex(rows, head, below)
    if fmt == "md":
        table = tabulate(
            [[_escape_md(x) for x in r] for r in rows], _SHOWN, tablefmt="pipe", disable_numparse=True
        )
        return (
            "\n".join([*(f"{line}  " for line in head), "", table, "", *(f"{line}  " for line in below)])
            + "\n"
        )
    if color:
        rows = [
            [*r[:-1], f"\x1b[{_COLORS[c.verdict]}m{r[-1]}\x1b[0m"] for r, c in zip(rows, diffs, strict=True)
        ]
    table = tabulate(
        rows,
        _SHOWN,
        tablefmt="simple",
        disable_numparse=True,
        colalign=("left", "left", "left", *["right"] * 6, "left"),
    )
    wrapped = [
        piece
        for line in [*head, "", *table.splitlines(), "", *below]
        for piece in ([line] if line in table else _wrap(line))
    ]
    return "\n".join(wrapped)


def _wrap(line: str) -> list[str]:
    return textwrap.wrap(line, 118, subsequent_indent="    ") or [""]


def _spread(mean: float | None, std: float | None, assumed: bool) -> str:
    if mean is None:
        return ""
    return (
        f"{mean:.2f} ± {std:.2f}"
        if std is not None and not assumed
        else f"{mean:.2f} ± {ASSUMED_STD:.2f}*"
        if assumed
        else f"{mean:.2f}"
    )


def _delta_and_band(c: CellDiff) -> tuple[str, str]:
    """With two decimals; with three where two would show a difference equal to a band that it is not."""
    if c.delta is None:
        return "", ""
    if c.band is None:
        return signed(c.delta), ""
    digits = 3 if c.verdict != "agrees" and f"{abs(c.delta):.2f}" == f"{c.band:.2f}" else 2
    return signed(c.delta, digits), f"{c.band:.{digits}f}"


def _row(c: CellDiff, reasons: dict[str, int]) -> list[str]:
    """The texts of `_SHOWN`; a reason or note gets a number that `_below` explains."""
    marks = ""
    for i in sorted(
        reasons.setdefault(text, len(reasons) + 1) for text in [*([c.reason] if c.reason else []), *c.notes]
    ):
        marks += f" [{i}]"
    ours = _spread(c.ours, c.ours_std, any(a.startswith("std of ours") for a in c.assumed))
    if c.rule == "both" and c.last is not None and c.best is not None:
        ours = f"{c.last:.2f} / {c.best:.2f}"
    return [
        c.label,
        c.pair,
        c.rule,
        ours,
        f"{c.n}/{c.seeds}" if c.seeds else "",
        _spread(c.published, c.published_std, any(a.startswith("std of published") for a in c.assumed)),
        ""
        if c.published is None
        else str(c.published_n)
        if c.published_n is not None
        else "1*"
        if c.band is not None
        else "?",
        *_delta_and_band(c),
        f"{MARKS[c.verdict]} {c.verdict}{marks}",
    ]


def _below(diffs: Sequence[CellDiff], reasons: dict[str, int]) -> list[str]:
    counts = {v: sum(c.verdict == v for c in diffs) for v in VERDICTS}
    lines = (
        [
            f"{len(diffs)} {'cell' if len(diffs) == 1 else 'cells'}: "
            + ", ".join(f"{v} {n}" for v, n in counts.items() if n)
            + "."
        ]
        if len(diffs)
        else ["no cells."]
    )
    lines += [
        f"{v}: "
        + ", ".join(
            f"{c.label} {c.pair} ({signed(c.delta)})" for c in diffs if c.verdict == v and c.delta is not None
        )
        for v in diff.FAILING
        if counts[v]
    ]
    lines.append(f"Rule: {RULE}. {ON_TEST_SET}.")
    if any(c.rule == "both" for c in diffs):
        lines.append(
            "epoch both: which one the paper reports is not known; ours is shown as last / best, with a verdict where both say the same."
        )
    if counts["agrees"] + counts["above"] + counts["below"]:
        lines.append(power_note(max(c.n for c in diffs if c.band is not None)))
    lines += [f"[{i}] {text}" for text, i in reasons.items()]
    if isinstance(diffs, Diff) and diffs.note:
        lines.append(f"Note: {diffs.note}")
    return lines


def as_json(diffs: Sequence[CellDiff]) -> str:
    """`{head, rule, note, counts, cells}`; numbers unrounded."""
    found: dict[str, Any] = {
        "head": diffs.head if isinstance(diffs, Diff) else [],
        "rule": RULE,
        "best": ON_TEST_SET,
        "note": diffs.note if isinstance(diffs, Diff) else "",
        "counts": {v: sum(c.verdict == v for c in diffs) for v in VERDICTS},
        "cells": [dataclasses.asdict(c) for c in diffs],
    }
    return json.dumps(found, indent=1, allow_nan=False)


def _escape_md(text: str) -> str:
    return text.replace("|", "\\|").replace("_", "\\_").replace("*", "\\*")


def escape_tex(text: str) -> str:
    """Plain text for LaTeX."""
    table = {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "<": r"$<$",
        ">": r"$>$",
        "|": r"$|$",
    }
    return "".join(table.get(ch, ch) for ch in text)


def _tex(rows: list[list[str]], head: Sequence[str], below: Sequence[str]) -> str:
    lines = [f"% {line}" for line in head]
    lines += [r"\begin{tabular}{lllrrrrrrl}", r"\toprule", " & ".join(_SHOWN) + r" \\", r"\midrule"]
    lines += [" & ".join(escape_tex(x) for x in r) + r" \\" for r in rows]
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        *(r"\par\noindent\footnotesize " + escape_tex(x) for x in below),
    ]
    return "\n".join(lines) + "\n"
