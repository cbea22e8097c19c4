"""What choosing the best epoch on the test set is worth, beside a choice on held-out training images.

Runs with `recipe.held_out` have both (benchmark/data/selection.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tables.cells import CellResult, number
from tables.statistics import mean
from tables.text import signed


@dataclass(frozen=True)
class HeldOut:
    """A cell's top-1 in % by three rules, means over the runs that have all three."""

    label: str
    pair: str
    last: float
    held_out: float
    best: float


def cells(results: Sequence[CellResult]) -> list[HeldOut]:
    """Return the cells whose runs held images out."""
    found = []
    for r in results:
        values = [
            (x.last, held_out, x.best)
            for x in r.runs
            if x.row is not None
            and (held_out := number(x.row.get("top1_held_out"))) is not None
            and x.last is not None
            and x.best is not None
        ]
        if values and r.cell.row.measured is None:
            last, held_out, best = (mean(list(column)) for column in zip(*values, strict=True))
            found.append(HeldOut(r.cell.row.label, r.cell.pair, last, held_out, best))
    return found


def lines(results: Sequence[CellResult]) -> list[str]:
    """Return the lines below a table; none if no run held images out."""
    held = cells(results)
    if not held:
        return []
    each = ", ".join(f"{c.label} {c.pair} {c.held_out:.2f}" for c in held)
    over = signed(mean([c.best - c.held_out for c in held]))
    last = signed(mean([c.held_out - c.last for c in held]))
    return [
        f"Test top-1 of the epoch that is best on held-out training images: {each}. On average, choosing the "
        f"epoch on the test set instead adds {over}; the choice on held-out images adds {last} to the last."
    ]
