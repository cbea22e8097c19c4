"""What must be said below a table about networks that were measured."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tables.cells import CellResult, column_title


def remarks(results: Sequence[CellResult]) -> list[str]:
    """Return one line for each network that its measure has a remark on. Rows may share a network."""
    lines: dict[str, str] = {}
    for r in results:
        for x in r.runs:
            numbers = None if x.row is None else x.row.get("numbers")
            if x.run.measure is None or not isinstance(numbers, str):
                continue
            if remark := x.run.measure.measure.remark(json.loads(numbers)):
                pair = column_title(r.cell.teacher, r.cell.student, arrow=" -> ")
                lines.setdefault(x.run.key, f"{r.cell.row.label}, {pair}, seed {x.run.seed}: {remark}.")
    return list(lines.values())
