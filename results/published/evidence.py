"""How much the published values of one cell differ, and which of them are copies of the same result.

A copied number is no new evidence: CRD's 73.33 in seventeen tables is one result. A row that
says `copied from PAPER/TABLE` is followed to the table of the paper that ran it. A number whose source does
not say who ran it counts as a copy of the result that has the same digits, if there is one.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import pandas as pd

from results.published.reader import as_frame, choose, errata_of, teacher_weights
from results.published.schema import METRIC_WORDS, OriginKind, PublishedNumber

NONE = "none"
"""Stands for a network that does not exist: a plain student has no teacher."""

_EVIDENCE_RANK = {kind: i for i, kind in enumerate(OriginKind)}


def _kind(number: PublishedNumber) -> OriginKind:
    return number.origin_kind or OriginKind.UNKNOWN


def _results(numbers: Sequence[PublishedNumber]) -> list[str]:
    """Return for each number of a cell the PAPER/TABLE of the result that it repeats.

    That is its own table if it is not a copy.
    """
    by_table = {x.published_in: x for x in numbers}
    results = []
    for x in numbers:
        visited = {x.published_in}
        while x.copied_from in by_table and x.copied_from not in visited:
            visited.add(x.copied_from)
            x = by_table[x.copied_from]
        results.append(x.published_in)
    ranks = [_EVIDENCE_RANK[_kind(x)] for x in numbers]
    for i, x in enumerate(numbers):
        if results[i] != x.published_in or x.origin_kind is OriginKind.RUN:
            continue
        same = [j for j, y in enumerate(numbers) if y.value == x.value and (ranks[j], j) < (ranks[i], i)]
        if same:
            results[i] = results[min(same, key=lambda j: (ranks[j], j))]
    # a copy may have followed a number that was joined to another result only afterwards
    joined = dict(zip((x.published_in for x in numbers), results, strict=True))
    return [joined[r] for r in results]


def disagreements(
    teacher: str, student: str, method: str, dataset: str = "cifar100", metric: str = "top1"
) -> pd.DataFrame:
    """Return every published value of a cell, grouped by result, the largest first.

    The columns are those of the registry, and

    - `result`: PAPER/TABLE of the result that the number repeats (its own table if it is no copy),
    - `copy`: whether it is a copy of that result,
    - `kind`: the `OriginKind`,
    - `teacher_weights`: whose checkpoint taught, "" if that is not known.

    `.attrs` has the counts `results` and `first_hand` (results that the publishing paper ran itself), and in
    percentage points `spread` (largest minus smallest) of all values and `spread_first_hand` of the
    first-hand results.
    """
    wanted = {"teacher": teacher, "student": student, "method": method}
    numbers = [x for x in choose(**wanted, dataset=dataset, metric=metric) if x.value is not None]
    results = _results(numbers)
    copies = [r != x.published_in for r, x in zip(results, numbers, strict=True)]
    frame = as_frame(numbers)
    frame["result"] = pd.Series(results, dtype="string")
    frame["copy"] = pd.Series(copies, dtype="bool")
    frame["kind"] = pd.Series([str(_kind(x)) for x in numbers], dtype="string")
    frame["teacher_weights"] = pd.Series([teacher_weights(x) for x in numbers], dtype="string")
    value_of = {x.published_in: x.value for x in numbers}
    order = sorted(
        range(len(numbers)), key=lambda i: (-(value_of[results[i]] or 0), results[i], copies[i], i)
    )
    frame = frame.iloc[order].reset_index(drop=True)
    first_hand = [
        x.value
        for x, copy in zip(numbers, copies, strict=True)
        if not copy and x.origin_kind is OriginKind.RUN
    ]
    frame.attrs = {
        "spread": _spread([x.value for x in numbers]),
        "spread_first_hand": _spread(first_hand),
        "results": len(set(results)),
        "first_hand": len(first_hand),
    }
    return frame


def _spread(values: list[float | None]) -> float:
    known = [v for v in values if v is not None]
    return max(known) - min(known) if known else 0.0


def format_cell(
    teacher: str,
    student: str,
    method: str,
    dataset: str = "cifar100",
    metric: str = "top1",
    width: int | None = None,
) -> str:
    """Return the output of `published --pair TEACHER:STUDENT --method METHOD`.

    One block a result with its copies and its differences from the benchmark's recipe; then the spread and
    the errata. width: of the terminal; results are listed one below the other if a table would be wider.
    """
    from tabulate import tabulate

    frame = disagreements(teacher, student, method, dataset, metric)
    if frame.empty:
        return _no_value(teacher, student, method, dataset, metric)
    rows = frame.to_dict("records")
    body = []
    for result in (r for r in rows if not r["copy"]):
        copies = [r for r in rows if r["copy"] and r["result"] == result["result"]]
        std = "" if pd.isna(result["std"]) else f" ± {result['std']:g}"
        body.append(
            [
                f"{_percent(result['value'])}{std}",
                "" if pd.isna(result["n"]) else str(result["n"]),
                result["rule"],
                "\n".join([f"{result['paper']}/{result['table']}", *(_copy_text(r) for r in copies)]),
                _wrap(result["origin"], 34),
                result["teacher_weights"],
                _wrap("; ".join(t for t in (result["recipe"], result["note"]) if t), 44),
                _wrap(result["source"], 44),
            ]
        )
    top = METRIC_WORDS[metric]
    heads = [top, "n", "epoch", "published in", "origin", "teacher of", "differs", "source"]
    counts = frame.attrs
    table = tabulate(body, heads, disable_numparse=True).splitlines()
    if width is not None and max(map(len, table)) > width:
        table = _as_list(body, heads, width)
    lines = [
        f"{teacher}:{student} {method} on {dataset}",
        "",
        *table,
        "",
        f"{_count(len(rows), 'published value')} of {_count(counts['results'], 'result')} (=: a copy of the "
        "result, ~: some of its runs or another epoch of them; neither is new evidence)",
        f"spread {counts['spread']:.2f} over all, {counts['spread_first_hand']:.2f} over the "
        f"{counts['first_hand']} that the publishing paper ran itself",
    ]
    if pairs := _pairs_with(teacher, student, method, dataset, metric):
        lines.append(f"also published in the columns of {', '.join(pairs)}")
    lines += _errata_lines(teacher, student, method, dataset, metric)
    if width is not None:
        lines = [piece for line in lines for piece in _wrap(line, width, "    ").splitlines() or [""]]
    return "\n".join(lines)


def _as_list(body: list[list[str]], heads: list[str], width: int) -> list[str]:
    """Return the results one below the other: the value, and a line for each thing known about it."""
    lines: list[str] = []
    for value, *facts in body:
        lines += [*([""] if lines else []), f"{heads[0]} {value}"]
        for head, text in zip(heads[1:], facts, strict=True):
            if text:
                lines += _wrap(f"  {head}: {' '.join(text.split())}", width, "    ").splitlines()
    return lines


def _no_value(teacher: str, student: str, method: str, dataset: str, metric: str) -> str:
    """Say that a cell has no published value, and name those of its pair and of its method."""
    text = f"{teacher}:{student} {method} on {dataset}: no published {metric}"
    of_pair = choose(teacher=teacher, student=student, metric=metric)
    methods = sorted({x.method for x in of_pair if x.value is not None})
    text += f"; published of this pair: {', '.join(methods) or 'nothing'}"
    pairs = _pairs_with(teacher, student, method, dataset, metric)
    return text + (f"; published of {', '.join(pairs)}" if pairs else "")


def _pairs_with(teacher: str, student: str, method: str, dataset: str, metric: str) -> list[str]:
    """Return the pairs with a published value of the method that contain the one named network.

    Papers repeat a plain student or teacher in the columns of all its pairs. The result is empty if both
    networks are named.
    """
    if NONE not in (teacher, student):
        return []
    named = {"student": student} if teacher == NONE else {"teacher": teacher}
    numbers = choose(**named, method=method, dataset=dataset, metric=metric)
    pairs = {f"{x.teacher}:{x.student}" for x in numbers if x.value is not None}
    return sorted(pairs - {f"{teacher}:{student}"})


def _copy_text(row: dict[Any, Any]) -> str:
    """Name the table of a copy. For a part of a result, add its value, which differs from the whole."""
    table = f"{row['paper']}/{row['table']}"
    return f"~ {table} {_percent(row['value'])}" if row["kind"] == OriginKind.PART else f"= {table}"


def _percent(value: float) -> str:
    """Format with two decimals, as in the papers, or with more where a source has more."""
    return f"{value:.2f}" if round(value, 2) == value else f"{value:g}"


def _wrap(text: str, width: int, indent: str = "") -> str:
    """Break a text at a width. indent: of the lines after the first."""
    pieces = textwrap.wrap(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(pieces)


def _errata_lines(teacher: str, student: str, method: str, dataset: str, metric: str) -> list[str]:
    numbers = choose(teacher=teacher, student=student, method=method, dataset=dataset, metric=metric)
    lines = [
        f"erratum ({e['paper'] or 'any'}): {e['what']} [{e['source']}]" for x in numbers for e in errata_of(x)
    ]
    return list(dict.fromkeys(lines))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
