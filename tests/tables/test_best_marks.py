"""Numbers of the best epoch, which is chosen on the test set, are marked in figures and in the diff's csv."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import records_kit as kit

from tables import diff, diff_text, plots, svg
from tables.cells import BEST_LEGEND, BEST_MARK


def diffs_of(folder: Path, protocol: str) -> tuple[Any, diff.Diff]:
    e = kit.small(folder, text=kit.SMALL.replace('protocol = "crd"', f'protocol = "{protocol}"'))
    records = [kit.record(r, 70.0, 71.0) for c in e.cells for r in c.runs]
    numbers = kit.published_cells(e, kit.simple_value, rule="best" if protocol == "sskd" else "last")
    return e, diff.diff_table(e, kit.as_frame(records), published=numbers)


@pytest.mark.parametrize(("protocol", "marked"), [("crd", False), ("sskd", True)])
def test_best_is_marked(tmp_path: Path, protocol: str, marked: bool) -> None:
    e, diffs = diffs_of(tmp_path, protocol)
    rows = list(csv.DictReader(io.StringIO(diff_text.format_diff(diffs, "csv"))))
    assert {r["best_on_test_set"] for r in rows} == {str(marked)}
    forest, delta = plots.forest(e, diffs), plots.delta_map(e, diffs)
    ticks = [t.get_text() for ax in forest.axes for t in ax.get_yticklabels()]
    cells = [t.get_text() for t in delta.axes[0].texts]
    assert ticks and all(t.endswith(BEST_MARK) == marked for t in ticks)
    assert len(cells) == len(diffs) and all(t.endswith(BEST_MARK) == marked for t in cells)
    for figure in (forest, delta):
        assert (BEST_LEGEND in " ".join(figure.get_suptitle().split())) == marked
    assert svg.forest(diffs).count(BEST_MARK) == svg.heat_map(diffs).count(BEST_MARK) == marked * len(diffs)
