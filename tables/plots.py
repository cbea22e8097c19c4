"""Static figures, drawn with matplotlib.

They are readable in grey: whatever a colour shows is also written or hatched. `pictures` returns
them as bytes. matplotlib is imported only when a figure is drawn.
"""

from __future__ import annotations

import io
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from benchmark.spec.matrix import Expansion
from results.files import atomic
from results.store import Store
from tables.cells import (
    BEST_LEGEND,
    CellResult,
    changed_settings,
    collect,
    column_title,
    metrics_of,
    profile_warning,
    rank_rule,
    what_is_shown,
)
from tables.curves import cell_curves
from tables.diff import CellDiff, diff_table
from tables.statistics import Sample, mean_interval
from tables.text import signed
from tables.verdicts import MARKS, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INCHES_PER_ROW = 0.32
TITLE_SIZE = 8.5
CHARACTERS_PER_INCH = 13
"""How many characters of a title fit, at `TITLE_SIZE`."""

HATCHES = {"above": "\\\\\\", "below": "///"}
"""How cells that differ are hatched, by the sign of their difference."""
DIFFERING = (Verdict.DIFFERS, Verdict.DIFFERS_LITTLE)


def figure_class() -> type[Figure]:
    """Return matplotlib's class of figures, for drawing into files. What MPLBACKEND names is not used.

    A notebook sets it to a backend that may be missing here.
    """
    os.environ["MPLBACKEND"] = "agg"
    from matplotlib.figure import Figure

    return Figure


def _figure(width: float, height: float) -> Figure:
    return figure_class()(figsize=(width, max(height, 1.8)), dpi=120, layout="constrained")


KINDS = ("png", "pdf", "svg")
"""The forms in which figures are written."""


def pictures(figure: Figure, kinds: Sequence[str] = KINDS) -> dict[str, bytes]:
    """Return a figure in each of these forms. The same figure gives the same bytes: none has a date."""
    import matplotlib

    undated = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    contents = {}
    with matplotlib.rc_context({"svg.hashsalt": "kd-tables", "svg.fonttype": "none"}):
        for kind in kinds:
            out = io.BytesIO()
            figure.savefig(out, format=kind, metadata=undated[kind])
            contents[kind] = out.getvalue()
    return contents


def _grid(
    axes: Any,
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    cmap: str,
    limits: tuple[float, float],
    label: str,
) -> None:
    """Draw a heat map of `values` (rows x columns) with `texts` in its cells.

    limits, label: of the colour bar.
    """
    import matplotlib

    low, high = limits
    colours = matplotlib.colormaps[cmap].with_extremes(bad="white")
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=low, vmax=high, aspect="auto")
    for i, line in enumerate(texts):
        for j, text in enumerate(line):
            shade = (
                colours((values[i, j] - low) / (high - low)) if np.isfinite(values[i, j]) else (1, 1, 1, 1)
            )
            backing = None
            if not re.search(r"\d\.\d\d", text):
                # crossed out, because a white cell could also be a small number
                for slope in (1, -1):
                    axes.plot(
                        [j - 0.48, j + 0.48],
                        [i - 0.46 * slope, i + 0.46 * slope],
                        color="0.8",
                        linewidth=0.7,
                        zorder=1.5,
                    )
                backing = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            dark = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] < 0.5
            axes.text(
                j,
                i,
                literal(text),
                ha="center",
                va="center",
                fontsize=7.5,
                color="white" if dark else "black",
                bbox=backing,
            )
    axes.set_xticks(range(len(columns)), [literal(x) for x in columns], fontsize=7.5)
    axes.set_yticks(range(len(rows)), [literal(x) for x in rows], fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(-0.5, len(columns)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(rows)), minor=True)
    axes.grid(which="minor", color="0.6", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8, pad=0.01)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=7.5)


def _title(figure: Figure, expansion: Expansion, what: str) -> None:
    warnings = [w for w in (profile_warning(expansion.profile), changed_settings(expansion)) if w]
    _wrapped_title(figure, [expansion.table.title, *what.split("\n"), *warnings])


def _wrapped_title(figure: Figure, lines: Sequence[str]) -> None:
    """Set a title whose lines are broken to the width of the figure."""
    most = max(20, int(figure.get_figwidth() * CHARACTERS_PER_INCH))
    figure.suptitle(literal("\n".join(textwrap.fill(line, most) for line in lines)), fontsize=TITLE_SIZE)


def literal(text: str) -> str:
    """Return a text as matplotlib shows it letter by letter: it reads what stands between dollars as TeX."""
    return text.replace("$", r"\$")


def heat_map(expansion: Expansion, results: Sequence[CellResult]) -> Figure:
    """Draw the table: top-1, shaded by the gain over the plain student of its column and group."""
    rows = list(dict.fromkeys(r.cell.row for r in results))
    columns = list(dict.fromkeys((r.cell.teacher, r.cell.student) for r in results))
    rule = rank_rule(expansion.table)
    values, texts = np.full((len(rows), len(columns)), np.nan), [[""] * len(columns) for _ in rows]
    plain: dict[tuple[str, str, str], float] = {}
    for r in results:
        if r.cell.row.method == "student" and (s := r.sample(rule)) is not None:
            plain[r.cell.row.group, r.cell.teacher, r.cell.student] = s.mean
    for r in results:
        i, j = rows.index(r.cell.row), columns.index((r.cell.teacher, r.cell.student))
        sample = r.sample(rule)
        if sample is None:
            texts[i][j] = "missing" if r.cell.missing else "N/A" if not r.runs else r.absence()
            continue
        texts[i][j] = f"{sample.mean:.2f}"
        group = (r.cell.row.group, r.cell.teacher, r.cell.student)
        values[i, j] = sample.mean - plain.get(group, np.nan)
    finite = values[np.isfinite(values)]
    limits = (-1.0, 1.0)
    if finite.size and finite.max() > finite.min():
        limits = (float(finite.min()), float(finite.max()))
    figure = _figure(2.6 + 1.15 * len(columns), 1.5 + INCHES_PER_ROW * len(rows))
    epoch = "best epoch (chosen on the test set)" if rule == "best" else "last epoch"
    table = expansion.table
    _title(
        figure, expansion, what_is_shown(table) if table.measured else f"{metrics_of(table)} of the {epoch}"
    )
    _grid(
        axes=figure.subplots(),
        values=values,
        texts=texts,
        rows=[r.label for r in rows],
        columns=[column_title(*c) for c in columns],
        cmap="Greys",
        limits=limits,
        label="gain over the plain student",
    )
    return figure


def delta_map(expansion: Expansion, diffs: Sequence[CellDiff]) -> Figure:
    """Draw ours minus published in each cell.

    Cells that differ are hatched by `HATCHES`; a tilde marks those that are not comparable, a question mark
    those that are undecided.
    """
    from matplotlib.patches import Rectangle

    rows = list(dict.fromkeys(d.label for d in diffs))
    columns = list(dict.fromkeys((d.teacher, d.student) for d in diffs))
    values, texts = np.full((len(rows), len(columns)), np.nan), [["."] * len(columns) for _ in rows]
    figure = _figure(2.6 + 1.15 * len(columns), 1.6 + INCHES_PER_ROW * len(rows))
    axes = figure.subplots()
    for d in diffs:
        i, j = rows.index(d.label), columns.index((d.teacher, d.student))
        if d.delta is None:
            continue
        if d.verdict == Verdict.NOT_COMPARABLE:
            texts[i][j] = f"~ {signed(d.delta)}{d.best_mark}"
            continue
        mark = "? " if d.verdict is Verdict.UNDECIDED else ""
        values[i, j], texts[i][j] = d.delta, mark + signed(d.delta) + d.best_mark
        if d.verdict in DIFFERING:
            hatch = HATCHES["above" if d.delta > 0 else "below"]
            axes.add_patch(
                Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch=hatch, edgecolor="0.4", linewidth=0)
            )
    finite = values[np.isfinite(values)]
    most = max(1.0, float(np.abs(finite).max())) if finite.size else 1.0
    what = "ours minus published; hatched: differs; ? undecided; ~ not comparable; . missing" + _legend(diffs)
    _title(figure, expansion, what)
    _grid(
        axes=axes,
        values=values,
        texts=texts,
        rows=rows,
        columns=[column_title(*c) for c in columns],
        cmap="PuOr",
        limits=(-most, most),
        label="percentage points",
    )
    return figure


def _legend(diffs: Sequence[CellDiff]) -> str:
    """Explain the mark of the best epoch if some number has it."""
    return f"; {BEST_LEGEND}" if any(d.best_mark for d in diffs) else ""


def intervals(d: CellDiff) -> tuple[tuple[float, float, bool], tuple[float, float, bool]]:
    """Return the 95% intervals of ours and the published mean, each with whether its std is assumed.

    They have no width where no s0 is known: a number of this kind has no rule.
    """
    assert d.ours is not None and d.published is not None
    ours = Sample(d.ours, d.ours_std, d.n)
    published = Sample(d.published, d.published_std, d.published_n)
    return _interval(ours, d.s0), _interval(published, d.s0)


def _interval(sample: Sample, s0: float | None) -> tuple[float, float, bool]:
    if s0 is None:
        return sample.mean, sample.mean, False
    return *mean_interval(sample, s0), sample.std is None or sample.n == 1


def forest(expansion: Expansion, diffs: Sequence[CellDiff]) -> Figure:
    """Draw ours and published with 95% intervals, for every cell that has both."""
    columns = list(dict.fromkeys((d.teacher, d.student) for d in diffs))
    both = {
        c: [
            d for d in diffs if (d.teacher, d.student) == c and d.ours is not None and d.published is not None
        ]
        for c in columns
    }
    both = {c: cells for c, cells in both.items() if cells}
    if not both:
        figure = _figure(6, 2)
        _title(figure, expansion, "no cell has both our number and a published one")
        return figure
    across = min(len(both), 3)
    down = -(-len(both) // across)
    figure = _figure(3.6 * across, 0.9 + down * (0.7 + 0.3 * max(map(len, both.values()))))
    _title(
        figure,
        expansion,
        "● ours   □ published   95% intervals, dashed where the std is assumed\n"
        "= same   !! differs   ? undecided   ~ not comparable" + _legend(diffs),
    )
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for ax, (column, cells) in zip(axes, both.items(), strict=False):
        for i, d in enumerate(cells):
            assert d.ours is not None and d.published is not None
            ours, published = intervals(d)
            for mean, (low, high, assumed), y, mark, fill in (
                (d.ours, ours, i - 0.14, "o", "black"),
                (d.published, published, i + 0.14, "s", "white"),
            ):
                ax.plot([low, high], [y, y], color="0.35", linewidth=1, linestyle=":" if assumed else "-")
                ax.plot([mean], [y], mark, color="black", markerfacecolor=fill, markersize=4)
        labels = [literal(f"{MARKS[d.verdict]} {d.label}{d.best_mark}") for d in cells]
        ax.set_yticks(range(len(cells)), labels, fontsize=7)
        ax.invert_yaxis()
        ax.set_title(literal(column_title(*column, arrow=" → ")), fontsize=8)
        ax.tick_params(axis="x", labelsize=7)
        ax.grid(axis="x", color="0.85", linewidth=0.5)
    for ax in axes[len(both) :]:
        ax.set_axis_off()
    return figure


def curve_plot(
    title: str, ours: Mapping[str, pd.DataFrame], published: Mapping[str, pd.DataFrame] | None = None
) -> Figure:
    """Draw test top-1 and train loss by epoch.

    Our runs are solid, one shade each; published ones are dashed.
    """
    figure = _figure(8, 3.2)
    _wrapped_title(figure, [title])
    for ax, column, label in zip(
        figure.subplots(1, 2),
        ("test_acc", "train_loss"),
        ("test top-1 (%)", "train loss (mean total of the epoch)"),
        strict=True,
    ):
        for i, (name, curve) in enumerate(ours.items()):
            main = curve[curve["stage"] == "main"] if "stage" in curve else curve
            if column in main:
                ax.plot(
                    main["epoch"],
                    main[column],
                    color=str(0.55 * i / max(len(ours), 1)),
                    linewidth=1.2,
                    label=name,
                )
        for name, curve in (published or {}).items():
            ax.plot(
                curve["epoch"],
                curve[column],
                color="0.5",
                linewidth=1,
                linestyle="--",
                label=literal(f"published: {name}"),
            )
        ax.set_xlabel("epoch", fontsize=8)
        ax.set_ylabel(label, fontsize=8)
        ax.tick_params(labelsize=7)
        ax.grid(color="0.9", linewidth=0.5)
    figure.axes[0].legend(fontsize=6.5, frameon=False)
    return figure


def write_figures(expansion: Expansion, frame: pd.DataFrame, store: Store, out_dir: Path) -> list[Path]:
    """Write the figures beside a table's files, and return their paths.

    They are `<table>-<profile>-{delta,forest}`, and
    `<table>-<profile>-curves-<row>-<teacher>-<student>` for every cell whose runs have curves, each in
    all `KINDS`. The names contain the settings of `--set`, as in `render.write_all`.
    """
    diffs = diff_table(expansion, frame, store=store)
    profile = expansion.profile + expansion.suffix
    stem = f"{expansion.table.name}-{profile}"
    figures = {f"{stem}-delta": delta_map(expansion, diffs), f"{stem}-forest": forest(expansion, diffs)}
    for cell in collect(expansion, frame, store):
        curves = {
            f"seed {r.run.seed}": curve
            for r in cell.runs
            if r.row is not None and (curve := store.curve(r.run.key, reference=True)) is not None
        }
        if curves:
            c = cell.cell
            title = f"{c.row.label}, {column_title(c.teacher, c.student, arrow=' → ')} (profile {profile})"
            slug = re.sub(r"[^\w+]+", "-", c.row.label).strip("-")
            name = f"{stem}-curves-{slug}-{c.teacher}-{c.student}"
            figures[name] = curve_plot(title, curves, cell_curves(cell))
    paths = []
    for name, figure in figures.items():
        for kind, content in pictures(figure).items():
            path = Path(out_dir) / f"{name}.{kind}"
            with atomic(path, "wb") as f:
                f.write(content)
            paths.append(path)
    return paths
