"""The numbers in docs/reading-the-diff.md, computed again from the registry."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from results import published
from tables.statistics import ASSUMED_STD, RULE, Sample, detectable, judge, t_interval

TEXT = " ".join(
    (Path(__file__).parents[2] / "docs" / "reading-the-diff.md").read_text(encoding="utf-8").split()
)


def says(text: str) -> bool:
    return text in TEXT


def test_rule() -> None:
    assert "max(0.3, 2*sqrt(s1^2/n1 + s2^2/n2))" in RULE and says(
        "band = max(0.3, 2*sqrt(s1^2/n1 + s2^2/n2))"
    )
    assert says(f"missing std is taken as {ASSUMED_STD} and a missing n as 1")
    assert says(f"agree within {judge(Sample(0.0), Sample(0.0)).band:.2f}")
    assert says(f"truly differ by {detectable(5):.2f} or more; with n = 3, by {detectable(3):.2f}")


@pytest.mark.parametrize(
    ("ours", "text"),
    [(False, "In 40 released training logs"), (True, "in 25 complete logs of the CRD recipe")],
)
def test_best_minus_last(ours: bool, text: str) -> None:
    frame = published.curves()
    frame = frame[(frame["recipe"] == "crd") == ours]
    groups = [
        g.sort_values("epoch")["test_acc"]
        for _, g in frame.groupby(["teacher", "student", "method", "run", "source"])
    ]
    differences = [float(g.max() - g.iloc[-1]) for g in groups]
    assert says(text) and f" {len(differences)} " in text
    assert says(f"+{statistics.mean(differences):.2f}") and says(f"{max(differences):.2f} at most")
    if not ours:
        assert says(f"std of {statistics.stdev(differences):.2f}")


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
    ours, interval = Sample.of(values), t_interval(values)
    assert interval is not None and says(
        f"mean is {ours.mean:.2f} with a std of {ours.std:.2f}; "
        f"the 95% interval is {interval[0]:.2f} to {interval[1]:.2f}"
    )
    five = judge(ours, Sample(number.value, number.std, number.n))
    assert (five.verdict, f"{five.band:.2f}", f"{five.delta:+.2f}") == ("below", "0.30", "-0.34") and says(
        "= 0.30 and delta is -0.34: *below*"
    )
    one = judge(Sample(values[0], None, 1), Sample(number.value, number.std, number.n))
    assert one.verdict == "agrees" and says(f"the band would be {one.band:.2f} and the verdict *agrees*")
    assert all(v < number.value for v in values)
