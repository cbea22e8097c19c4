"""Tables of ImageNet: top-5 rows beside top-1, values printed as errors, networks under the papers' names."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest
import records_kit as kit
from scipy import stats

from benchmark.errors import InputError
from benchmark.spec import matrix
from results.published import reader, yardsticks
from results.store import Store
from tables import diff, diff_text, render, report
from tables.published_cells import PublishedCells
from tables.verdicts import Verdict

TABLES = [
    *("dlkd-table3", "dkd-imagenet", "reviewkd-imagenet", "dist-imagenet", "ctkd-imagenet", "lskd-table3"),
    *("kdpp-imagenet", "seed-imagenet"),
]

ROWS = """
[[rows]]
label = "KD (top-5)"
method = "kd"
metric = "top5"
group = "top-5"
[[rows]]
label = "AT (top-5)"
method = "at"
metric = "top5"
group = "top-5"
"""


def both_metrics(folder: Path, shown: str = "error") -> matrix.Expansion:
    """Return the small table with two rows of top-5, one seed and one pair."""
    text = kit.SMALL.replace("seeds = 3", f'seeds = 1\nshown = "{shown}"') + ROWS
    return kit.small(folder, text=text, pairs=["resnet56:resnet20"])


def records_of(e: matrix.Expansion) -> list[dict[str, object]]:
    """Return records in which AT is better than KD in top-1 and worse in top-5."""
    values = {"kd": (70.0, 71.0, 90.0, 91.0), "at": (72.0, 73.0, 89.0, 89.5)}
    names = ("top1_last", "top1_best", "top5_last", "top5_best")
    return [
        {**kit.record(r, 60.0), **dict(zip(names, values[r.method], strict=True))}
        for r in e.runs
        if r.method in values
    ]


def test_rows_of_both_metrics_have_the_same_runs_and_their_own_numbers(tmp_path: Path) -> None:
    e = both_metrics(tmp_path, "accuracy")
    cells = {c.row.label: c for c in e.cells}
    assert cells["KD"].runs == cells["KD (top-5)"].runs
    assert len({r.key for r in e.runs}) == len(e.runs)
    text = render.render(e, kit.as_frame(records_of(e)), "csv")
    lines = {row["label"]: row for row in csv.DictReader(io.StringIO(text))}
    means = {label: (row["last_mean"], row["best_on_test_set_mean"]) for label, row in lines.items()}
    assert means["KD"] == ("70.0000", "71.0000") and means["KD (top-5)"] == ("90.0000", "91.0000")
    assert {label for label, row in lines.items() if row["rank"] == "1"} == {"AT", "KD (top-5)"}


def test_errors_are_printed_and_the_largest_accuracy_stays_the_best(tmp_path: Path) -> None:
    e = both_metrics(tmp_path)
    frame = kit.as_frame(records_of(e))
    lines = render.render(e, frame, "md").splitlines()
    (at,), (kd5,) = ([x for x in lines if x.startswith(f"| {label} |")] for label in ("AT", "KD (top-5)"))
    assert at == "| AT | **28.00** |" and kd5 == "| KD (top-5) | **10.00** |"
    assert any("Top-1 and top-5 error (100 - accuracy) in %" in line for line in lines)
    assert "70.0000" in render.render(e, frame, "csv")


def test_a_report_shows_both_sides_as_errors(tmp_path: Path) -> None:
    e = both_metrics(tmp_path)
    published = kit.published_cells(e, lambda c: 70.5 if c.row.metric == "top1" else None)
    page = report.page([e], kit.as_frame(records_of(e)), Store(tmp_path / "runs"), published)
    at = page[page.index('data-method="at at"') :]
    at = at[: at.index("</tr>")]
    assert "<b>28.00</b>" in at and ">29.50<" in at and "70.50" not in at
    assert "Differences, figures and details are of accuracies." in page


def test_a_diff_compares_accuracies_of_the_same_metric(tmp_path: Path) -> None:
    e = both_metrics(tmp_path)
    numbers = [
        *kit.published_numbers(e, lambda c: 70.5 if c.row.metric == "top1" else None),
        *kit.published_numbers(e, lambda c: 90.25 if c.row.metric == "top5" else None, metric="top5"),
    ]
    published = PublishedCells([x for x in numbers if x.value is not None], "cifar100")
    found = diff.diff_table(e, kit.as_frame(records_of(e)), published=published)
    deltas = {c.label: c.delta for c in found if c.delta is not None}
    assert deltas == {"KD": -0.5, "AT": 1.5, "KD (top-5)": -0.25, "AT (top-5)": -1.25}
    assert any("accuracies are compared" in line for line in found.head)
    cells = {c.label: c for c in found}
    assert cells["KD"].verdict is Verdict.UNDECIDED and cells["KD"].s0 is not None
    kd5 = cells["KD (top-5)"]
    assert (kd5.verdict, kd5.low, kd5.s0) == (Verdict.NOT_COMPARABLE, None, None)
    assert kd5.reason.startswith("no rule for top-5 on cifar100")


def test_top5_on_imagenet_is_judged_by_its_own_s0_and_tau() -> None:
    """The same delta is too much for top-5, and not for top-1."""
    table = matrix.load_table("ctkd-imagenet")
    e, numbers = matrix.expand(table, "paper"), PublishedCells.read("imagenet")
    values = {"top1": 70.83 + 0.8, "top5": 90.31 + 0.8}
    (kd,) = (c for c in e.cells if c.row.label == "KD")
    names = {f"{m}_{epoch}": v for m, v in values.items() for epoch in ("last", "best")}
    records = [{**kit.record(r, 70.0), **names} for r in kd.runs]
    cells = {c.label: c for c in diff.diff_table(e, kit.as_frame(records), published=numbers)}
    top1, top5 = cells["KD"], cells["KD (top-5)"]
    assert top1.delta == pytest.approx(top5.delta) == pytest.approx(0.8)
    sticks = yardsticks.yardsticks()
    for cell, metric, tau in ((top1, "top1", 0.4), (top5, "top5", 0.3)):
        assert cell.tau == tau and cell.low is not None and cell.delta is not None
        s0 = sticks["imagenet", metric].s0("resnet18_imagenet")
        # a run of each side: two variances with 6 degrees of freedom, and tau
        error = math.sqrt(2 * s0**2 + tau**2)
        half = stats.t.ppf(0.95, error**4 / (2 * s0**4 / 6)) * error
        assert cell.delta - cell.low == pytest.approx(half)
    assert (top1.verdict, top5.verdict) == (Verdict.UNDECIDED, Verdict.DIFFERS)
    below = diff_text.format_diff(list(cells.values()))
    assert "With tau = 0.6 instead of 0.4 and 0.45 instead of 0.3" in below
    assert "tau = 0.4 for another origin (0.3 in top-5)" in below


def test_a_record_without_top5_is_no_number_of_such_a_row(tmp_path: Path) -> None:
    e = both_metrics(tmp_path)
    old = [{**r, "top5_last": None, "top5_best": None} for r in records_of(e)]
    found = diff.diff_table(e, kit.as_frame(old), published=kit.published_cells(e, kit.simple_value))
    cells = {c.label: c for c in found}
    assert cells["KD"].ours == 70.0 and cells["KD (top-5)"].ours is None
    assert "the record has no top-5" in cells["KD (top-5)"].reason


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('metric = "top5"', 'metric = "top2"', "unknown metric of small.toml, row 6: 'top2'"),
        ('shown = "error"', 'shown = "errors"', "unknown word in `shown` of small.toml: 'errors'"),
        ('shown = "error"', 'quick_dataset = "digit"', "unknown data set 'digit'"),
    ],
)
def test_wrong_words_are_named(tmp_path: Path, old: str, new: str, problem: str) -> None:
    text = kit.SMALL.replace("seeds = 3", 'seeds = 1\nshown = "error"') + ROWS
    with pytest.raises(InputError, match=problem):
        kit.small_table(tmp_path, text.replace(old, new, 1))


@pytest.mark.parametrize("name", TABLES)
def test_every_printed_number_of_a_table_has_a_cell(name: str) -> None:
    table = matrix.load_table(name)
    e, numbers = matrix.expand(table, "paper"), PublishedCells.read("imagenet")
    shown = {
        (x.metric, x.teacher, x.student, x.method)
        for c in e.cells
        if (x := numbers.of(table, c)) is not None and x.published_in == f"{table.paper}/{table.table}"
    }
    printed = {
        (x.metric, x.teacher, x.student, x.method)
        for x in reader.numbers()
        if x.published_in == f"{table.paper}/{table.table}" and x.dataset == "imagenet"
    }
    assert shown == printed


def test_dlkds_table_shows_its_competitors() -> None:
    table = matrix.load_table("dlkd-table3")
    numbers = PublishedCells.read("imagenet")
    cells = matrix.expand(table, "paper").cells
    values = {c.row.label: x.value for c in cells if (x := numbers.of(table, c)) is not None and x.value}
    errors = {label: round(100 - value, 2) for label, value in values.items()}
    assert len(errors) == 19
    assert errors["Teacher"] == 26.69 and errors["SSKD"] == 28.38 and errors["CRD+KD (top-5)"] == 9.51


def test_quick_runs_on_the_tables_data_set() -> None:
    e = matrix.expand(matrix.load_table("dlkd-table3"), "quick")
    assert {r.dataset for r in e.runs} == {"pictures"}
    head = render.lay_out(e, kit.as_frame([])).header.lines
    assert any("drawings" in line for line in head) and not any("digits" in line for line in head)
    assert {r.dataset for r in matrix.expand(matrix.load_table("dlkd-table1"), "quick").runs} == {"digits"}
