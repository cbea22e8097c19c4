"""The numbers in docs/reading-the-diff.md, computed again from the registry."""

from __future__ import annotations

import dataclasses
import math
import statistics
from pathlib import Path

import pytest

from results import published
from results.published import yardsticks
from results.published.curves import best_minus_last
from results.published.yardsticks import TAU, WIDE_TAU
from tables.statistics import MARGIN, PRIOR_FREEDOM, Sample, judge
from tables.verdicts import MARKS, Verdict

TEXT = " ".join(
    (Path(__file__).parents[2] / "docs" / "reading-the-diff.md").read_text(encoding="utf-8").split()
)


def says(text: str) -> bool:
    return text in TEXT


def test_rule() -> None:
    assert says(f"The margin is {MARGIN}") and says(f"({PRIOR_FREEDOM} s0^2 + (n - 1) s_obs^2)")
    assert says(f"It is {TAU}, and 0 only if") and says(f"others with {WIDE_TAU}")
    assert says(f"with probability {1 - 0.95**105:.3f}")
    # of three runs: (s / sigma)^2 is exponential with mean 1
    off = 1 - math.exp(-((2 / 3) ** 2)) + math.exp(-((4 / 3) ** 2))
    assert 0.5 < off < 0.55 and says("is off by more than a third in half of all cases")
    for verdict in Verdict:
        assert f"| `{MARKS[verdict]}` {verdict} |" in TEXT, verdict
    s0 = published.seed_stds().of("resnet20")
    found = judge(Sample(70.74, 0.32, 5), Sample(70.66, 0.24, 5), s0)
    low, high = found.comparison.interval()
    assert says(f"{low:+.2f} to {high:+.2f} ? {found.verdict} (n -)") and found.needed is None


def test_other_numbers() -> None:
    sticks = yardsticks.yardsticks()
    top1, top5 = (sticks["imagenet", metric] for metric in ("top1", "top5"))
    assert says(f"times {top1.scale:.2f} for top-1") and says(f"times {top5.scale:.2f} for top-5")
    assert says(f"top-5 has {top5.tau:g}, with {top5.wide_tau:g} for the sensitivity")
    of1, of5 = yardsticks.repeated_cells()
    assert (len(of1.differences), len(of5.differences)) == (10, 5)
    assert says(
        "ten differences in top-1 and five in top-5. They leave " + f"{of1.tau:.2f} and {of5.tau:.2f}"
    )
    others = sorted(map(abs, of1.differences))
    nine = dataclasses.replace(of1, differences=tuple(others[:-1]))
    assert says(f"in top-1, {others[-1]:.2f}, lies") and says(f"the other nine leave {nine.tau:.2f}")


def test_best_minus_last() -> None:
    """Computed here from the curves themselves: CRD's schedule is known by the fall of the loss."""
    frame = published.curves()
    own, called, short, long = [], [], [], []
    for key, g in frame.groupby(["recipe", "teacher", "student", "method", "run", "source"]):
        accuracy = g.sort_values("epoch")["test_acc"]
        loss = g.set_index("epoch")["train_loss"]
        falls = loss[151] < 0.92 * loss[150]
        group = (own if falls else called) if key[0] == "crd" else (short if len(g) == 240 else long)
        group.append(float(accuracy.max() - accuracy.iloc[-1]))
    assert (len(own), len(called), len(short), len(long)) == (7, 18, 28, 12)
    mean = statistics.mean
    assert says(
        f"In the 7 complete logs of CRD's recipe, best minus last is {mean(own):+.2f} on average and "
        f"{max(own):.2f} at most"
    )
    of_short = f"{mean(short):+.2f}, {max(short):.2f} at most"
    assert says(f"in the 28 logs of logit standardisation with 240 epochs it is {of_short}")
    assert says("18 more logs are called CRD's recipe") and says("12 more logs of logit standardisation")
    assert [b.logs for b in best_minus_last()] == [7, 18, 28, 12]
    assert [b.mean for b in best_minus_last()] == pytest.approx([mean(x) for x in (own, called, short, long)])


def test_sskds_kd_row_is_crds() -> None:
    found = published.load()
    rows = found[
        (found["paper"] == "sskd") & (found["method"] == "kd") & found["table"].isin(["table3", "table4"])
    ]
    values = []
    for row in rows.to_dict("records"):
        crd = published.value(
            "crd",
            {"table3": "table1", "table4": "table2"}[str(row["table"])],
            str(row["teacher"]),
            str(row["student"]),
            "kd",
        )
        assert crd is not None and crd.value == row["value"]
        values.append(f"{row['value']:.2f}")
    assert len(values) == 11 and says(", ".join(values[:5])) and says(", ".join(values[5:]))
    similar, different = ("resnet56", "resnet20"), ("vgg13", "MobileNetV2")
    for paper, table, pair, method in (
        ("sskd", "table3", similar, "teacher"),
        ("crd", "table1", similar, "teacher"),
        ("sskd", "table4", different, "at"),
        ("crd", "table2", different, "at"),
    ):
        number = published.value(paper, table, *pair, method)
        assert number is not None and says(f"{number.value:.2f}")


def test_mobilenets() -> None:
    found = published.load()
    plain = found[(found["method"] == "student") & (found["dataset"] == "cifar100")]
    for paper, network in (("hsakd", "MobileNetV2_hsakd"), ("sskd", "MobileNetV2"), ("crd", "MobileNetV2")):
        values = set(plain[(plain["paper"] == paper) & (plain["student"] == network)]["value"])
        assert len(values) == 1 and says(f"{values.pop():.2f}")


def test_dkds_five_runs() -> None:
    found = published.load()
    runs = found[
        (found["paper"] == "reproductions")
        & found["table"].str.startswith("dkd-reproduction-mdistiller-issue-7")
    ]
    values = [float(v) for v in runs.sort_values("table")["value"]]
    number = published.value("dkd", "readme", "resnet32x4", "resnet8x4", "dkd")
    assert (
        len(values) == 5
        and number is not None
        and number.value is not None
        and says(f"publishes {number.value:.2f}")
    )
    assert says(", ".join(f"{v:.2f}" for v in values))
    ours = Sample.of(values)
    assert says(f"mean is {ours.mean:.2f} with a std of {ours.std:.2f}.")
    s0 = published.seed_stds().of("resnet8x4")
    theirs = Sample(number.value, number.std, number.n)

    def interval_of(added: float, tau: float, verdict: str) -> str:
        found = judge(Sample(ours.mean + added, ours.std, ours.n), theirs, s0, tau)
        assert found.verdict == verdict
        low, high = found.comparison.interval()
        return f"{low:+.2f} to {high:+.2f}"

    five = judge(ours, theirs, s0, tau=0.0)
    assert says(
        f"The delta is {five.comparison.delta:.2f} with a 90% interval of {interval_of(0.0, 0.0, 'differs')}"
    )
    assert says(f"*differs* (p = {five.comparison.p:.3f})")
    gap = next(b for b in best_minus_last() if b.logs == 28).mean
    assert says(f"about {gap:.2f} higher")
    as_best = five.comparison.delta + round(gap, 2)
    of_best = interval_of(round(gap, 2), 0.0, "same within 0.5")
    assert says(f"the delta is {as_best:+.2f} with an interval of {of_best}")
    assert says(f"the interval would be {interval_of(0.0, TAU, 'undecided')}")
    for added in (0.0, gap):
        assert judge(Sample(values[0] + added), theirs, s0, tau=0.0).verdict == "undecided"
