"""What must be said below a table about networks that were measured."""

from __future__ import annotations

from collections.abc import Sequence

from tables.cells import CellResult, column_title, measured_numbers


def remarks(results: Sequence[CellResult]) -> list[str]:
    """Return one line for each network that its measure has a remark on. Rows may share a network."""
    lines: dict[str, str] = {}
    for r in results:
        for x in r.runs:
            numbers = measured_numbers(x.row)
            if x.run.measure is None or not numbers:
                continue
            if remark := x.run.measure.measure.remark(numbers):
                pair = column_title(r.cell.teacher, r.cell.student, arrow=" -> ")
                lines.setdefault(x.run.key, f"{r.cell.row.label}, {pair}, seed {x.run.seed}: {remark}.")
    return list(lines.values())
