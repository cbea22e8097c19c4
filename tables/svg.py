"""Inline SVG figures of the report.

Their colours come from the page's style sheet, so that they follow its theme.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from tables.between_methods import Rank
from tables.diff import CellDiff
from tables.plots import DIFFERING, intervals
from tables.text import signed
from tables.verdicts import Verdict

MARKS = {
    Verdict.SAME: "=",
    Verdict.DIFFERS: "≠",
    Verdict.DIFFERS_LITTLE: "≲",
    Verdict.UNDECIDED: "?",
    Verdict.SAME_CHECKPOINT: "≡",
    Verdict.MISSING: "·",
    Verdict.NOT_COMPARABLE: "~",
}
"""The marks of the verdicts on the page."""

MINUS = "\u2212"

ROW = 18
LABEL = 150


def text(x: float, y: float, content: str, anchor: str = "start", css: str = "") -> str:
    """Return a text element."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{html.escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """Return a line element."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def circle(x: float, y: float, radius: float, css: str) -> str:
    """Return a circle element."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{css}"/>'


def draw(width: float, height: float, body: Sequence[str], label: str) -> str:
    """Return a picture of these elements. label: for readers who do not see it."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="img" '
        f'aria-label="{html.escape(label, quote=True)}">{"".join(body)}</svg>'
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers between `low` and `high`, at most `most` + 1 of them."""
    width = max(high - low, 1e-9)
    step = 10 ** math.floor(math.log10(width / most))
    step = next(step * k for k in (1, 2, 5, 10) if width / (step * k) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


class Scale:
    """Maps values from `low` to `high` to x positions from `left` to `right`.

    padding: added at both ends, as a share of the range.
    """

    def __init__(self, low: float, high: float, left: float, right: float, padding: float = 0.04) -> None:
        pad = padding * (high - low) or (0.5 if padding else 0.0)
        self.low, self.high, self.left, self.right = low - pad, high + pad, left, right

    def __call__(self, value: float) -> float:
        return self.left + (value - self.low) / (self.high - self.low) * (self.right - self.left)

    def axis(self, top: float, bottom: float) -> list[str]:
        """Return vertical rules and labels at round numbers."""
        parts = []
        for t in ticks(self.low, self.high):
            parts += [
                line(self(t), top, self(t), bottom, "rule"),
                text(self(t), bottom + 12, f"{t:g}", "middle", "tick"),
            ]
        return parts


def forest(diffs: Sequence[CellDiff]) -> str:
    """Draw one plot a pair: ours (circle) and published (square) with intervals. "" if no cell has both."""
    parts = []
    for pair in dict.fromkeys(d.pair for d in diffs):
        cells = [
            d
            for d in diffs
            if d.pair == pair and d.ours is not None and d.published is not None and d.delta is not None
        ]
        if cells:
            parts.append(
                f'<figure data-pair="{html.escape(pair, quote=True)}">'
                f"<figcaption>{html.escape(pair.replace(':', ' → '))}</figcaption>"
                + _forest(cells, pair)
                + "</figure>"
            )
    return f'<div class="small-multiples">{"".join(parts)}</div>' if parts else ""


def _forest(cells: Sequence[CellDiff], pair: str) -> str:
    marks = []
    for d in cells:
        assert d.ours is not None and d.published is not None
        our_interval, their_interval = intervals(d)
        marks.append((d, d.ours, our_interval, d.published, their_interval))
    # one wide interval (n = 2 or 3) must not squeeze the rest: the axis follows the points, intervals are cut
    points = [v for _, ours, _, theirs, _ in marks for v in (ours, theirs)]
    scale = Scale(min(points) - 1, max(points) + 1, LABEL, 380)
    bottom = ROW * len(cells) + 6
    body = scale.axis(2, bottom)
    for i, (d, ours, (low, high, assumed), theirs, (low2, high2, assumed2)) in enumerate(marks):
        y = ROW * i + 12
        faint = " faint" if d.verdict == Verdict.NOT_COMPARABLE else ""
        body.append(
            text(
                LABEL - 8,
                y + 4,
                f"{MARKS[d.verdict]} {d.label}{d.best_mark}",
                "end",
                f"label t-{d.verdict.css}",
            )
        )
        for mean, a, b, dashed, dy, square in (
            (ours, low, high, assumed, -3, False),
            (theirs, low2, high2, assumed2, 4, True),
        ):
            a, b = (min(max(scale(v), LABEL), 384) for v in (a, b))
            body.append(line(a, y + dy, b, y + dy, f"whisker{' dashed' if dashed else ''}{faint}"))
            x = scale(mean)
            if square:
                body.append(
                    f'<rect x="{x - 3:.1f}" y="{y + dy - 3:.1f}" width="6" height="6" class="square{faint}"/>'
                )
            else:
                body.append(circle(x, y + dy, 3.2, f"dot v-{d.verdict.css}{faint}"))
    return draw(400, bottom + 20, body, f"regenerated and published numbers of {pair}")


def heat_map(diffs: Sequence[CellDiff]) -> str:
    """Draw the differences as a grid, shaded by size. "" if there is none."""
    known = [abs(d.delta) for d in diffs if d.delta is not None]
    if not known:
        return ""
    rows, columns = list(dict.fromkeys(d.label for d in diffs)), list(dict.fromkeys(d.pair for d in diffs))
    most, width, height = max(1.0, *known), 92, 22
    left = LABEL
    body = []
    for j, pair in enumerate(columns):
        for k, name in enumerate(pair.split(":")):
            body.append(text(left + width * (j + 0.5), 11 + 12 * k, name, "middle", "tick"))
    for d in diffs:
        i, j = rows.index(d.label), columns.index(d.pair)
        x, y = left + width * j, 30 + height * i
        share = 0.0 if d.delta is None or d.verdict == Verdict.NOT_COMPARABLE else abs(d.delta) / most
        sign = "over" if (d.delta or 0) > 0 else "under"
        body.append(
            f'<rect x="{x}" y="{y}" width="{width - 2}" height="{height - 2}" class="heat {sign}" '
            f'style="--share:{share:.3f}"/>'
        )
        shown = MARKS[d.verdict] + (
            "" if d.delta is None else f" {signed(d.delta)}{d.best_mark}".replace("-", MINUS)
        )
        body.append(
            text(
                x + width / 2 - 1,
                y + 14,
                shown,
                "middle",
                "value" + (" strong" if d.verdict in DIFFERING else ""),
            )
        )
    body += [text(left - 8, 30 + height * i + 14, label, "end", "label") for i, label in enumerate(rows)]
    return draw(left + width * len(columns), 34 + height * len(rows), body, "heat map of differences")


def ranks(ranked: Sequence[Rank]) -> str:
    """Draw mean ranks with intervals, best on top. "" if there is none."""
    if not ranked:
        return ""
    scale = Scale(1, max(r.high or r.mean for r in ranked), LABEL, 480)
    bottom = ROW * len(ranked) + 6
    body = scale.axis(2, bottom)
    for i, r in enumerate(ranked):
        y = ROW * i + 12
        body += [
            text(LABEL - 8, y + 4, r.method, "end", "label"),
            *(
                []
                if r.low is None or r.high is None
                else [line(scale(r.low), y, scale(r.high), y, "whisker")]
            ),
            circle(scale(r.mean), y, 3.5, "dot"),
            text(490, y + 4, f"{r.mean:.1f}", "start", "value"),
        ]
    return draw(530, bottom + 20, body, "mean ranks of the methods")


def dumbbells(rows: Sequence[tuple[str, float, float]]) -> str:
    """Draw each `(label, last, best)` as two marks on a line. "" if there is none."""
    if not rows:
        return ""
    scale = Scale(min(last for _, last, _ in rows), max(best for _, _, best in rows), LABEL, 480)
    bottom = ROW * len(rows) + 6
    body = scale.axis(2, bottom)
    for i, (label, last, best) in enumerate(rows):
        y = ROW * i + 12
        body += [
            text(LABEL - 8, y + 4, label, "end", "label"),
            line(scale(last), y, scale(best), y, "whisker"),
            circle(scale(best), y, 4, "ring"),
            circle(scale(last), y, 3, "dot"),
            text(490, y + 4, signed(best - last), "start", "value"),
        ]
    return draw(540, bottom + 20, body, "last and best epoch of each row")


def bars(rows: Sequence[tuple[str, float]], unit: str) -> str:
    """Draw each `(label, value)` as a horizontal bar from zero. "" if there is no positive value."""
    if not rows or max(value for _, value in rows) <= 0:
        return ""
    most = max(value for _, value in rows)
    body = []
    for i, (label, value) in enumerate(rows):
        y = ROW * i + 12
        length = 320 * value / most
        body += [
            text(LABEL - 8, y + 4, label, "end", "label"),
            f'<rect x="{LABEL}" y="{y - 6}" width="{length:.1f}" height="12" class="bar"/>',
            text(LABEL + length + 6, y + 4, f"{value:.3g} {unit}", "start", "value"),
        ]
    return draw(560, ROW * len(rows) + 12, body, "cost of each row")
