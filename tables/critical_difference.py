"""Which methods' mean ranks over pairs differ: Friedman's test, then Nemenyi's.

As in Demšar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7 (2006), with pairs of
networks in the place of data sets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tables.between_methods import complete_ranks
from tables.svg import LABEL, Scale, draw, line, text

FEWEST_PAIRS = 5
"""With fewer pairs, the critical difference is about as large as the whole range of ranks."""

FEWEST_METHODS = 3
LEVEL = 0.05


@dataclass(frozen=True)
class CriticalDifference:
    """The result of both tests at level `LEVEL`."""

    methods: tuple[str, ...]
    """By mean rank, best first."""
    mean_ranks: tuple[float, ...]
    pairs: int
    p: float
    """Of Friedman's test, in the F form by Iman and Davenport: are all mean ranks equal?"""
    critical: float
    """Mean ranks that differ by less are not told apart by Nemenyi's test."""
    groups: tuple[tuple[int, int], ...]
    """First and last method of each largest group that is not told apart; indices into `methods`."""


def critical_difference(scores: dict[str, dict[str, float]]) -> CriticalDifference | None:
    """Return the tests on pair -> method -> top-1; None with fewer than 5 pairs or 3 methods.

    Methods without a number on some pair are left out, as in `between_methods.ranks`.
    """
    methods, per_pair = complete_ranks(scores)
    pairs, k = per_pair.shape
    if pairs < FEWEST_PAIRS or k < FEWEST_METHODS:
        return None
    means = per_pair.mean(axis=0)
    order = sorted(range(k), key=lambda i: (means[i], methods[i]))
    ordered = tuple(float(means[i]) for i in order)
    p = _friedman(per_pair)
    from scipy import stats  # takes half a second to import, and few tables have 5 pairs

    critical = float(stats.studentized_range.ppf(1 - LEVEL, k, math.inf)) / math.sqrt(2)
    critical *= math.sqrt(k * (k + 1) / (6 * pairs))
    return CriticalDifference(
        methods=tuple(methods[i] for i in order),
        mean_ranks=ordered,
        pairs=pairs,
        p=p,
        critical=critical,
        # Nemenyi's test is for ranks that Friedman's has found to differ
        groups=groups(ordered, critical) if p < LEVEL else ((0, k - 1),),
    )


def _friedman(per_pair: np.ndarray) -> float:
    """Return p of Friedman's test in the F form. per_pair: ranks [pairs, methods]."""
    pairs, k = per_pair.shape
    if (per_pair == per_pair[:, :1]).all():  # all tied everywhere: the statistic is not defined
        return 1.0
    from scipy import stats

    chi2 = float(stats.friedmanchisquare(*per_pair.T).statistic)
    rest = pairs * (k - 1) - chi2
    if rest <= 1e-9:  # the same order on every pair
        return 0.0
    return float(stats.f.sf((pairs - 1) * chi2 / rest, k - 1, (k - 1) * (pairs - 1)))


def groups(mean_ranks: Sequence[float], critical: float) -> tuple[tuple[int, int], ...]:
    """Return first and last index of each largest run of two or more ranks within the critical difference.

    mean_ranks: ascending.
    """
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(mean_ranks):
        last = max(i for i, other in enumerate(mean_ranks) if other - rank < critical)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return tuple(found)


def diagram(c: CriticalDifference) -> str:
    """Draw the mean ranks on a line; bars connect the methods that are not told apart."""
    k, left, right, step = len(c.methods), LABEL, 470, 16
    scale = Scale(1, k, left, right, padding=0.0)
    axis = 44
    bars = axis + 12
    first_label = bars + 7 * len(c.groups) + 14
    half = -(-k // 2)
    body = [line(left, axis, right, axis, "whisker")]
    for tick in range(1, k + 1):
        x = scale(tick)
        body += [line(x, axis - 4, x, axis, "whisker"), text(x, axis - 8, f"{tick}", "middle", "tick")]
    end = scale(min(1 + c.critical, k))
    body += [
        line(left, 14, end, 14, "group"),
        text(left - 8, 18, f"CD {c.critical:.2f}", "end", "label"),
    ]
    for i, (first, last) in enumerate(c.groups):
        low, high = scale(c.mean_ranks[first]) - 3, scale(c.mean_ranks[last]) + 3
        body.append(line(low, bars + 7 * i, high, bars + 7 * i, "group"))
    for i, (method, rank) in enumerate(zip(c.methods, c.mean_ranks, strict=True)):
        x, on_left = scale(rank), i < half
        y = first_label + step * (i if on_left else k - 1 - i)
        edge, anchor = (left - 6, "end") if on_left else (right + 6, "start")
        body += [
            line(x, axis, x, y, "stem"),
            line(x, y, edge + (2 if on_left else -2), y, "stem"),
            text(edge, y + 4, f"{method} {rank:.1f}", anchor, "label"),
        ]
    return draw(right + LABEL, first_label + step * half, body, "critical difference diagram")


def caption(c: CriticalDifference, epoch: str) -> str:
    """Say what the diagram shows. epoch: by which the methods are ranked."""
    tested = f"Friedman's test (F form): p = {c.p:.2g}" if c.p >= 0.001 else "Friedman's test: p < 0.001"
    result = (
        f"Nemenyi's test at {LEVEL:.0%}: bars connect methods that it does not tell apart"
        if c.p < LEVEL
        else "the ranks are not shown to differ at all, so one bar connects all methods"
    )
    return (
        f"Mean ranks by the {epoch} over {c.pairs} pairs, 1 = best. {tested}. {result}. CD: the critical "
        "difference (Demšar 2006). It takes the pairs for independent, and ignores the spread over seeds."
    )
