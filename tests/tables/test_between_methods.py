"""Methods against each other, against scipy, simulations and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from tables import between_methods as between
from tables.between_methods import paired, power, ranks, seeds_needed
from tables.statistics import mean

VALUES = [71.2, 70.8, 71.9, 71.1, 70.5]


def test_paired_differences_as_scipys_paired_test() -> None:
    a = dict(enumerate(VALUES))
    b = dict(enumerate([70.9, 70.6, 71.2, 71.0, 70.3]))
    found = paired(a, {**b, 9: 1.0})
    assert found is not None and found.seeds == (0, 1, 2, 3, 4)
    theirs = scipy_stats.ttest_rel(VALUES, list(b.values())).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert found.settled == (theirs.low > 0 or theirs.high < 0)
    assert paired({0: 1.0}, {1: 1.0}) is None
    alone = paired({0: 2.0}, {0: 1.0})
    assert (
        alone is not None
        and alone.mean == 1.0
        and alone.low is None
        and alone.needed is None
        and not alone.settled
    )


def test_equal_means_of_other_seeds_are_tied() -> None:
    a, b = mean([69.91, 70.11]), mean([70.01, 70.01])
    assert a != b, "their last bits differ"
    found, _ = ranks({pair: {"a": a, "b": b, "c": 1.0} for pair in ("p1", "p2")})
    assert {r.method: r.mean for r in found} == {"a": 1.5, "b": 1.5, "c": 3.0}


def test_equal_differences_decide_nothing() -> None:
    """Two seeds on a small test set often have the same difference; that is no certainty."""
    found = paired({0: 70.1, 1: 71.3}, {0: 70.0, 1: 71.2})
    assert found is not None and found.mean == pytest.approx(0.1) and not found.settled
    assert found.low is None and found.high is None and found.needed is None


def test_seeds_needed_is_the_least_number_with_the_power() -> None:
    n = seeds_needed(0.3, 0.4)
    assert n is not None and power(0.3 / 0.4, n) >= 0.8 > power(0.3 / 0.4, n - 1)
    assert seeds_needed(0.0, 0.4) is None and seeds_needed(1e-4, 1.0) is None
    assert seeds_needed(0.1, 0.0) == 2 and seeds_needed(0.0, 0.0) is None


def test_power_against_simulation() -> None:
    draws = np.random.default_rng(0).normal(0.8, 1.0, (20_000, 8))
    found = (scipy_stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05).mean()
    assert power(0.8, 8) == pytest.approx(found, abs=0.015)


def test_detectable_against_simulation() -> None:
    rng, d = np.random.default_rng(0), between.detectable(5, 1.0)
    p = scipy_stats.ttest_ind(rng.normal(d, 1, (20_000, 5)), rng.normal(0, 1, (20_000, 5)), axis=1).pvalue
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.015)
    assert between.detectable(5, 0.2) < between.detectable(3, 0.2)


def test_ranks_by_hand() -> None:
    scores = {
        "p1": {"a": 3.0, "b": 2.0, "c": 1.0},
        "p2": {"a": 3.0, "b": 3.0, "c": 1.0, "d": 9.0},
        "p3": {"a": 1.0},
    }
    found, left_out = ranks(scores)
    assert left_out == ("d",)
    assert [(r.method, r.mean, r.pairs) for r in found] == [("a", 1.25, 2), ("b", 1.75, 2), ("c", 3.0, 2)]
    # ranks 1 and 1.5: variance 1/8; of a random rank of three, 8/12
    common = (3 * 8 / 12 + 2 * (1 / 8 + 1 / 8 + 0) / 3 * 1) / (3 + 2)
    half = scipy_stats.t.ppf(0.975, 4) * np.sqrt((3 * common + 1 / 8) / 4 / 2)
    assert found[0].high == pytest.approx(min(3.0, 1.25 + half)) and found[0].low == 1.0
    assert ranks(dict(reversed(scores.items()))) == (found, left_out)
    assert ranks({}) == ([], ())


def test_one_pair_has_no_interval() -> None:
    found, _ = ranks({"p": {"a": 2.0, "b": 1.0}})
    assert [(r.mean, r.low, r.high) for r in found] == [(1.0, None, None), (2.0, None, None)]


def test_methods_that_always_have_the_same_rank_have_an_interval() -> None:
    """The std of three equal ranks is zero; a bootstrap or a plain t interval would have no width."""
    found, _ = ranks({f"p{i}": {"a": 3.0, "b": 2.0, "c": 1.0} for i in range(3)})
    assert all(r.low is not None and r.high is not None and r.high - r.low > 0.5 for r in found)


@pytest.mark.parametrize("n", [1, 3, 5])
def test_power_note_says_its_n(n: int) -> None:
    assert between.power_note(n).startswith(f"n = {n}:") and "±" not in between.power_note(n)
