"""Static figures: titles that fit, cells without a number that cannot be mistaken for one, and file forms."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import records_kit as kit
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tables import diff, plots
from tables.cells import collect

LONG = "A title of a table that is far longer than any figure of two narrow columns is wide, " * 3


def drawn(figure: Figure) -> tuple[float, float, float, float]:
    """Draw a figure, and return its width and the left, right and top ends of its title, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    assert figure._suptitle is not None
    box = figure._suptitle.get_window_extent(canvas.get_renderer())
    return figure.bbox.width, box.x0, box.x1, box.y1 - figure.bbox.height


def test_long_titles_are_wrapped(tmp_path: Path) -> None:
    e = kit.small(tmp_path, "quick", overrides=(("kd.temperature", 8.0), ("recipe.train_images", 64)))
    e = replace(e, table=replace(e.table, title=LONG))
    frame = kit.as_frame([kit.record(r, 70.0) for r in e.runs])
    diffs = diff.diff_table(e, frame)
    curve = kit.curve(e.runs[-1])
    for figure in (
        plots.heat_map(e, collect(e, frame)),
        plots.delta_map(e, diffs),
        plots.forest(e, diffs),
        plots.curve_plot(LONG, {"seed 0": curve}),
    ):
        width, left, right, above = drawn(figure)
        assert left >= 0 and right <= width and above <= 0
        assert len(figure.get_suptitle().splitlines()) > 2


def test_cells_without_a_number_are_crossed_out(tmp_path: Path) -> None:
    e = kit.small(tmp_path)
    records = [
        kit.record(r, None, status="diverged", reason="x")
        if c.row.method == "at"
        else kit.record(r, 0.0 if c.row.method == "sp" else 70.0)
        for c in e.cells
        for r in c.runs
    ]
    frame = kit.as_frame(records)
    figure = plots.heat_map(e, collect(e, frame))
    axes = figure.axes[0]
    texts = [t.get_text() for t in axes.texts]
    assert texts.count("diverged") == texts.count("0.00") == 2
    assert len(axes.lines) == 2 * 2  # a cross on each of those that diverged, none on 0.00
    deltas = plots.delta_map(e, diff.diff_table(e, frame, published=kit.published_cells(e, lambda c: 70.0)))
    texts = [t.get_text() for t in deltas.axes[0].texts]
    assert texts.count(".") == 2 and len(deltas.axes[0].lines) == 2 * 2


def test_files_have_no_date(tmp_path: Path) -> None:
    e = kit.small(tmp_path)
    results = collect(e, kit.as_frame([kit.record(r, 70.0) for r in e.runs]))
    first, second = (plots.pictures(plots.heat_map(e, results)) for _ in range(2))
    assert first == second and tuple(first) == plots.KINDS
    assert first["png"].startswith(b"\x89PNG") and first["pdf"].startswith(b"%PDF")
    assert b"<svg" in first["svg"] and b"70.00" in first["svg"]  # text stays text


def test_figures_do_not_need_the_backend_of_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib reads MPLBACKEND when it is imported, and fails for a backend that is missing here."""
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    plots.figure_class()
    assert os.environ["MPLBACKEND"] == "agg"


def test_dollars_in_a_text_are_no_formula(tmp_path: Path) -> None:
    """matplotlib reads what stands between two dollars as TeX, and fails at what is none."""
    e = kit.small(tmp_path, text=kit.SMALL.replace('label = "KD"', "label = 'costs $1 \\no $2'"))
    e = replace(e, table=replace(e.table, title=r"from $\no to $"))
    frame = kit.as_frame([kit.record(r, 70.0) for r in e.runs])
    diffs = diff.diff_table(e, frame, published=kit.published_cells(e, kit.simple_value))
    for figure in (
        plots.heat_map(e, collect(e, frame)),
        plots.delta_map(e, diffs),
        plots.forest(e, diffs),
        plots.curve_plot(e.table.title, {"seed 0": kit.curve(e.runs[-1])}),
    ):
        drawn(figure)
