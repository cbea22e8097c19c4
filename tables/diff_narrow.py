"""A diff for a narrow terminal: a block for each pair, with fewer and shorter columns."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

COLUMNS = ("method", "ours", "n", "published", "n", "delta", "±", "verdict")
LEAST_VERDICT = 16
"""The verdict is broken into lines of at least this many columns."""
GAP = 2
"""Columns that tabulate leaves between two of a table, and adds to a header."""


def blocks(
    rows: Sequence[Sequence[str]], shown: Sequence[Sequence[str]], half_widths: Sequence[str], width: int
) -> list[str]:
    """Return the lines of the diff, at most `width` columns wide where the numbers allow it.

    rows: method, pair, epoch, ours, n, published, n, delta, interval and verdict of each cell. shown: the
    same, perhaps with colours. half_widths: half of the interval's width, in the place of its ends: it lies
    evenly around the delta.
    """
    lines: list[str] = []
    for pair, epoch in dict.fromkeys((row[1], row[2]) for row in rows):
        of_pair = [i for i, row in enumerate(rows) if (row[1], row[2]) == (pair, epoch)]
        plain, body = (
            [[texts[i][0], *texts[i][3:8], half_widths[i], texts[i][9]] for i in of_pair]
            for texts in (rows, shown)
        )
        columns = [*zip(COLUMNS, *plain, strict=True)][:-1]
        before = sum(max(len(head) + GAP, *map(len, texts)) for head, *texts in columns)
        left = max(LEAST_VERDICT, width - before - GAP * (len(COLUMNS) - 1))
        table = tabulate(
            body,
            COLUMNS,
            tablefmt="simple",
            disable_numparse=True,
            colalign=("left", *["right"] * 6, "left"),
            maxcolwidths=[*[None] * 7, left],
        )
        lines += [*([""] if lines else []), f"{pair}, {epoch} epoch", *table.splitlines()]
    return lines
