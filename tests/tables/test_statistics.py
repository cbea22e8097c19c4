"""Statistics against scipy and numbers worked out by hand."""

import math
import random

import pytest
from scipy import stats as scipy_stats

from tables import statistics as st
from tables.statistics import Assumption, Sample, judge

VALUES = [71.2, 70.8, 71.9, 71.1, 70.5]


def test_mean_std_interval_as_scipy() -> None:
    s = Sample.of(VALUES)
    assert s.mean == pytest.approx(71.1) and s.n == 5
    assert s.std == pytest.approx(scipy_stats.tstd(VALUES))
    expected = scipy_stats.t.interval(0.95, 4, loc=71.1, scale=scipy_stats.sem(VALUES))
    assert st.t_interval(VALUES) == pytest.approx(expected)
    assert st.t_interval([71.0]) is None and st.std([71.0]) is None


def test_no_result_depends_on_the_order() -> None:
    shuffled = random.Random(1).sample(VALUES * 20, 100)
    assert st.mean(shuffled) == st.mean(VALUES * 20) and st.std(shuffled) == st.std(VALUES * 20)


def test_verdict_by_hand() -> None:
    # 2 * sqrt(0.3^2 / 5 + 0.4^2 / 3) = 0.5336: wider than 0.3
    band = 2 * math.sqrt(0.09 / 5 + 0.16 / 3)
    found = judge(Sample(71.0, 0.3, 5), Sample(70.5, 0.4, 3))
    assert (
        found.verdict == "agrees"
        and found.band == pytest.approx(band)
        and found.delta == pytest.approx(0.5)
        and found.assumed == ()
    )
    assert judge(Sample(71.1, 0.3, 5), Sample(70.5, 0.4, 3)).verdict == "above"
    assert judge(Sample(69.9, 0.3, 5), Sample(70.5, 0.4, 3)).verdict == "below"


def test_differences_within_the_tolerance_agree() -> None:
    exact = judge(Sample(70.30, 0.0, 5), Sample(70.0, 0.0, 5))
    assert exact.verdict == "agrees" and exact.band == 0.3
    assert judge(Sample(70.31, 0.0, 5), Sample(70.0, 0.0, 5)).verdict == "above"


def test_what_is_not_known_is_assumed_and_named() -> None:
    found = judge(Sample(70.0, None, 1), Sample(70.0))
    assert found.band == pytest.approx(2 * math.sqrt(0.25**2 + 0.25**2))
    assert found.assumed == (
        Assumption.STD_OF_OURS,
        Assumption.STD_OF_PUBLISHED,
        Assumption.N_OF_PUBLISHED,
    )
    assert [str(a) for a in found.assumed] == [
        "std of ours = 0.25",
        "std of published = 0.25",
        "n of published = 1",
    ]
    assert judge(Sample(70.0, 0.1, 5), Sample(70.0, 0.1, None)).assumed == (Assumption.N_OF_PUBLISHED,)
    assert Assumption.STD_OF_PUBLISHED in judge(Sample(70.0, 0.1, 5), Sample(70.0, 0.1, 1)).assumed


def test_paired_differences_as_scipys_paired_test() -> None:
    a = dict(enumerate(VALUES))
    b = dict(enumerate([70.9, 70.6, 71.2, 71.0, 70.3]))
    found = st.paired(a, {**b, 9: 1.0})
    assert found is not None and found.seeds == (0, 1, 2, 3, 4)
    theirs = scipy_stats.ttest_rel(VALUES, list(b.values())).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert found.settled == (theirs.low > 0 or theirs.high < 0)
    assert st.paired({0: 1.0}, {1: 1.0}) is None
    alone = st.paired({0: 2.0}, {0: 1.0})
    assert (
        alone is not None
        and alone.mean == 1.0
        and alone.low is None
        and alone.needed is None
        and not alone.settled
    )


def test_seeds_needed_is_the_least_number_with_the_power() -> None:
    n = st.seeds_needed(0.3, 0.4)
    assert n is not None and st.power(0.3 / 0.4, n) >= 0.8 > st.power(0.3 / 0.4, n - 1)
    assert st.seeds_needed(0.0, 0.4) is None and st.seeds_needed(1e-4, 1.0) is None
    assert st.seeds_needed(0.1, 0.0) == 2 and st.seeds_needed(0.0, 0.0) is None


def test_power_against_simulation() -> None:
    import numpy as np

    draws = np.random.default_rng(0).normal(0.8, 1.0, (20_000, 8))
    found = (scipy_stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05).mean()
    assert st.power(0.8, 8) == pytest.approx(found, abs=0.015)


def test_detectable_against_simulation() -> None:
    import numpy as np

    rng, d = np.random.default_rng(0), st.detectable(5, 1.0)
    p = scipy_stats.ttest_ind(rng.normal(d, 1, (20_000, 5)), rng.normal(0, 1, (20_000, 5)), axis=1).pvalue
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.015)
    assert st.detectable(5) < st.detectable(3)


def test_ranks_by_hand() -> None:
    scores = {
        "p1": {"a": 3.0, "b": 2.0, "c": 1.0},
        "p2": {"a": 3.0, "b": 3.0, "c": 1.0, "d": 9.0},
        "p3": {"a": 1.0},
    }
    found, left_out = st.ranks(scores)
    assert left_out == ("d",)
    assert [(r.method, r.mean, r.pairs) for r in found] == [("a", 1.25, 2), ("b", 1.75, 2), ("c", 3.0, 2)]
    assert (found[0].low, found[0].high) == (1.0, 1.5) and (found[2].low, found[2].high) == (3.0, 3.0)
    assert st.ranks(dict(reversed(scores.items()))) == (found, left_out)
    assert st.ranks({}) == ([], ())


@pytest.mark.parametrize("n", [1, 3, 5])
def test_power_note_says_its_n(n: int) -> None:
    assert st.power_note(n).startswith(f"n = {n}:")
