"""What a handful of runs can say: spreads, intervals, the rule of a verdict, paired differences, ranks, power.

Sums are exact (`math.fsum`, `statistics`), so that no result depends on the order in which runs are read.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, stats

TOLERANCE = 0.3
"""Percentage points of top-1 that no verdict looks below: what another choice of epoch alone moves (best minus last is +0.3 on average)."""

ASSUMED_STD = 0.25
"""Taken for a standard deviation that is not known (a paper printed none, or we have one run): the middle of those that were printed."""

RULE = (
    f"agrees when |delta| <= max({TOLERANCE}, 2*sqrt(s1^2/n1 + s2^2/n2)), s and n those of both sides; "
    f"a std that is missing is taken as {ASSUMED_STD} and a missing n as 1 (marked *)"
)


def signed(x: float, digits: int = 2, kind: str = "f") -> str:
    """A difference as it is printed: `+0.31`, `-1.20`, and `0.00` without a sign where it rounds to that. kind: `f`, or `%` for shares."""
    text = f"{x:+.{digits}{kind}}"
    return text if text.strip("+-0.%") else text[1:]


@dataclass(frozen=True)
class Sample:
    """A mean of top-1 (in %), the standard deviation (n - 1) of its runs and their number; None where it is not known."""

    mean: float
    std: float | None = None
    n: int | None = None

    @staticmethod
    def of(values: Sequence[float]) -> Sample:
        """Of one value or more."""
        return Sample(mean(values), std(values), len(values))


@dataclass(frozen=True)
class Judgement:
    """Verdict `agrees`, `above` or `below`; delta = ours - published; band: how much agrees; assumed: what was taken for what is not known."""

    verdict: str
    delta: float
    band: float
    assumed: tuple[str, ...]


@dataclass(frozen=True)
class Paired:
    """Differences a - b by seed: both saw the same batches, so what the seed does to both cancels.

    seeds: those that both have. mean, std, low, high: of the differences, with the 95% t interval (None with fewer than two seeds).
    needed: the number of seeds with which a difference of this size and spread would be told from zero four times in five; None where no
    number would (no difference, or not known yet).
    """

    seeds: tuple[int, ...]
    mean: float
    std: float | None
    low: float | None
    high: float | None
    needed: int | None

    @property
    def settled(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Rank:
    """Mean rank of a method over pairs (1 = best, ties share theirs) and its 95% bootstrap interval over the pairs."""

    method: str
    mean: float
    low: float
    high: float
    pairs: int


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def std(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's t interval of the mean; None for fewer than two values."""
    s = std(values)
    return None if s is None else interval(mean(values), s, len(values), confidence)


def interval(centre: float, s: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The t interval of a mean of which only `(mean, std, n)` is known; n >= 2."""
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * s / math.sqrt(n)
    return centre - half, centre + half


def judge(ours: Sample, published: Sample) -> Judgement:
    """The verdict by `RULE`."""
    assumed, variance = [], 0.0
    for side, sample in (("ours", ours), ("published", published)):
        # a std of one run is no measurement, whatever a file says
        s = None if sample.std is None or not math.isfinite(sample.std) or sample.n == 1 else sample.std
        if s is None:
            assumed.append(f"std of {side} = {ASSUMED_STD}")
        if sample.n is None:
            assumed.append(f"n of {side} = 1")
        variance += (ASSUMED_STD if s is None else s) ** 2 / (sample.n or 1)
    band = max(TOLERANCE, 2 * math.sqrt(variance))
    delta = ours.mean - published.mean
    # printed numbers have two decimals: 0.30 must not fall out of a band of 0.3 by the last bit of a float
    verdict = "agrees" if abs(delta) <= band + 1e-9 else "above" if delta > 0 else "below"
    return Judgement(verdict, delta, band, tuple(assumed))


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Paired | None:
    """Paired differences a - b over the seeds that both have (None if they share none)."""
    seeds = tuple(sorted(set(a) & set(b)))
    if not seeds:
        return None
    differences = [a[s] - b[s] for s in seeds]
    m, s, around = mean(differences), std(differences), t_interval(differences)
    low, high = around or (None, None)
    return Paired(seeds, m, s, low, high, None if s is None else seeds_needed(m, s))


def power(effect: float, n: int, alpha: float = 0.05) -> float:
    """Chance that a two-sided paired t test of n differences finds a true difference of `effect` of their standard deviations."""
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    shift = abs(effect) * math.sqrt(n)
    found = float(stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift))
    return found if math.isfinite(found) else float(shift > critical)  # far out in the tail scipy gives NaN


def seeds_needed(difference: float, s: float, wanted: float = 0.8, most: int = 10_000) -> int | None:
    """The least number of seeds with which `power` reaches `wanted`; None if more than `most` would be needed."""
    if s == 0:
        return 2 if difference else None
    effect = difference / s
    if effect == 0 or power(effect, most) < wanted:
        return None
    low, high = 1, most  # bisection: more seeds never have less power
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle) >= wanted else (middle, high)
    return high


def ranks(
    scores: Mapping[str, Mapping[str, float]], draws: int = 2000, seed: int = 0
) -> tuple[list[Rank], tuple[str, ...]]:
    """Mean ranks of methods over pairs, best first, and the methods left out because they lack a number on some pair.

    scores: pair -> method -> top-1. Pairs with fewer than two methods do not count. The bootstrap draws pairs, with a fixed seed.
    """
    pairs = sorted(p for p in scores if len(scores[p]) > 1)
    every = sorted({m for p in pairs for m in scores[p]})
    methods = [m for m in every if all(m in scores[p] for p in pairs)]
    left_out = tuple(m for m in every if m not in methods)
    if len(methods) < 2:
        return [], left_out
    table = np.array([[scores[p][m] for m in methods] for p in pairs])
    per_pair = stats.rankdata(-table, axis=1)
    chosen = np.random.default_rng(seed).integers(0, len(pairs), (draws, len(pairs)))
    drawn = per_pair[chosen].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    found = [
        Rank(m, float(per_pair[:, i].mean()), float(low[i]), float(high[i]), len(pairs))
        for i, m in enumerate(methods)
    ]
    return sorted(found, key=lambda r: (r.mean, r.method)), left_out


@cache
def detectable(
    n: int, s: float = ASSUMED_STD, paired_runs: bool = False, wanted: float = 0.8, alpha: float = 0.05
) -> float:
    """The true difference of two methods' means that n runs each show (two-sided t test, level `alpha`) with chance `wanted`.

    s: standard deviation of a method's runs (unpaired), or of the differences by seed (paired).
    """
    freedom = n - 1 if paired_runs else 2 * n - 2
    scale = math.sqrt((1 if paired_runs else 2) / n)
    critical = stats.t.ppf(1 - alpha / 2, freedom)

    def miss(shift: float) -> float:
        return float(stats.nct.sf(critical, freedom, shift)) - wanted

    return float(optimize.brentq(miss, 0.0, 60.0)) * scale * s


def power_note(n: int, s: float = ASSUMED_STD) -> str:
    """In words: what n runs of a method can and cannot show."""
    if n < 2:
        return f"n = 1: no spread can be measured; a std of {ASSUMED_STD} is assumed, and differences below about {4 * s:.1f} show nothing."
    half = float(stats.t.ppf(0.975, n - 1)) / math.sqrt(n)
    return (
        f"n = {n}: the 95% interval of a mean is +-{half:.2f} standard deviations (+-{half * s:.2f} at s = {s}). Two methods of n = {n} runs each "
        f"are told apart four times in five only if they truly differ by {detectable(n, s):.2f} or more; paired by seed, by "
        f"{detectable(n, s, True):.2f} if the differences spread by {s}. Less than that, n = {n} cannot show, and no verdict 'agrees' proves it away."
    )
