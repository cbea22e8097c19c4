"""Averages over pairs, their columns and the cards of the report."""

from __future__ import annotations

from pathlib import Path

import pytest
import records_kit as kit

from benchmark.spec.matrix import Expansion, Row
from results.store import Store
from tables import report, report_cards
from tables.cells import CellResult, collect
from tables.summary import average_relative_improvement, baseline, summaries

PAIRS = '["resnet56:resnet20", "wrn_40_2:wrn_16_2", "vgg13:vgg8"]'
GAINS = {"teacher": 5.0, "student": 0.0, "kd": 2.0, "at": 3.0, "sp": 1.0}


def case(
    folder: Path, pairs: str = PAIRS, without: tuple[str, str] = ("", "")
) -> tuple[Expansion, list[dict]]:
    """Return a table whose students have 70, 71, ... and whose rows gain `GAINS`.

    without: method and student of a cell that has no records.
    """
    e = kit.small(folder, text=kit.SMALL.replace('["resnet56:resnet20", "wrn_40_2:wrn_16_2"]', pairs))
    students = list(dict.fromkeys(c.student for c in e.cells))
    records = {
        r.key: kit.record(r, 70.0 + students.index(c.student) + GAINS[c.row.method])
        for c in e.cells
        for r in c.runs
        if (c.row.method, c.student) != without
    }
    return e, list(records.values())


def results_of(e: Expansion, records: list[dict]) -> list[CellResult]:
    return collect(e, kit.as_frame(records))


def test_averages_over_pairs(tmp_path: Path) -> None:
    s = summaries(results_of(*case(tmp_path)), "last")
    assert s["AT"].average == pytest.approx(71 + 3) and s["AT"].pairs == 3
    assert s["AT"].over_student == pytest.approx(3) and s["AT"].over_kd == pytest.approx(1)
    assert s["AT"].ari == pytest.approx(100 * (3 - 2) / 2) and s["SP"].ari == pytest.approx(-50)
    assert s["KD"].over_student == pytest.approx(2) and s["KD"].over_kd is s["KD"].ari is None
    assert s["Student"].over_student is None and s["Teacher"].ari is None


def test_a_row_without_some_pair_has_no_average(tmp_path: Path) -> None:
    s = summaries(results_of(*case(tmp_path, without=("at", "vgg8"))), "last")
    assert s["AT"].average is None and s["AT"].pairs == 2
    assert s["AT"].over_student == pytest.approx(3)


def test_relative_improvement_is_the_mean_of_quotients() -> None:
    student, kd, row = {"a": 70.0, "b": 60.0}, {"a": 71.0, "b": 64.0}, {"a": 72.0, "b": 65.0}
    assert average_relative_improvement(row, kd, student) == pytest.approx(100 * (1 / 1 + 1 / 4) / 2)
    assert average_relative_improvement(row, {**kd, "b": 59.0}, student) is None
    assert average_relative_improvement(row, {}, student) is None


@pytest.mark.parametrize(("pairs", "columns"), [(PAIRS, 4), ('["resnet56:resnet20", "vgg13:vgg8"]', 0)])
def test_columns_need_three_pairs(tmp_path: Path, pairs: str, columns: int) -> None:
    e, records = case(tmp_path, pairs)
    page = report.page([e], kit.as_frame(records), Store(tmp_path / "runs"))
    assert page.count('<th scope="col" class="average">') == columns
    assert page.count('<td class="average">') == columns * 5


def test_a_card_says_what_is_done_and_best(tmp_path: Path) -> None:
    e, records = case(tmp_path)
    page = report.page([e], kit.as_frame(records), Store(tmp_path / "runs"))
    card = page[page.index('<a class="card"') : page.index("</nav>")]
    assert f'href="#{e.table.name}"' in card and f"{len(e.runs)} of {len(e.runs)} runs done" in card
    assert "mean gain over the student +2.00" in card and "best: AT (+3.00)" in card
    assert report_cards.gains(results_of(e, []), "last") == []


def test_only_tables_with_records_are_unfolded(tmp_path: Path) -> None:
    e, records = case(tmp_path)
    store = Store(tmp_path / "runs")
    assert '<details class="body" open>' in report.page([e], kit.as_frame(records[:1]), store)
    assert '<details class="body">' in report.page([e], kit.as_frame([]), store)


def test_rows_and_pairs_without_records_are_left_out_at_first(tmp_path: Path) -> None:
    e, records = case(tmp_path)
    some = [r for r in records if r["student"] == "resnet20" and r["method"] in ("plain", "kd")]
    page = report.page([e], kit.as_frame(some), Store(tmp_path / "runs"))
    assert "shown only on request: 3 rows and 2 pairs." in page
    assert page.count(" data-blank ") == 3 and page.count('<th scope="col" class="blank">') == 2
    # if nothing has a record, all is shown
    assert 'class="blank"' not in report.page([e], kit.as_frame([]), Store(tmp_path / "runs"))


def test_rows_of_a_group_are_compared_with_its_own_student() -> None:
    def row(label: str, method: str, group: str) -> Row:
        return Row(label=label, method=method, protocol="crd", group=group)

    rows = [row("S 25", "student", "25%"), row("S 50", "student", "50%"), row("S", "student", "")]
    scores = {"S 25": {"p": 1.0}, "S 50": {"p": 2.0}, "S": {"p": 3.0}}
    for group, expected in (("25%", 1.0), ("50%", 2.0), ("", 3.0), ("75%", 3.0)):
        assert baseline(rows, scores, "student", group) == {"p": expected}
    assert baseline(rows[:2], scores, "student", "75%") == {} == baseline(rows, scores, "kd", "")
