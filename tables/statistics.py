"""Statistics of a few runs: spread, intervals, the rule of a verdict, paired differences, ranks, power.

Sums are exact (`math.fsum`, `statistics`), so that no result depends on the order in which runs are read.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import numpy as np
from scipy import optimize, stats

from tables.verdicts import Verdict

TOLERANCE = 0.3
"""Percentage points of top-1 within which two numbers always agree. The choice of the epoch alone
makes such a difference: best minus last is +0.3 on average."""

ASSUMED_STD = 0.25
"""Assumed where a standard deviation is not known, because a paper gives none or because we have one run. It
is the middle of the published ones."""

RULE = (
    f"agrees when |delta| <= max({TOLERANCE}, 2*sqrt(s1^2/n1 + s2^2/n2)), with the std s and the number of "
    f"runs n of each side; a missing std is taken as {ASSUMED_STD} and a missing n as 1 (marked *)"
)


class Assumption(StrEnum):
    """A quantity that was not known and was assumed for a verdict."""

    STD_OF_OURS = f"std of ours = {ASSUMED_STD}"
    STD_OF_PUBLISHED = f"std of published = {ASSUMED_STD}"
    N_OF_OURS = "n of ours = 1"
    N_OF_PUBLISHED = "n of published = 1"


@dataclass(frozen=True)
class Sample:
    """Top-1 (in %) of several runs."""

    mean: float
    std: float | None = None
    """Standard deviation with n - 1. None where it is not known."""
    n: int | None = None
    """Number of runs. None where it is not known."""

    @staticmethod
    def of(values: Sequence[float]) -> Sample:
        """Return the sample of one or more values."""
        return Sample(mean(values), std(values), len(values))


@dataclass(frozen=True)
class Judgement:
    """The verdict on two samples, and what it rests on."""

    verdict: Verdict
    """One of `verdicts.JUDGED`."""
    delta: float
    """Ours minus published."""
    band: float
    """The largest |delta| that still agrees."""
    assumed: tuple[Assumption, ...]


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
    """Lower end of the 95% t interval of the mean difference. None with fewer than two seeds."""
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
    """Mean rank of a method over pairs with its 95% bootstrap interval.

    The best rank is 1. Tied methods share their mean rank.
    """

    method: str
    mean: float
    low: float
    high: float
    pairs: int
    """Number of pairs."""


def mean(values: Sequence[float]) -> float:
    """Return the mean of one or more values."""
    return math.fsum(values) / len(values)


def std(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (n - 1); None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return Student's t interval of the mean; None for fewer than two values."""
    s = std(values)
    return None if s is None else interval(mean(values), s, len(values), confidence)


def interval(centre: float, s: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the t interval of a mean from its standard deviation `s` and n >= 2 alone."""
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * s / math.sqrt(n)
    return centre - half, centre + half


def judge(ours: Sample, published: Sample) -> Judgement:
    """Return the verdict by `RULE`."""
    assumed: list[Assumption] = []
    variance = 0.0
    for sample, no_std, no_n in (
        (ours, Assumption.STD_OF_OURS, Assumption.N_OF_OURS),
        (published, Assumption.STD_OF_PUBLISHED, Assumption.N_OF_PUBLISHED),
    ):
        # the std of one run is not a measurement, even if a file has one
        s = None if sample.std is None or not math.isfinite(sample.std) or sample.n == 1 else sample.std
        if s is None:
            assumed.append(no_std)
        if sample.n is None:
            assumed.append(no_n)
        variance += (ASSUMED_STD if s is None else s) ** 2 / (sample.n or 1)
    band = max(TOLERANCE, 2 * math.sqrt(variance))
    delta = ours.mean - published.mean
    # published numbers have two decimals: a float's last bit must not push 0.30 out of a band of 0.3
    inside = abs(delta) <= band + 1e-9
    verdict = Verdict.AGREES if inside else Verdict.ABOVE if delta > 0 else Verdict.BELOW
    return Judgement(verdict=verdict, delta=delta, band=band, assumed=tuple(assumed))


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Paired | None:
    """Return the paired differences a - b over the seeds that both have; None if they share no seed."""
    seeds = tuple(sorted(set(a) & set(b)))
    if not seeds:
        return None
    differences = [a[s] - b[s] for s in seeds]
    m, s = mean(differences), std(differences)
    low, high = t_interval(differences) or (None, None)
    needed = None if s is None else seeds_needed(m, s)
    return Paired(seeds=seeds, mean=m, std=s, low=low, high=high, needed=needed)


def power(effect: float, n: int, alpha: float = 0.05) -> float:
    """Return the power of a two-sided paired t test of n differences at level `alpha`.

    effect: the true difference, in standard deviations of the differences.
    """
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    shift = abs(effect) * math.sqrt(n)
    chance = float(stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift))
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
    low, high = 1, most  # bisection works because power never falls with more seeds
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle) >= wanted else (middle, high)
    return high


def ranks(
    scores: Mapping[str, Mapping[str, float]], draws: int = 2000, seed: int = 0
) -> tuple[list[Rank], tuple[str, ...]]:
    """Return the mean ranks of the methods over the pairs, best first, and the methods that were left out.

    A method is left out if it has no number on some pair. Pairs with fewer than two methods do not count.
    scores: pair -> method -> top-1. draws, seed: of the bootstrap, which resamples the pairs.
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
    ranked = [
        Rank(
            method=m,
            mean=float(per_pair[:, i].mean()),
            low=float(low[i]),
            high=float(high[i]),
            pairs=len(pairs),
        )
        for i, m in enumerate(methods)
    ]
    return sorted(ranked, key=lambda r: (r.mean, r.method)), left_out


@cache
def detectable(
    n: int, s: float = ASSUMED_STD, paired_runs: bool = False, wanted: float = 0.8, alpha: float = 0.05
) -> float:
    """Return the true difference of two methods' means that n runs of each detect with probability `wanted`.

    The test is a two-sided t test at level `alpha`. s: the standard deviation of a method's runs (unpaired),
    or of the differences by seed (paired).
    """
    freedom = n - 1 if paired_runs else 2 * n - 2
    scale = math.sqrt((1 if paired_runs else 2) / n)
    critical = stats.t.ppf(1 - alpha / 2, freedom)

    def miss(shift: float) -> float:
        return float(stats.nct.sf(critical, freedom, shift)) - wanted

    return float(optimize.brentq(miss, 0.0, 60.0)) * scale * s


def power_note(n: int, s: float = ASSUMED_STD) -> str:
    """Say in words what n runs of a method can and cannot show."""
    if n < 2:
        return (
            f"n = 1: one run has no measurable spread; a std of {ASSUMED_STD} is assumed, and differences "
            f"below about {4 * s:.1f} show nothing."
        )
    half = float(stats.t.ppf(0.975, n - 1)) / math.sqrt(n)
    return (
        f"n = {n}: the 95% interval of a mean is ±{half:.2f} standard deviations (±{half * s:.2f} at s = "
        f"{s}). With n = {n} runs each, two methods are told apart with probability 0.8 only if they truly "
        f"differ by {detectable(n, s):.2f} or more, or by {detectable(n, s, True):.2f} if they are paired by "
        f"seed and the differences have a std of {s}. Smaller differences cannot be detected with n = {n}, "
        "so 'agrees' does not rule them out."
    )
