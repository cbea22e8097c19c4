"""How the printed values of one cell disagree, and which of them are one and the same result printed again.

A number that is copied is no new evidence: seventeen tables that print CRD's 73.33 are one result. Rows that say `copied from PAPER/TABLE`
are followed to the table that ran them; a number of which nobody says who ran it joins the result whose digits it repeats, if there is one.
"""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd

from results.published.reader import as_frame, choose, errata_of
from results.published.schema import PublishedNumber

KINDS = ("run", "second-hand", "derived", "unknown", "copy", "part")
"""Of an origin, best evidence first. part: one run of, or another epoch of, a result that the registry has as well."""

NONE = "none"
"""In the place of a network: there is none (a plain student)."""

_BEGINNINGS = {
    "run by ": "run",
    "copied from ": "copy",
    "derived: copied from ": "copy",
    "derived: ": "derived",
    "second-hand: ": "second-hand",
    "unknown: ": "unknown",
    "part of ": "part",
}
ORIGINS = (
    "run by ..., copied from PAPER/TABLE, derived: ..., second-hand: ..., unknown: ..., part of PAPER/TABLE"
)


def kind(origin: str) -> str | None:
    """One of `KINDS`, None for an origin that begins like none of them."""
    return next((k for start, k in _BEGINNINGS.items() if origin.startswith(start)), None)


def named_place(origin: str) -> str | None:
    """The PAPER/TABLE that a copy or part points to, None for other origins."""
    if kind(origin) not in ("copy", "part"):
        return None
    return (
        origin.removeprefix("derived: ")
        .removeprefix("copied from ")
        .removeprefix("part of ")
        .split(":")[0]
        .strip()
    )


def _results(found: list[PublishedNumber]) -> list[str]:
    """Of each number of one cell the place of the result that it is."""
    by_place = {x.published_in: x for x in found}
    results = []
    for x in found:
        seen = {x.published_in}
        while (place := named_place(x.origin)) and place in by_place and place not in seen:
            seen.add(place)
            x = by_place[place]
        results.append(x.published_in)
    ranks = [KINDS.index(kind(x.origin) or "unknown") for x in found]
    for i, x in enumerate(found):
        if results[i] != x.published_in or kind(x.origin) == "run":
            continue
        same = [j for j, y in enumerate(found) if y.value == x.value and (ranks[j], j) < (ranks[i], i)]
        if same:
            results[i] = results[min(same, key=lambda j: (ranks[j], j))]
    # a copy may have followed a number that has since joined another
    joined = dict(zip((x.published_in for x in found), results, strict=True))
    return [joined[r] for r in results]


def disagreements(
    teacher: str, student: str, method: str, dataset: str = "cifar100", metric: str = "top1"
) -> pd.DataFrame:
    """Every printed value of a cell, results together, largest first: the columns of the registry and

    - `result`: PAPER/TABLE of the result that the number is (its own, if it is no copy),
    - `copy`: whether it only prints that result again,
    - `kind`: of its origin, one of `KINDS`.

    `.attrs` has, in percentage points, `spread` (largest - smallest) over all and `spread_own` over the results that the printing paper
    ran itself, and the counts `results` and `own`.
    """
    wanted = {"teacher": teacher, "student": student, "method": method}
    found = [x for x in choose(**wanted, dataset=dataset, metric=metric) if x.value is not None]
    results = _results(found)
    frame = as_frame(found)
    frame["result"] = pd.Series(results, dtype="string")
    frame["copy"] = pd.Series(
        [r != x.published_in for r, x in zip(results, found, strict=True)], dtype="bool"
    )
    frame["kind"] = pd.Series([kind(x.origin) or "unknown" for x in found], dtype="string")
    heads = {x.published_in: x.value for x in found}
    order = sorted(
        range(len(found)), key=lambda i: (-(heads[results[i]] or 0), results[i], bool(frame["copy"][i]), i)
    )
    frame = frame.iloc[order].reset_index(drop=True)
    own = [
        x.value
        for x, r in zip(found, results, strict=True)
        if r == x.published_in and kind(x.origin) == "run"
    ]
    frame.attrs = {
        "spread": _spread([x.value for x in found]),
        "spread_own": _spread(own),
        "results": len(set(results)),
        "own": len(own),
    }
    return frame


def _spread(values: list[float | None]) -> float:
    known = [v for v in values if v is not None]
    return max(known) - min(known) if known else 0.0


def format_cell(
    teacher: str, student: str, method: str, dataset: str = "cifar100", metric: str = "top1"
) -> str:
    """The text of `published --pair TEACHER:STUDENT --method METHOD`: a block a result, its copies, how far they differ, the errata."""
    from tabulate import tabulate

    frame = disagreements(teacher, student, method, dataset, metric)
    if frame.empty:
        others = sorted(
            {x.method for x in choose(teacher=teacher, student=student, metric=metric) if x.value is not None}
        )
        of_pair = f"printed of this pair: {', '.join(others)}" if others else "nothing printed of this pair"
        pairs = _pairs_with(teacher, student, method, dataset, metric)
        elsewhere = f"; printed of {', '.join(pairs)}" if pairs else ""
        return f"{teacher}:{student} {method} on {dataset}: no printed {metric}; {of_pair}{elsewhere}"
    rows = frame.to_dict("records")
    body = []
    for head in (r for r in rows if not r["copy"]):
        again = [r for r in rows if r["copy"] and r["result"] == head["result"]]
        std = "" if pd.isna(head["std"]) else f" ± {head['std']:g}"
        places = [f"{head['paper']}/{head['table']}", *(_again(r) for r in again)]
        body.append(
            [
                f"{_percent(head['value'])}{std}",
                "" if pd.isna(head["n"]) else str(head["n"]),
                head["rule"],
                "\n".join(places),
                _wrap(head["origin"], 34),
                _wrap("; ".join(t for t in (head["recipe"], head["note"]) if t), 44),
                _wrap(head["source"], 44),
            ]
        )
    heads = [
        "top-1" if metric == "top1" else "top-5",
        "n",
        "epoch",
        "printed in",
        "origin",
        "differs",
        "source",
    ]
    text = f"{teacher}:{student} {method} on {dataset}\n\n"
    text += tabulate(body, heads, disable_numparse=True)
    text += f"\n\n{_count(len(rows), 'printed value')} of {_count(frame.attrs['results'], 'result')}"
    text += " (=: the same result printed again, ~: some of its runs or another epoch of them; neither is new evidence)"
    text += f"\nspread {frame.attrs['spread']:.2f} over all"
    text += (
        f", {frame.attrs['spread_own']:.2f} over the {frame.attrs['own']} that the printing paper ran itself"
    )
    if pairs := _pairs_with(teacher, student, method, dataset, metric):
        text += f"\nprinted in the columns of pairs too: {', '.join(pairs)}"
    return "\n".join([text, *_errata_lines(teacher, student, method, dataset, metric)])


def _pairs_with(teacher: str, student: str, method: str, dataset: str, metric: str) -> list[str]:
    """The pairs of the one network whose other is asked for as `none`, that have a printed value of the method: papers print a plain student
    (or teacher) in every column that it is in. Empty where both networks are named."""
    if NONE not in (teacher, student):
        return []
    named = {"student": student} if teacher == NONE else {"teacher": teacher}
    found = choose(**named, method=method, dataset=dataset, metric=metric)
    return sorted(
        {f"{x.teacher}:{x.student}" for x in found if x.value is not None} - {f"{teacher}:{student}"}
    )


def _again(row: dict[Any, Any]) -> str:
    """The place of a number that is no result of its own; of a part the value too, which is another."""
    place = f"{row['paper']}/{row['table']}"
    return f"~ {place} {_percent(row['value'])}" if row["kind"] == "part" else f"= {place}"


def _percent(value: float) -> str:
    """At least two decimals, as the papers print them; more where a source has more."""
    return f"{value:.2f}" if round(value, 2) == value else f"{value:g}"


def _wrap(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False))


def _errata_lines(teacher: str, student: str, method: str, dataset: str, metric: str) -> list[str]:
    found = choose(teacher=teacher, student=student, method=method, dataset=dataset, metric=metric)
    lines = {
        f"erratum ({e['paper'] or 'any'}): {e['what']} [{e['source']}]": None
        for x in found
        for e in errata_of(x)
    }
    return list(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
