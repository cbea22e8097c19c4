"""A table of many columns for the terminal: what does not fit beside the others goes below them."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

GAP = 2
"""Spaces between two columns."""


def _width(texts: Sequence[str]) -> int:
    return max(len(line) for text in texts for line in (text.splitlines() or [""]))


def plain_table(
    labels: Sequence[str], heads: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> list[str]:
    """Return the lines of a table, in parts one below the other if it is wider than `width`.

    labels: of the rows. heads: of the columns. rows: one text a column; texts may have several lines.
    """
    columns = [[head, *(row[i] for row in rows)] for i, head in enumerate(heads)]
    room = width - max(map(len, labels), default=0)
    parts: list[list[int]] = []
    used = 0
    for i, column in enumerate(columns):
        needs = _width(column) + GAP
        if not parts or used + needs > room:
            parts.append([])
            used = 0
        parts[-1].append(i)
        used += needs
    lines: list[str] = []
    for part in parts or [[]]:
        text = tabulate(
            [[label, *(row[i] for i in part)] for label, row in zip(labels, rows, strict=True)],
            ["", *(heads[i] for i in part)],
            tablefmt="simple",
            disable_numparse=True,
            colalign=("left", *["right"] * len(part)),
        )
        lines += [*([""] if lines else []), *text.splitlines()]
    return lines
