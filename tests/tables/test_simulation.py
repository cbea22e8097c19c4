"""The error rates of the rule, on made-up tables at small size, and of the whole diff on made-up records."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmark.spec import matrix
from results import published
from tables import simulation
from tables.published_cells import PublishedCells
from tables.simulation import Setting, simulate
from tables.statistics import (
    LEVEL,
    PRIOR_FREEDOM,
    TAU,
    Sample,
    adjust,
    compare,
    decide,
    shrunk_variance,
    spread_of,
    two_sided,
    welch,
)
from tables.verdicts import MARGIN, Verdict

DRAWS = 400
ERROR = 3 * (LEVEL * (1 - LEVEL) / DRAWS) ** 0.5
"""Three standard errors of a share of 5%."""


@pytest.mark.parametrize("tau", [0.0, TAU])
@pytest.mark.parametrize("n", [1, 3, 5])
def test_false_flags_keep_their_level(n: int, tau: float) -> None:
    """Where only the origins differ, a false `differs` is in 5% of the tables, not of the cells."""
    found = simulate(Setting(n=n, tau=tau, true_tau=tau), DRAWS)
    # spreads that differ from cell to cell, which one run cannot show, raise it a little
    assert (found.false_flags > 0).mean() <= LEVEL + ERROR + 0.03
    assert found.false_flags.mean() < 0.2


def test_a_rule_without_tau_would_fail() -> None:
    found = simulate(Setting(n=5, tau=0.0, true_tau=TAU), DRAWS)
    assert (found.false_flags > 0).mean() > 0.95


def test_power() -> None:
    def power(n: int, by: float, tau: float) -> float:
        return simulate(Setting(n=n, tau=tau, moved=10, by=by), DRAWS).power

    assert power(5, 1.0, 0.0) > 0.95 > power(5, 0.5, 0.0) > 0.2 > power(1, 0.5, 0.0)
    assert power(5, 1.0, TAU) < 0.1 and power(5, 2.5, TAU) > 0.95


def test_same_is_rarely_wrong() -> None:
    """A cell that is off by the whole margin is called the same in at most 5%."""
    at_margin = simulate(Setting(n=5, tau=0.0, moved=simulation.CELLS, by=MARGIN), DRAWS)
    none = simulate(Setting(n=5, tau=0.0), DRAWS)
    assert at_margin.same.mean() < LEVEL + 0.01 and none.same.mean() > 0.6
    assert not simulate(Setting(n=5, tau=TAU), 10).same.any(), "another origin is never shown to be the same"


def test_simulation_and_verdicts_use_one_rule() -> None:
    s = Setting(n=3, tau=0.0, cells=12, moved=4, by=0.9)
    found = simulate(s, draws=1, seed=5)
    rng = np.random.default_rng(5)
    variances = s.s0**2 * 4 / rng.chisquare(6, (1, 12))
    samples = []
    for n in (3, 5):
        means = rng.normal(0.0, np.sqrt(variances / n))[0]
        observed = (variances * rng.chisquare(n - 1, (1, 12)) / (n - 1))[0]
        samples.append([Sample(70 + m, v**0.5, n) for m, v in zip(means, observed, strict=True)])
    moved = [Sample(x.mean + (0.9 if i < 4 else 0.0), x.std, x.n) for i, x in enumerate(samples[0])]
    comparisons = [compare(a, b, s.s0, 0.0) for a, b in zip(moved, samples[1], strict=True)]
    verdicts = [j.verdict for j in decide(comparisons)]
    differs = [v in (Verdict.DIFFERS, Verdict.DIFFERS_LITTLE) for v in verdicts]
    assert differs == found.differs[0].tolist() and any(differs) and not all(differs)
    assert [v is Verdict.SAME for v in verdicts] == found.same[0].tolist()


def made_up(
    draws: int, *, n: int, moved: int = 0, by: float = 0.0, tau: float = TAU
) -> tuple[np.ndarray, np.ndarray]:
    """Return [tables, cells]: which cells of CRD's Table 1 were moved, and which ones differ.

    Every cell has n records that equal the published number plus seed noise; the moved ones are off by `by`.
    """
    rng = np.random.default_rng(0)
    e = matrix.expand(matrix.load_table("crd-table1"), "paper")
    numbers, stds = PublishedCells.read("cifar100"), published.seed_stds()
    cells = [(c, x) for c in e.cells if (x := numbers.of(e.table, c)) is not None and x.value is not None]
    s0 = np.array([stds.of(c.student) for c, _ in cells])
    runs = np.array([1 if c.row.method == "teacher" else n for c, _ in cells])
    theirs = [spread_of(Sample(x.value or 0.0, x.std, x.n), s) for (_, x), s in zip(cells, s0, strict=True)]
    sigma = np.array([x.std or s for (_, x), s in zip(cells, s0, strict=True)])
    five_runs = [i for i, (c, x) in enumerate(cells) if c.row.method != "teacher" and x.n == 5]
    chosen = np.zeros((draws, len(cells)), dtype=bool)
    for line in chosen:
        line[rng.choice(five_runs, moved, replace=False)] = True
    delta = rng.normal(0.0, sigma / runs**0.5, chosen.shape) + by * chosen
    observed = sigma**2 * rng.chisquare(np.maximum(runs - 1, 1), chosen.shape) / np.maximum(runs - 1, 1)
    error, freedom = welch(
        shrunk_variance(observed, runs, s0) / runs,
        PRIOR_FREEDOM + runs - 1,
        np.array([x.of_mean for x in theirs]),
        np.array([x.freedom for x in theirs]),
        tau,
    )
    return chosen, adjust(two_sided(delta / error, freedom)) < LEVEL


@pytest.mark.parametrize("tau", [0.0, TAU])
@pytest.mark.parametrize("n", [1, 5])
def test_records_that_equal_the_printed_numbers_do_not_differ(n: int, tau: float) -> None:
    _, differs = made_up(100, n=n, tau=tau)
    assert differs.any(axis=1).sum() <= 5


def test_three_moved_cells_are_named() -> None:
    """By 1.5 at n = 5: nearly always without an origin part. With it, four in five, and no other cell."""
    chosen, differs = made_up(300, n=5, moved=3, by=1.5, tau=0.0)
    assert (chosen == differs).all(axis=1).mean() > 0.95
    chosen, differs = made_up(300, n=5, moved=3, by=1.5)
    assert differs[chosen].mean() > 0.75 and differs[~chosen].mean() < 1e-4
    chosen, differs = made_up(300, n=5, moved=3, by=2.0)
    assert (chosen == differs).all(axis=1).mean() > 0.95


def test_intervals_of_ranks_keep_their_level() -> None:
    for c in simulation.rank_coverage(600, pairs=(2, 3, 7), methods=(3, 10)):
        assert c.least > 0.91, c
    two = simulation.rank_coverage(300, pairs=(3,), methods=(2,))[0]
    assert two.least > 0.84 and two.most <= 1.0


def test_the_true_mean_rank_of_the_simulation_is_exact() -> None:
    """Against the mean of many drawn ranks."""
    rng = np.random.default_rng(1)
    means = np.array([0.0, 0.3, 0.5])
    before = stats.norm.cdf((means[None, :] - means[:, None]) / (simulation.NOISE * 2**0.5))
    scores = means + rng.normal(0, simulation.NOISE, (40_000, 3))
    assert (0.5 + before.sum(axis=1)) == pytest.approx(stats.rankdata(-scores, axis=1).mean(axis=0), abs=0.02)
