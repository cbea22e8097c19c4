"""The figures below each table of the report, with their captions."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from benchmark.spec.matrix import Expansion
from benchmark.text import plural
from tables import gains, svg
from tables.between_methods import power_note, ranks
from tables.cells import BASELINE_ROWS, BEST_LEGEND, CellResult, number, rank_rule
from tables.critical_difference import caption, critical_difference, diagram
from tables.diff import CellDiff
from tables.report_cards import has_gains
from tables.verdicts import Verdict

FOREST = (
    "● regenerated, □ published, with 95% intervals of the means by the std that the verdict uses; dashed: "
    "it is assumed, from the student's family. They leave out the difference between origins (tau). "
    "Intervals that leave the plot are cut. Faint: not comparable. "
    f"{BEST_LEGEND}."
)
HEAT = (
    "Regenerated minus published, in percentage points. The colour is the sign. The mark is the verdict: "
    + ", ".join(f"{svg.MARKS[v]} {v}" for v in Verdict)
    + f". Comparable cells are shaded. {BEST_LEGEND}."
)
RANKS = (
    "Mean rank by the {epoch} over {pairs} pairs, 1 = best, with a 95% t interval over the pairs (in "
    "simulations it covers the true mean rank in 92 to 100% with three or more methods, in 84% or more with "
    "two). Methods with overlapping intervals cannot be ordered."
)
ONE_RANK = (
    "Rank by the {epoch} of the one pair that has numbers. One pair says nothing about others: no interval."
)
LAST_BEST = (
    "Mean over the table's cells of the last (●) and the best epoch (○). The best epoch is chosen on "
    "the test set; the distance is what that choice adds."
)
COST = (
    "Hours behind the row's records. Each run counts its share of its pack's hours. Records that "
    "several rows or tables use count in each of them."
)


def figures(e: Expansion, results: Sequence[CellResult], diffs: Sequence[CellDiff]) -> str:
    """Return the figures as foldable HTML: forest plot, heat map, ranks, last and best epoch, cost.

    Empty figures are left out.
    """
    rule = rank_rule(e.table)
    epoch = "best epoch (chosen on the test set)" if rule == "best" else "last epoch"
    epoch = "measured number" if e.table.measured else epoch
    n = max((r.n for r in results if r.cell.row.method not in BASELINE_ROWS), default=0)
    folds = "".join(
        [
            _fold(
                "Forest plot: regenerated and published with 95% intervals",
                svg.forest(diffs),
                FOREST,
                "figure wide",
            ),
            _fold("Heat map of differences", svg.heat_map(diffs), HEAT),
            *(
                _fold(title if not group else f"{title}, {group}", *figure(scores, epoch))
                for group, scores in _scores(e, results, rule).items()
                for title, figure in RANK_FIGURES.items()
            ),
            _fold("Last versus best epoch", svg.dumbbells(_last_best(results)), LAST_BEST),
            _fold(
                "Gain over the plain student, by pair",
                gains.bars_by_pair(gains.gains(results, rule) if has_gains(e) else {}),
                gains.BY_PAIR.format(epoch=epoch),
                "figure wide",
            ),
            _fold(
                "Gain against cost", *_gain_against_cost(results, rule, epoch) if has_gains(e) else ("", "")
            ),
            _fold("Cost of each row", svg.bars(_costs(results), "h"), COST),
        ]
    )
    # the spread between seeds is known of top-1 alone
    power = f'<p class="meta">Power: {html.escape(power_note(n))}</p>' if n and not e.table.measured else ""
    return f'<div class="figures">{folds}</div>{power}'


def _scores(e: Expansion, results: Sequence[CellResult], rule: str) -> dict[str, dict[str, dict[str, float]]]:
    """Return group of rows -> pair -> row label -> mean, of the rows that are ranked.

    Rows of two groups were trained on other images, or show other accuracies.
    """
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for r in results:
        row = r.cell.row
        # several numbers of a network have no common rank
        rankable = row.method not in BASELINE_ROWS and row.ranked and len(e.table.measured) < 2
        if rankable and (s := r.sample(rule)) is not None:
            scores.setdefault(row.group, {}).setdefault(r.cell.pair, {})[row.label] = s.mean
    return scores


def _mean_ranks(scores: dict[str, dict[str, float]], epoch: str) -> tuple[str, str]:
    """Return the figure of the mean ranks and its caption."""
    ranked, left_out = ranks(scores)
    pairs = ranked[0].pairs if ranked else 0
    caption = (RANKS if pairs > 1 else ONE_RANK).format(epoch=epoch, pairs=pairs)
    if left_out:
        caption += f" Left out, because they have no number on some pair: {', '.join(left_out)}."
    return svg.ranks(ranked), caption


def _critical(scores: dict[str, dict[str, float]], epoch: str) -> tuple[str, str]:
    """Return the diagram of critical differences and its caption, "" with too few pairs or methods."""
    c = critical_difference(scores)
    return ("", "") if c is None else (diagram(c), caption(c, epoch))


RANK_FIGURES = {
    "Ranks of the methods over the pairs": _mean_ranks,
    "Critical differences of the ranks": _critical,
}
"""The figures of the ranks by their titles. Each is drawn for every group of rows."""


def _gain_against_cost(results: Sequence[CellResult], rule: str, epoch: str) -> tuple[str, str]:
    """Return the figure of gain against cost and its caption."""
    points, pairs = gains.points(results, rule)
    return gains.against_cost(points), gains.AGAINST_COST.format(epoch=epoch, pairs=plural(pairs, "pair"))


def _fold(title: str, body: str, caption: str, css: str = "figure") -> str:
    if not body:
        return ""
    return (
        f'<details class="{css}" open><summary>{html.escape(title)}</summary>'
        f'<p class="meta">{html.escape(caption)}</p><div class="scroll">{body}</div></details>'
    )


def _last_best(results: Sequence[CellResult]) -> list[tuple[str, float, float]]:
    """Return row label, mean of the last and mean of the best epoch over the cells that have both.

    What is measured on a network is of one epoch.
    """
    by_row: dict[str, list[tuple[float, float]]] = {}
    for r in results:
        last, best = r.sample("last"), r.sample("best")
        one_epoch = r.measures_imported or r.cell.row.measured is not None
        if last is not None and best is not None and not one_epoch:
            by_row.setdefault(r.cell.row.label, []).append((last.mean, best.mean))
    return [
        (k, math.fsum(a for a, _ in v) / len(v), math.fsum(b for _, b in v) / len(v))
        for k, v in by_row.items()
    ]


def _costs(results: Sequence[CellResult]) -> list[tuple[str, float]]:
    """Return row label and hours of its runs; each run counts once."""
    by_row: dict[str, dict[str, float]] = {}
    for r in results:
        for run in r.runs:
            # a measurement has no share of a pack; a record made elsewhere may have none either
            if run.row is not None and (
                seconds := number(run.row.get("share_seconds")) or number(run.row.get("seconds"))
            ):
                by_row.setdefault(r.cell.row.label, {})[run.run.key] = seconds / 3600
    return [(k, math.fsum(v.values())) for k, v in by_row.items()]
