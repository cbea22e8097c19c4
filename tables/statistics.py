"""Statistics of a few runs: mean, spread, intervals, and the rule of a verdict.

The rule, whose reasons and error rates are in docs/reading-the-diff.md:

    delta    = ours - published
    s^2      = (6 s0^2 + (n - 1) s_obs^2) / (6 + n - 1)   of each side, with 6 + n - 1 degrees of freedom
    variance = s1^2/n1 + s2^2/n2 + tau^2                  its degrees of freedom by Welch and Satterthwaite

`compare` computes them for one cell, `decide` gives the verdicts of a whole table, `judge` that of a single
comparison. Sums of runs are exact (`math.fsum`, `statistics`), so that no result depends on the order in
which runs are read.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from scipy import special

from results.published.yardsticks import TAU
from tables.verdicts import MARGIN, Verdict

PRIOR_FREEDOM = 6
"""How many degrees of freedom s0, the std of the student's family, counts for."""

LEVEL = 0.05
"""Of `differs`, as the false discovery rate of a table, and of `same within`, as that of each cell."""

IDENTITY = 0.02
"""Largest difference of two evaluations of the same weights: two of 10,000 test images, by rounding and
hardware."""

MOST_SEEDS = 1000
"""A cell that would need more seeds than this is said to be out of reach."""

RULE = (
    f"'{Verdict.SAME}' when the 90% interval of the delta lies between -{MARGIN} and +{MARGIN}; 'differs' "
    f"when p < {LEVEL} after Benjamini-Hochberg over the comparable cells of the table ('by less than "
    f"{MARGIN}' if the interval lies inside too); otherwise 'undecided'. The delta's variance is s1^2/n1 + "
    f"s2^2/n2 + tau^2, with each s^2 shrunk towards the s0^2 of the student's family, and tau = {TAU} for "
    "another origin"
)


class Assumption(StrEnum):
    """A quantity that was not known and was assumed for a verdict."""

    STD_OF_OURS = "std of ours = s0"
    STD_OF_PUBLISHED = "std of published = s0"
    N_OF_OURS = "n of ours = 1"
    N_OF_PUBLISHED = "n of published = 1"
    N_OF_PUBLISHED_STD = "n of published = 2, the least that has a std"


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
class Spread:
    """How sure a mean of runs is."""

    variance: float
    """Of one run: the observed variance, shrunk towards s0^2."""
    freedom: float
    """Degrees of freedom of the variance."""
    n: int
    std_known: bool
    """Whether an observed std is part of the variance."""

    @property
    def of_mean(self) -> float:
        """Variance of the mean."""
        return self.variance / self.n


@dataclass(frozen=True)
class Comparison:
    """The difference of two samples and how sure it is, before a verdict."""

    delta: float
    """Ours minus published."""
    ours: Spread
    published: Spread
    tau: float
    assumed: tuple[Assumption, ...] = ()
    other_epoch: Comparison | None = None
    """The same cell by its other epoch, where it is not known which one the paper reports. Interval and p
    then hold for both."""

    @cached_property
    def error_and_freedom(self) -> tuple[float, float]:
        """Standard error of the delta and its degrees of freedom."""
        error, freedom = welch(
            self.ours.of_mean, self.ours.freedom, self.published.of_mean, self.published.freedom, self.tau
        )
        return float(error), float(freedom)

    @cached_property
    def p(self) -> float:
        """Probability of a difference of this size or more, if there is none (two-sided).

        Of two epochs, the larger; 1 if the published number lies between them.
        """
        error, freedom = self.error_and_freedom
        p = float(two_sided(self.delta / error, freedom))
        if self.other_epoch is None:
            return p
        return 1.0 if self.delta * self.other_epoch.delta < 0 else max(p, self.other_epoch.p)

    def interval(self, confidence: float = 1 - 2 * LEVEL) -> tuple[float, float]:
        """Return the interval of the delta. Of two epochs, it reaches over both."""
        error, freedom = self.error_and_freedom
        half = t_quantile(confidence, freedom) * error
        low, high = self.delta - half, self.delta + half
        if self.other_epoch is not None:
            low2, high2 = self.other_epoch.interval(confidence)
            return min(low, low2), max(high, high2)
        return low, high

    @property
    def inside(self) -> bool:
        """Whether the 90% interval lies within the margin: two one-sided tests at 5%."""
        low, high = self.interval()
        return low > -MARGIN and high < MARGIN

    def with_tau(self, tau: float) -> Comparison:
        """Return the same comparison with another origin variance."""
        other = self.other_epoch and self.other_epoch.with_tau(tau)
        return dataclasses.replace(self, tau=tau, other_epoch=other)

    def with_runs(self, n: int) -> Comparison:
        """Return the same comparison as if ours were n runs with the same mean and variance."""
        ours = dataclasses.replace(self.ours, n=n, freedom=PRIOR_FREEDOM + n - 1)
        other = self.other_epoch and self.other_epoch.with_runs(n)
        return dataclasses.replace(self, ours=ours, other_epoch=other)


@dataclass(frozen=True)
class Judgement:
    """The verdict on a comparison, and what it rests on."""

    verdict: Verdict
    """One of `verdicts.JUDGED`."""
    comparison: Comparison
    adjusted: float
    """p after Benjamini-Hochberg over the table."""
    needed: int | None = None
    """For `undecided`: the number of our seeds that would decide, if mean and variance stayed as they are.
    Optimistic, because the mean will move. None if no number decides."""


def mean(values: Sequence[float]) -> float:
    """Return the mean of one or more values."""
    return math.fsum(values) / len(values)


def std(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (n - 1); None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return Student's t interval of the mean; None for fewer than two values."""
    s = std(values)
    if s is None:
        return None
    half = t_quantile(confidence, len(values) - 1) * s / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def t_quantile(confidence: float, freedom: float) -> float:
    """Return how many standard errors a two-sided t interval reaches to either side.

    scipy.special has the same values as scipy.stats, at a tenth of the time for a single number.
    """
    return float(special.stdtrit(freedom, 0.5 + confidence / 2))


def shrunk_variance(observed: Any, n: Any, s0: Any) -> Any:
    """Return the variance of one run: that observed in n runs, shrunk towards s0^2. Numbers or arrays."""
    return (PRIOR_FREEDOM * s0**2 + (n - 1) * observed) / (PRIOR_FREEDOM + n - 1)


def welch(v1: Any, freedom1: Any, v2: Any, freedom2: Any, tau: float) -> tuple[Any, Any]:
    """Return standard error and degrees of freedom of a difference of two means. Numbers or arrays.

    v1, v2: the variances of the means. tau counts as known. Welch 1947, Satterthwaite 1946.
    """
    variance = v1 + v2 + tau**2
    return variance**0.5, variance**2 / (v1**2 / freedom1 + v2**2 / freedom2)


def two_sided(t: Any, freedom: Any) -> Any:
    """Return the two-sided p of a t statistic. Numbers or arrays."""
    return 2 * special.stdtr(freedom, -np.abs(t))


def adjust(p: Any) -> np.ndarray:
    """Return p values adjusted by Benjamini and Hochberg (1995) over the last axis."""
    p = np.asarray(p, dtype=float)
    m = p.shape[-1]
    order = np.argsort(p, axis=-1)
    scaled = np.take_along_axis(p, order, -1) * m / np.arange(1, m + 1)
    # the adjusted p of the k-th smallest is the least of those from k on
    least = np.minimum.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1].clip(max=1.0)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, least, -1)
    return adjusted


def spread_of(sample: Sample, s0: float) -> Spread:
    """Return how sure a sample's mean is. s0: the std of the student's family."""
    known = sample.std is not None and math.isfinite(sample.std) and sample.n != 1
    n = sample.n or (2 if known else 1)
    if not known or sample.std is None:  # what is not known, or is the "std" of one run, is no measurement
        return Spread(variance=s0**2, freedom=PRIOR_FREEDOM, n=n, std_known=False)
    variance = shrunk_variance(sample.std**2, n, s0)
    return Spread(variance=variance, freedom=PRIOR_FREEDOM + n - 1, n=n, std_known=True)


def mean_interval(sample: Sample, s0: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of a sample's mean by its shrunk variance."""
    spread = spread_of(sample, s0)
    half = t_quantile(confidence, spread.freedom) * math.sqrt(spread.of_mean)
    return sample.mean - half, sample.mean + half


def compare(ours: Sample, published: Sample, s0: float, tau: float = TAU) -> Comparison:
    """Return the difference of two samples.

    s0: the std of the student's family (`results.published.yardsticks`). tau: 0 only if the teacher's weights
    are the publisher's own and the code is theirs.
    """
    a, b = spread_of(ours, s0), spread_of(published, s0)
    assumed = []
    if not a.std_known:
        assumed.append(Assumption.STD_OF_OURS)
    if ours.n is None:
        assumed.append(Assumption.N_OF_OURS)
    if not b.std_known:
        assumed.append(Assumption.STD_OF_PUBLISHED)
    if published.n is None:
        assumed.append(Assumption.N_OF_PUBLISHED_STD if b.std_known else Assumption.N_OF_PUBLISHED)
    delta = ours.mean - published.mean
    return Comparison(delta=delta, ours=a, published=b, tau=tau, assumed=tuple(assumed))


def decide(comparisons: Sequence[Comparison]) -> list[Judgement]:
    """Return the verdicts of the comparable cells of one table, by `RULE`."""
    if not comparisons:
        return []
    adjusted = adjust([c.p for c in comparisons])
    return [_judgement(c, float(p)) for c, p in zip(comparisons, adjusted, strict=True)]


def judge(ours: Sample, published: Sample, s0: float, tau: float = TAU) -> Judgement:
    """Return the verdict on a single comparison. Parameters as in `compare`."""
    return decide([compare(ours, published, s0, tau)])[0]


def _judgement(c: Comparison, adjusted: float) -> Judgement:
    if adjusted < LEVEL:
        verdict = Verdict.DIFFERS_LITTLE if c.inside else Verdict.DIFFERS
    else:
        verdict = Verdict.SAME if c.inside else Verdict.UNDECIDED
    needed = _seeds_to_decide(c, adjusted) if verdict is Verdict.UNDECIDED else None
    return Judgement(verdict=verdict, comparison=c, adjusted=adjusted, needed=needed)


def _seeds_to_decide(c: Comparison, adjusted: float) -> int | None:
    """Return the least number of our seeds with which an undecided cell would be decided.

    The other cells of the table are taken to stay as they are, so the adjustment keeps its size.
    """
    factor = adjusted / c.p if c.p else 1.0

    def decided(n: int) -> bool:
        with_more = c.with_runs(n)
        return with_more.inside or with_more.p * factor < LEVEL

    if not decided(MOST_SEEDS):
        return None
    return least(decided, c.ours.n, MOST_SEEDS)


def least(enough: Callable[[int], bool], low: int, high: int) -> int:
    """Return the least n in (low, high] with `enough(n)`, which holds for `high` and stays true above n."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
