"""Gains over the plain student: by pair, and against what training costs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_summary import GAINS, case, results_of

from tables import gains
from tables.gains import Point

HOURS = {"kd": 1.0, "at": 2.0, "sp": 3.0}
ROWS = {"KD": GAINS["kd"], "AT": GAINS["at"], "SP": GAINS["sp"]}


def with_hours(records: list[dict]) -> list[dict]:
    return [{**r, "share_seconds": 3600 * HOURS.get(r["method"], 0.5)} for r in records]


def test_gains_are_over_the_student_of_the_same_pair(tmp_path: Path) -> None:
    by_pair = gains.gains(results_of(*case(tmp_path)), "last")
    assert list(by_pair) == ["resnet56:resnet20", "wrn_40_2:wrn_16_2", "vgg13:vgg8"]
    for by_row in by_pair.values():
        assert by_row == pytest.approx(ROWS)


def test_only_pairs_with_every_row_count_against_cost(tmp_path: Path) -> None:
    e, records = case(tmp_path, without=("at", "vgg8"))
    points, pairs = gains.points(results_of(e, with_hours(records)), "last")
    assert pairs == 2
    assert {p.label: (p.hours, p.gain) for p in points} == {
        "KD": pytest.approx((1, 2)),
        "AT": pytest.approx((2, 3)),
        "SP": pytest.approx((3, 1)),
    }
    assert {p.label for p in points if p.best} == {"KD", "AT"}  # SP takes longer than both and gains less
    assert gains.points(results_of(e, records[:0]), "last") == ([], 0)


def test_equal_rows_are_both_on_the_line(tmp_path: Path) -> None:
    e, records = case(tmp_path)
    same = [{**r, "share_seconds": 3600.0} for r in records]
    points, _ = gains.points(results_of(e, same), "last")
    assert {p.label for p in points if p.best} == {"AT"}


def test_figures_that_would_say_nothing_are_hidden() -> None:
    by_pair = {f"t:s{i}": {"KD": 1.0, "AT": -0.5} for i in range(3)}
    assert gains.bars_by_pair(by_pair).count("<figure") == 3
    assert gains.bars_by_pair(dict(list(by_pair.items())[:2])) == ""
    points = [Point("KD", 1, 1, True), Point("AT", 2, 3, True), Point("SP", 3, 2)]
    assert gains.against_cost(points) and gains.against_cost(points[:2]) == ""


def test_bars_begin_at_zero_and_are_as_long_as_the_gain() -> None:
    picture = gains.bars_by_pair({f"t:s{i}": {"KD": 2.0, "AT": -1.0} for i in range(3)})
    bars = re.findall(
        r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="12" class="bar (\w+)"/>', picture
    )
    (x, width, over), (x2, width2, under) = bars[:2]
    assert (over, under) == ("over", "under")
    assert float(width) == pytest.approx(2 * float(width2), abs=0.2)
    assert float(x) == pytest.approx(float(x2) + float(width2), abs=0.2)  # both touch the line of zero


def test_labels_do_not_lie_on_each_other() -> None:
    points = [Point(name, 1.0, 2.0, best=True) for name in ("KD", "AT", "SP", "RKD")]
    picture = gains.against_cost(points)
    heights = [float(y) for y in re.findall(r'y="([\d.]+)" text-anchor="start" class="label"', picture)]
    assert len(heights) == 4
    assert all(abs(a - b) >= 10 for i, a in enumerate(heights) for b in heights[:i])
