"""Friedman's and Nemenyi's tests on ranks, against formulas and Demšar's critical values."""

from __future__ import annotations

import math
import random
import re

import pytest
import records_kit as kit
from scipy import stats

from benchmark.spec import matrix
from tables import cells, report_figures
from tables.critical_difference import caption, critical_difference, diagram, groups

_random = random.Random(3)
TOP1 = {
    m: [70 + i + _random.gauss(0, 1.5) for _ in range(14)] for i, m in enumerate(("kd", "at", "sp", "crd"))
}

Q = {3: 2.343, 4: 2.569, 5: 2.728, 10: 3.164}
"""Demšar's Table 5(a): critical values of Nemenyi's test at 0.05, by number of methods."""


def scores(pairs: int, methods: dict[str, list[float]] = TOP1) -> dict[str, dict[str, float]]:
    return {f"pair{i}": {m: values[i] for m, values in methods.items()} for i in range(pairs)}


def test_friedmans_test_by_its_formula() -> None:
    c = critical_difference(scores(14))
    assert c is not None
    n, k = 14, 4
    chi2 = 12 * n / (k * (k + 1)) * (sum(r**2 for r in c.mean_ranks) - k * (k + 1) ** 2 / 4)
    f = (n - 1) * chi2 / (n * (k - 1) - chi2)
    assert c.p == pytest.approx(stats.f.sf(f, k - 1, (k - 1) * (n - 1)))
    assert c.methods[0] == "crd" and sum(c.mean_ranks) == pytest.approx(k * (k + 1) / 2)


@pytest.mark.parametrize("k", Q)
def test_critical_difference_by_demsars_table(k: int) -> None:
    c = critical_difference(scores(6, {f"m{i}": [float(i + j) for j in range(6)] for i in range(k)}))
    assert c is not None
    assert c.critical == pytest.approx(Q[k] * math.sqrt(k * (k + 1) / (6 * 6)), rel=5e-4)


def test_groups_are_the_largest_runs_within_the_critical_difference() -> None:
    assert groups([1.0, 2.0, 3.0, 6.0], 1.5) == ((0, 1), (1, 2))
    assert groups([1.0, 2.0, 3.0], 5.0) == ((0, 2),)
    assert groups([1.0, 3.0, 5.0], 1.0) == ()


def test_the_same_order_everywhere_and_ties_everywhere() -> None:
    names = [f"m{i}" for i in range(6)]
    ordered = critical_difference(scores(7, {m: [float(-i)] * 7 for i, m in enumerate(names)}))
    assert ordered is not None and ordered.p < 1e-6 and len(ordered.groups) > 1
    tied = critical_difference(scores(7, {m: [1.0] * 7 for m in names}))
    assert tied is not None and tied.p == 1.0 and tied.groups == ((0, 5),)
    assert "not shown to differ" in caption(tied, "last epoch")


@pytest.mark.parametrize(("pairs", "shown"), [(4, False), (5, True)])
def test_shown_with_five_pairs_only(pairs: int, shown: bool) -> None:
    assert bool(report_figures._critical(scores(pairs), "last epoch")[0]) == shown
    two = {m: TOP1[m] for m in ("kd", "at")}
    assert report_figures._critical(scores(pairs, two), "last epoch") == ("", "")


def test_the_diagram_names_every_method_inside_its_picture() -> None:
    c = critical_difference(scores(14))
    assert c is not None
    picture = diagram(c)
    box = re.search(r'viewBox="0 0 (\d+) (\d+)"', picture)
    assert box is not None
    places = [(float(x), float(y)) for x, y in re.findall(r'<text x="([-\d.]+)" y="([-\d.]+)"', picture)]
    assert all(0 < x < float(box[1]) and 0 < y < float(box[2]) for x, y in places)
    assert all(f">{m} {r:.1f}<" in picture for m, r in zip(c.methods, c.mean_ranks, strict=True))


def test_each_group_of_rows_has_ranks_of_its_own() -> None:
    """A top-5 is larger than any top-1, and says nothing about a method of another row."""
    e = matrix.expand(matrix.load_table("dlkd-table3"), "quick", seeds=[0])
    runs = {run.key: run for cell in e.cells for run in cell.runs}
    records = [kit.record(run, 50.0, top5_last=90.0, top5_best=90.0) for run in runs.values()]
    results = cells.collect(e, kit.as_frame(records))
    page = report_figures.figures(e, results, [])
    titles = re.findall(r"<summary>(Ranks[^<]*)</summary>", page)
    assert titles == [f"Ranks of the methods over the pairs{group}" for group in ("", ", top-5")]
    for group, figure in zip(("", "top-5"), page.split("<summary>Ranks")[1:], strict=True):
        labels = re.findall(r'class="label"[^>]*>([^<]*)<', figure.partition("</details>")[0])
        ranked = {r.cell.row for r in results if r.n and r.cell.row.method not in cells.BASELINE_ROWS}
        assert sorted(labels) == sorted(row.label for row in ranked if row.group == group)
