"""The lines of a table whose runs held images out."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_summary import case, results_of

from tables import held_out


def test_three_rules_side_by_side(tmp_path: Path) -> None:
    e, records = case(tmp_path)
    assert held_out.lines(results_of(e, records)) == []
    gains = {"kd": 0.25, "at": 0.75}
    records = [
        {**r, "top1_best": r["top1_last"] + 1, "top1_held_out": r["top1_last"] + gains[r["method"]]}
        if r["method"] in gains
        else r
        for r in records
    ]
    cells = held_out.cells(results_of(e, records))
    assert {c.label for c in cells} == {"KD", "AT"} and len(cells) == 6
    for c in cells:
        assert c.held_out - c.last == pytest.approx(gains[c.label.lower()])
        assert c.best - c.last == pytest.approx(1)
    (line,) = held_out.lines(results_of(e, records))
    assert "KD resnet56:resnet20 72.25" in line
    assert "adds +0.50; the choice on held-out images adds +0.50 to the last" in line
