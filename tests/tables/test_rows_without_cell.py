"""Published values that no cell of their table takes are named with the name that was probably meant."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmark.__main__ import main
from benchmark.spec import matrix
from results.published.schema import COLUMNS
from tables.published_cells import rows_without_cell

TABLE = """
title = "Mine"
paper = "mine"
table = "t1"
dataset = "cifar100"
protocol = "crd"
seeds = 1
columns = ["wrn_40_2:ShuffleV1", "wrn_40_2:wrn_16_2"]
[[rows]]
label = "Teacher"
method = "teacher"
[[rows]]
label = "Student"
method = "student"
[[rows]]
label = "FitNet"
method = "fitnet"
"""
ROW = {
    **dict.fromkeys(COLUMNS, ""),
    "paper": "mine",
    "year": "2024",
    "table": "t1",
    "dataset": "cifar100",
    "metric": "top1",
    "teacher": "wrn_40_2",
    "student": "ShuffleV1",
    "method": "fitnet",
    "value": "73.3",
    "rule": "last",
    "origin": "run by this paper",
    "source": "test",
}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "numbers").mkdir()
    monkeypatch.setenv("KD_PUBLISHED", str(tmp_path / "numbers"))
    (tmp_path / "mine.toml").write_text(TABLE)
    return tmp_path / "mine.toml"


def publish(table: Path, *rows: dict[str, str]) -> None:
    with (table.parent / "numbers" / "t.csv").open("w", newline="") as f:
        writer = csv.DictWriter(f, COLUMNS)
        writer.writeheader()
        writer.writerows([{**ROW, **changes} for changes in rows])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student": "ShuffleNetV1"}, "network 'ShuffleNetV1' (did you mean ShuffleV1?)"),
        ({"teacher": "W40-2"}, "network 'W40-2' (did you mean wrn_40_2?)"),
        ({"method": "fitnets"}, "method 'fitnets' (did you mean fitnet?)"),
        ({"method": "vanilla", "teacher": "none"}, "method 'vanilla' (did you mean student?)"),
        ({"method": "fitnett"}, "method 'fitnett' (did you mean fitnet?)"),
        ({"method": "sp"}, "method 'sp'"),
        ({"student": "vgg8"}, "network 'vgg8'"),
        ({"teacher": "wrn_16_2"}, "pair wrn_16_2:ShuffleV1"),
    ],
)
def test_a_row_that_no_cell_takes_is_named(table: Path, changes: dict[str, str], said: str) -> None:
    publish(table, {}, changes)
    assert rows_without_cell(matrix.load_table(str(table))) == [
        f"mine: no cell takes 1 published value of {said}"
    ]


def test_rows_of_cells_are_not_named(table: Path) -> None:
    alone = {"teacher": "none", "student": "wrn_40_2", "method": "teacher"}
    publish(
        table, {}, alone, {"teacher": "none", "method": "student"}, {"student": "X", "dataset": "imagenet"}
    )
    assert rows_without_cell(matrix.load_table(str(table))) == []


def test_diff_says_it(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(table, {}, {"student": "ShuffleNetV1"}, {"student": "ShuffleNetV1", "method": "student"})
    (tmp_path / "runs").mkdir()
    argv = ["diff", str(table), "--profile", "paper", "--results", str(tmp_path / "runs")]
    for options in ([], ["--pairs", "wrn_40_2:wrn_16_2"]):
        assert main([*argv, *options]) == 0
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("note: mine: no cell takes 2 published values of network 'ShuffleNetV1'")


def test_the_tables_of_the_project_are_complete() -> None:
    for name in matrix.built_in_tables():
        assert rows_without_cell(matrix.load_table(name)) == [], name
