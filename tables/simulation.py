"""Error rates of the verdicts, by simulation: made-up tables whose true differences are known.

Every run of a cell is normal. Its std differs from cell to cell around s0, by the scaled inverse chi-square
distribution that the shrinkage assumes. Every cell's difference has an origin part with std `true_tau`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

from results.published.yardsticks import TAU, WIDE_TAU
from tables.between_methods import rank_half_widths
from tables.statistics import LEVEL, PRIOR_FREEDOM, adjust, shrunk_variance, two_sided, welch
from tables.verdicts import MARGIN

CELLS = 105
"""Cells of the simulated tables, as in CRD's Table 1."""

MOVED = 10
"""Cells of a simulated table that truly differ, where the power is measured."""


@dataclass(frozen=True)
class Setting:
    """Made-up tables and the rule that judges them."""

    n: int
    """Our runs of each cell."""
    tau: float = TAU
    """Of the rule."""
    true_tau: float = 0.0
    """Of the made-up cells."""
    s0: float = 0.25
    published_n: int = 5
    """Published runs of each cell, with a printed std if they are more than one."""
    cells: int = CELLS
    moved: int = 0
    """The first cells, which truly differ."""
    by: float = 0.0
    """How far these are moved."""


@dataclass(frozen=True)
class Verdicts:
    """The verdicts of simulated tables, as arrays [tables, cells]."""

    setting: Setting
    differs: np.ndarray
    """`differs`, and `differs, by less than` the margin."""
    same: np.ndarray

    @cached_property
    def false_flags(self) -> np.ndarray:
        """Number of cells in each table that `differs` names although they were not moved."""
        return self.differs[:, self.setting.moved :].sum(axis=1)

    @property
    def power(self) -> float:
        """Share of the moved cells that `differs` names."""
        return float(self.differs[:, : self.setting.moved].mean())

    @property
    def exact(self) -> float:
        """Share of the tables in which `differs` names exactly the moved cells."""
        all_moved = self.differs[:, : self.setting.moved].all(axis=1)
        return float((all_moved & (self.false_flags == 0)).mean())


def simulate(setting: Setting, draws: int, seed: int = 0) -> Verdicts:
    """Return the verdicts of `draws` made-up tables."""
    s, rng = setting, np.random.default_rng(seed)
    shape = (draws, s.cells)
    shift = np.where(np.arange(s.cells) < s.moved, s.by, 0.0)
    # scaled so that the mean of the variances is s0^2
    variances = s.s0**2 * (PRIOR_FREEDOM - 2) / rng.chisquare(PRIOR_FREEDOM, shape)

    def runs(n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean of n runs of each cell and the variance of that mean by the rule."""
        means = rng.normal(0.0, np.sqrt(variances / n))
        observed = variances * rng.chisquare(n - 1, shape) / (n - 1) if n > 1 else np.zeros(shape)
        return means, shrunk_variance(observed, n, s.s0) / n

    ours, our_variance = runs(s.n)
    published, their_variance = runs(s.published_n)
    delta = ours - published + shift + rng.normal(0.0, 1.0, shape) * s.true_tau
    error, freedom = welch(
        our_variance, PRIOR_FREEDOM + s.n - 1, their_variance, PRIOR_FREEDOM + s.published_n - 1, s.tau
    )
    half = special.stdtrit(freedom, 1 - LEVEL) * error
    differs = adjust(two_sided(delta / error, freedom)) < LEVEL
    return Verdicts(setting=s, differs=differs, same=~differs & (np.abs(delta) + half < MARGIN))


@dataclass(frozen=True)
class Rates:
    """The error rates of one number of runs, rule and origin spread."""

    n: int
    tau: float
    true_tau: float
    false_flags: float
    """Cells of a table that `differs` names although nothing differs, on average."""
    flagged_tables: float
    """Share of the tables with such a cell."""
    power_half: float
    """Share of the cells that truly differ by 0.5 and are named."""
    power_one: float
    """The same for 1.0."""
    same: float
    """Share of the cells without a difference that are shown to be the same."""
    wrongly_same: float
    """Share of the cells that differ by the margin and are said to be the same."""


RULES_AND_TRUTHS = ((0.0, 0.0), (TAU, 0.0), (TAU, TAU), (TAU, WIDE_TAU), (0.0, TAU))
"""tau of the rule and of the made-up tables. The last one shows what a rule without tau would do."""


def error_rates(s0: float, draws: int, runs: Sequence[int] = (1, 3, 5), seed: int = 0) -> list[Rates]:
    """Return the error rates for these numbers of our runs, against five published ones."""
    rates = []
    for n in runs:
        for tau, true_tau in RULES_AND_TRUTHS:
            base = Setting(n=n, tau=tau, true_tau=true_tau, s0=s0)
            none = simulate(base, draws, seed)
            half, one, all_at_margin = (
                simulate(Setting(n, tau, true_tau, s0, moved=moved, by=by), draws, seed)
                for moved, by in ((MOVED, 0.5), (MOVED, 1.0), (CELLS, MARGIN))
            )
            rates.append(
                Rates(
                    n=n,
                    tau=tau,
                    true_tau=true_tau,
                    false_flags=float(none.false_flags.mean()),
                    flagged_tables=float((none.false_flags > 0).mean()),
                    power_half=half.power,
                    power_one=one.power,
                    same=float(none.same.mean()),
                    wrongly_same=float(all_at_margin.same.mean()),
                )
            )
    return rates


@dataclass(frozen=True)
class Coverage:
    """How often the 95% interval of a mean rank contains the true mean rank."""

    pairs: int
    methods: int
    least: float
    """The least over weak, medium and strong differences between methods."""
    most: float


EFFECTS, NOISE = (0.1, 0.4, 1.0), 0.35
"""Standard deviations (in points) of the methods' true differences, and of what a pair adds to them."""


def rank_coverage(
    draws: int, pairs: Sequence[int] = (2, 3, 5, 7, 13), methods: Sequence[int] = (2, 3, 10), seed: int = 0
) -> list[Coverage]:
    """Return the coverage of `between_methods.rank_half_widths`."""
    rng = np.random.default_rng(seed)
    found = []
    for k in methods:
        for n in pairs:
            shares = [_covered(rng, draws=draws, pairs=n, methods=k, effect=e) for e in EFFECTS]
            found.append(Coverage(pairs=n, methods=k, least=min(shares), most=max(shares)))
    return found


def _covered(rng: np.random.Generator, *, draws: int, pairs: int, methods: int, effect: float) -> float:
    means = rng.normal(0.0, effect, (draws, 1, methods))

    def ranks(n: int) -> np.ndarray:
        scores = means + rng.normal(0.0, NOISE, (draws, n, methods))
        return (-scores).argsort(axis=-1).argsort(axis=-1) + 1.0

    # method a is before b with probability Phi((a - b) / (NOISE sqrt 2)); so the true mean rank is exact
    before = special.ndtr((means - means.transpose(0, 2, 1)) / (NOISE * 2**0.5))
    true = 0.5 + before.sum(axis=-1)
    drawn = ranks(pairs)
    return float((np.abs(drawn.mean(axis=1) - true) <= rank_half_widths(drawn) + 1e-9).mean())
