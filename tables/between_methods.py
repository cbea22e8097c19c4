"""Methods against each other: paired differences by seed, ranks over pairs, and what n runs can show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import special  # scipy.stats takes half a second to import

from results.published.spread import seed_stds
from results.published.yardsticks import TAU
from tables.statistics import least, mean, std, t_interval, t_quantile
from tables.verdicts import Verdict

NO_SPREAD = 1e-6
"""A std in percentage points that is due to the rounding of floats."""


@dataclass(frozen=True)
class Paired:
    """Differences a - b of two methods by seed.

    Runs with the same seed train on the same batches, so the seed's effect on both cancels in the difference.
    """

    seeds: tuple[int, ...]
    """The seeds that both methods have."""
    mean: float
    std: float | None
    low: float | None
    """Lower end of the 95% t interval of the mean difference.

    None with fewer than two seeds, and without any spread: a few differences may be equal by chance, and an
    interval without width would claim certainty.
    """
    high: float | None
    needed: int | None
    """Number of seeds with which a difference of this size and spread is detected with probability 0.8. None
    if no number is enough (there is no difference) or if it cannot be estimated yet."""

    @property
    def settled(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Rank:
    """Mean rank of a method over pairs with its 95% interval.

    The best rank is 1. Tied methods share their mean rank.
    """

    method: str
    mean: float
    low: float | None
    """None for a single pair, which says nothing about others."""
    high: float | None
    pairs: int
    """Number of pairs."""


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Paired | None:
    """Return the paired differences a - b over the seeds that both have; None if they share no seed."""
    seeds = tuple(sorted(set(a) & set(b)))
    if not seeds:
        return None
    differences = [a[s] - b[s] for s in seeds]
    m, s = mean(differences), std(differences)
    if s is None or s < NO_SPREAD:
        return Paired(seeds=seeds, mean=m, std=s, low=None, high=None, needed=None)
    low, high = t_interval(differences) or (None, None)
    needed = seeds_needed(m, s)
    return Paired(seeds=seeds, mean=m, std=s, low=low, high=high, needed=needed)


def power(effect: float, n: int, alpha: float = 0.05) -> float:
    """Return the power of a two-sided paired t test of n differences at level `alpha`.

    effect: the true difference, in standard deviations of the differences.
    """
    critical = t_quantile(1 - alpha, n - 1)
    shift = abs(effect) * math.sqrt(n)
    chance = 1 - float(special.nctdtr(n - 1, shift, critical) - special.nctdtr(n - 1, shift, -critical))
    # scipy returns NaN far out in the tail
    return chance if math.isfinite(chance) else float(shift > critical)


def seeds_needed(difference: float, s: float, wanted: float = 0.8, most: int = 10_000) -> int | None:
    """Return the smallest number of seeds with which `power` reaches `wanted`.

    None if that takes more than `most` seeds.
    """
    if s == 0:
        return 2 if difference else None
    effect = difference / s
    if effect == 0 or power(effect, most) < wanted:
        return None
    return least(lambda n: power(effect, n) >= wanted, 1, most)


def ranks(scores: Mapping[str, Mapping[str, float]]) -> tuple[list[Rank], tuple[str, ...]]:
    """Return the mean ranks of the methods over the pairs, best first, and the methods that were left out.

    A method is left out if it has no number on some pair. Pairs with fewer than two methods do not count.
    scores: pair -> method -> top-1.
    """
    methods, per_pair = complete_ranks(scores)
    left_out = tuple(sorted({m for s in scores.values() if len(s) > 1 for m in s} - set(methods)))
    pairs = len(per_pair)
    if len(methods) < 2:
        return [], left_out
    half = rank_half_widths(per_pair) if pairs > 1 else None
    ranked = []
    for i, m in enumerate(methods):
        centre = float(per_pair[:, i].mean())
        low = None if half is None else max(1.0, centre - float(half[i]))
        high = None if half is None else min(float(len(methods)), centre + float(half[i]))
        ranked.append(Rank(method=m, mean=centre, low=low, high=high, pairs=pairs))
    return sorted(ranked, key=lambda r: (r.mean, r.method)), left_out


def complete_ranks(scores: Mapping[str, Mapping[str, float]]) -> tuple[list[str], np.ndarray]:
    """Return the methods that have a number on every pair, and their ranks [pairs, methods].

    Pairs with fewer than two methods do not count. Means that are equal to a millionth are tied: the sum of
    other summands differs in its last bit. scores: pair -> method -> top-1.
    """
    pairs = sorted(p for p in scores if len(scores[p]) > 1)
    every = sorted({m for p in pairs for m in scores[p]})
    methods = [m for m in every if all(m in scores[p] for p in pairs)]
    if not methods:
        return [], np.empty((len(pairs), 0))
    from scipy import stats

    means = np.array([[scores[p][m] for m in methods] for p in pairs]).round(6)
    return methods, stats.rankdata(-means, axis=1)


def rank_half_widths(per_pair: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """Return the half widths of the t intervals of mean ranks. per_pair: ranks [..., pairs, methods].

    With few pairs, the variance of a method's ranks is often zero by chance. So it is shrunk: with the weight
    of 3 degrees of freedom towards the methods' common variance, and that one likewise towards
    (k^2 - 1) / 12, the variance of a random rank of k. `bench verdicts` measures the coverage.
    """
    pairs, k = per_pair.shape[-2:]
    variances = per_pair.var(axis=-2, ddof=1)
    freedom = (k - 1) * (pairs - 1)
    random = (k**2 - 1) / 12
    common = (3 * random + freedom * variances.mean(axis=-1, keepdims=True)) / (3 + freedom)
    shrunk = (3 * common + (pairs - 1) * variances) / (3 + pairs - 1)
    return t_quantile(confidence, 3 + pairs - 1) * np.sqrt(shrunk / pairs)


@cache
def detectable(
    n: int, s: float, paired_runs: bool = False, wanted: float = 0.8, alpha: float = 0.05
) -> float:
    """Return the true difference of two methods' means that n runs of each detect with probability `wanted`.

    The test is a two-sided t test at level `alpha`. s: the standard deviation of a method's runs (unpaired),
    or of the differences by seed (paired).
    """
    freedom = n - 1 if paired_runs else 2 * n - 2
    scale = math.sqrt((1 if paired_runs else 2) / n)
    critical = t_quantile(1 - alpha, freedom)
    return float(special.nctdtrinc(freedom, 1 - wanted, critical)) * scale * s


def power_note(n: int) -> str:
    """Say in words what n runs of a method can and cannot show, about another method and about a paper."""
    s0 = seed_stds().overall.s0
    against_paper = f"Against a paper, tau = {TAU} remains with any number of seeds: one cell alone needs a "
    against_paper += (
        f"difference of about {1.96 * math.sqrt(TAU**2 + 2 * s0**2 / n):.1f}, a table's cell more, "
    )
    against_paper += f"and '{Verdict.SAME}' is out of reach unless teacher and code are the publisher's own."
    if n < 2:
        return (
            f"n = 1: one run has no measurable spread, so two methods cannot be told apart. {against_paper}"
        )
    half = t_quantile(0.95, n - 1) / math.sqrt(n)
    return (
        f"n = {n}: the 95% interval of a mean reaches {half:.2f} standard deviations to either side "
        f"({half * s0:.2f} points for s = {s0:.2f}). With n = {n} runs each, two methods are told apart with "
        f"probability 0.8 only if they truly differ by {detectable(n, s0):.2f} or more, or by "
        f"{detectable(n, s0, True):.2f} if they are paired by seed and the differences have this std. "
        f"{against_paper}"
    )
