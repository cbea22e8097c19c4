"""The rule of the verdicts, against scipy and numbers worked out by hand."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import stats as scipy_stats

from tables import statistics as st
from tables.statistics import Assumption, Sample, compare, decide, judge
from tables.verdicts import Verdict

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


def test_the_variance_is_shrunk_towards_that_of_the_family() -> None:
    found = st.spread_of(Sample(70.0, 0.4, 5), s0=0.2)
    assert found.variance == pytest.approx((6 * 0.2**2 + 4 * 0.4**2) / 10) and found.freedom == 10
    assert found.of_mean == pytest.approx(found.variance / 5) and found.std_known
    for sample in (Sample(70.0), Sample(70.0, None, 1), Sample(70.0, 0.9, 1), Sample(70.0, math.nan, 1)):
        found = st.spread_of(sample, s0=0.2)
        assert (found.variance, found.freedom, found.n) == (pytest.approx(0.04), 6, 1) and not found.std_known
    assert st.spread_of(Sample(70.0, None, 5), s0=0.2).of_mean == pytest.approx(0.04 / 5)


def test_delta_interval_and_p_by_hand() -> None:
    c = compare(Sample(71.0, 0.3, 5), Sample(70.5, 0.4, 3), s0=0.25, tau=0.0)
    v1, v2 = (6 * 0.0625 + 4 * 0.09) / 10 / 5, (6 * 0.0625 + 2 * 0.16) / 8 / 3
    error, freedom = math.sqrt(v1 + v2), (v1 + v2) ** 2 / (v1**2 / 10 + v2**2 / 8)
    assert c.delta == pytest.approx(0.5) and c.error_and_freedom == pytest.approx((error, freedom))
    assert c.interval() == pytest.approx(scipy_stats.t.interval(0.90, freedom, loc=0.5, scale=error))
    assert c.p == pytest.approx(2 * scipy_stats.t.cdf(-0.5 / error, freedom))
    with_tau = c.with_tau(0.4)
    assert with_tau.error_and_freedom[0] == pytest.approx(math.hypot(error, 0.4)) and with_tau.p > c.p


def test_welch_as_scipy() -> None:
    a, b = [71.2, 70.8, 71.9, 71.1, 70.5], [70.1, 71.4, 69.9]
    error, freedom = st.welch(np.var(a, ddof=1) / 5, 4, np.var(b, ddof=1) / 3, 2, tau=0.0)
    theirs = scipy_stats.ttest_ind(a, b, equal_var=False)
    assert float(st.two_sided((np.mean(a) - np.mean(b)) / error, freedom)) == pytest.approx(theirs.pvalue)


def test_adjusted_p_as_scipy() -> None:
    p = np.random.default_rng(0).uniform(0, 1, (4, 30)) ** 3
    assert st.adjust(p) == pytest.approx(scipy_stats.false_discovery_control(p, axis=1))
    assert st.adjust([0.5]) == pytest.approx([0.5])


@pytest.mark.parametrize(
    ("delta", "verdict"),
    [
        (0.0, Verdict.SAME),
        (0.1, Verdict.SAME),
        (0.25, Verdict.DIFFERS_LITTLE),
        (-0.25, Verdict.DIFFERS_LITTLE),
        (0.5, Verdict.DIFFERS),
        (-2.0, Verdict.DIFFERS),
    ],
)
def test_every_verdict_of_one_origin(delta: float, verdict: Verdict) -> None:
    found = judge(Sample(70.0 + delta, 0.2, 9), Sample(70.0, 0.2, 9), s0=0.2, tau=0.0)
    assert found.verdict is verdict and found.needed is None


def test_few_runs_decide_nothing() -> None:
    found = judge(Sample(70.3), Sample(70.0), s0=0.2, tau=0.0)
    assert found.verdict is Verdict.UNDECIDED


def test_another_origin_can_differ_but_cannot_be_the_same() -> None:
    """1.645 * 0.4 is more than the margin, whatever the number of runs."""
    many = Sample(70.0, 0.2, 100_000)
    assert judge(many, many, s0=0.2).verdict is Verdict.UNDECIDED
    assert judge(Sample(71.5, 0.2, 5), Sample(70.0, 0.2, 5), s0=0.2).verdict is Verdict.DIFFERS
    assert judge(Sample(70.6, 0.2, 5), Sample(70.0, 0.2, 5), s0=0.2).verdict is Verdict.UNDECIDED


def test_a_table_has_a_common_level() -> None:
    """One cell with p = 0.01 is named alone, but not among 20 cells without a difference."""
    one = compare(Sample(70.5, 0.25, 3), Sample(70.0, 0.25, 5), s0=0.25, tau=0.0)
    assert 0.003 < one.p < 0.02
    other = compare(Sample(70.0, 0.25, 3), Sample(70.0, 0.25, 5), s0=0.25, tau=0.0)
    alone, among = decide([one])[0], decide([one, *[other] * 19])[0]
    assert alone.verdict is Verdict.DIFFERS and among.verdict is Verdict.UNDECIDED
    assert among.adjusted == pytest.approx(20 * one.p)
    assert decide([]) == []


def test_seeds_to_decide_is_the_least_number() -> None:
    c = compare(Sample(70.4, 0.3, 2), Sample(70.0, 0.2, 5), s0=0.25, tau=0.0)
    found = decide([c])[0]
    assert found.verdict is Verdict.UNDECIDED and found.needed is not None and found.needed > 2

    def decided(n: int) -> bool:
        return c.with_runs(n).p < st.LEVEL or c.with_runs(n).inside

    assert decided(found.needed) and not decided(found.needed - 1)
    out_of_reach = judge(Sample(70.4, 0.3, 2), Sample(70.0, 0.2, 5), s0=0.25)
    assert out_of_reach.verdict is Verdict.UNDECIDED and out_of_reach.needed is None


def test_an_unknown_epoch_is_judged_by_both() -> None:
    import dataclasses

    def both(last: float, best: float) -> st.Comparison:
        a, b = (compare(Sample(x, 0.2, 5), Sample(70.0, 0.2, 5), s0=0.2, tau=0.0) for x in (last, best))
        return dataclasses.replace(a, other_epoch=b)

    last, best = (compare(Sample(x, 0.2, 5), Sample(70.0, 0.2, 5), s0=0.2, tau=0.0) for x in (70.9, 71.2))
    assert both(70.9, 71.2).p == last.p > best.p
    assert both(70.9, 71.2).interval() == (last.interval()[0], best.interval()[1])
    assert both(69.0, 71.0).p == 1.0, "the published number may be either"
    assert decide([both(70.9, 71.2)])[0].verdict is Verdict.DIFFERS
    assert decide([both(70.0, 71.2)])[0].verdict is Verdict.UNDECIDED
    assert decide([both(69.9, 70.1)])[0].verdict is Verdict.SAME


def test_what_is_not_known_is_assumed_and_named() -> None:
    found = compare(Sample(70.0, None, 1), Sample(70.0), s0=0.25)
    assert found.assumed == (
        Assumption.STD_OF_OURS,
        Assumption.STD_OF_PUBLISHED,
        Assumption.N_OF_PUBLISHED,
    )
    std_alone = compare(Sample(70.0, 0.1, 5), Sample(70.0, 0.1, None), s0=0.25)
    assert std_alone.assumed == (Assumption.N_OF_PUBLISHED_STD,) and std_alone.published.n == 2
    of_one_run = compare(Sample(70.0, 0.1, 5), Sample(70.0, 0.1, 1), s0=0.25)
    assert of_one_run.assumed == (Assumption.STD_OF_PUBLISHED,)
    assert compare(Sample(70.0, 0.1, 5), Sample(70.0, 0.1, 5), s0=0.25).assumed == ()
