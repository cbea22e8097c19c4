"""The registry of printed numbers: sound, complete, and read as it is written."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from results import published
from results.published.reader import HERE, files, rows


def test_the_registry_is_sound() -> None:
    assert published.validate() == []
    assert len(published.load()) > 2500


@pytest.mark.parametrize(
    ("place", "count"),
    [
        ("crd/table1", 105),
        ("crd/table2", 84),
        ("sskd/table3", 65),
        ("sskd/table4", 78),
        ("dlkd/table1", 70),
        ("dlkd/table2", 84),
    ],
)
def test_the_six_tables_are_whole(place: str, count: int) -> None:
    paper, table = place.split("/")
    assert len(published.cells(paper, table)) == count


def test_printed_values() -> None:
    kd = published.value("crd", "table1", "wrn_40_2", "wrn_16_2", "kd")
    assert kd is not None and kd.value == 74.92 and kd.n == 5 and kd.rule == "last" and kd.source
    copied = published.value("sskd", "table3", "wrn_40_2", "wrn_16_2", "kd")
    assert (
        copied is not None
        and copied.value == kd.value
        and copied.origin == "copied from crd/table1"
        and copied.rule == "last"
    )
    own = published.value("dlkd", "table1", "wrn_40_2", "wrn_16_2", "dlkd")
    assert own is not None and own.value is None and "fill it in" in own.note
    assert published.value("crd", "table1", "wrn_40_2", "wrn_16_2", "nope") is None
    assert "mlkd" not in published.papers() and published.tables("crd") == ("appendix", "table1", "table2")


def test_a_copy_is_no_new_evidence() -> None:
    found = published.disagreements("resnet32x4", "resnet8x4", "kd")
    assert found["copy"].any() and not found["copy"].all()
    assert found.attrs["spread_own"] <= found.attrs["spread"]
    text = published.format_cell("resnet32x4", "resnet8x4", "kd")
    assert "crd/table1" in text and "spread" in text and "erratum (sskd)" in text
    assert "no printed" in published.format_cell("resnet32x4", "resnet8x4", "nope")


def planted(folder: Path, **changes: str) -> list[str]:
    row = next(rows(HERE / "crd" / "table1.csv"))[1]
    (folder / "mine").mkdir(exist_ok=True)
    with (folder / "mine" / "t.csv").open("w", newline="") as f:
        writer = csv.DictWriter(f, published.COLUMNS)
        writer.writeheader()
        writer.writerow(row)
        if changes:
            writer.writerow({**row, "method": "kd", **changes})
    return published.validate(folder)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"method": "teacher"}, "the same cell"),
        ({"source": ""}, "no source"),
        ({"origin": ""}, "no origin"),
        ({"value": "175.1"}, "1 to 100"),
        ({"value": ""}, "no note says why"),
        ({"value": "many"}, "value = 'many'"),
        ({"std": "12"}, "std 12"),
        ({"n": "0"}, "n 0"),
        ({"rule": "median"}, "rule = 'median'"),
        ({"metric": "mIoU"}, "metric 'mIoU'"),
        ({"dataset": "CIFAR"}, "dataset 'CIFAR'"),
        ({"method": "KD"}, "lower case"),
        ({"paper": "My Paper"}, "paper/table"),
        ({"year": "20"}, "year 20"),
        ({"origin": "copied from crd/table9"}, "has no such cell"),
        ({"origin": "copied from crd/table1", "table": "x", "method": "teacher", "value": "10"}, "where it is"),
    ],
)
def test_each_fault_is_found(tmp_path: Path, changes: dict[str, str], problem: str) -> None:
    assert planted(tmp_path) == []
    assert any(problem in line for line in planted(tmp_path, **changes))


def test_a_users_own_folder_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(tmp_path, paper="mine", table="t1", value="99.5")
    monkeypatch.setenv("KD_PUBLISHED", str(tmp_path / "mine"))
    assert "mine" in published.papers()
    (tmp_path / "mine" / "t.csv").write_text("paper,table\nx,y\n")
    assert any("columns missing" in line for line in published.validate(tmp_path))
    monkeypatch.setenv("KD_PUBLISHED", str(tmp_path / "nothing"))
    with pytest.raises(published.PublishedError, match="no folder"):
        published.load()


def test_curves_are_whole() -> None:
    found = published.curves("resnet56", "resnet20", "kd")
    assert list(found["epoch"]) == list(range(1, 241)) and found["train_loss"].iloc[0] == 11.8
    lengths = (
        published.curves().groupby(["recipe", "teacher", "student", "method", "run"])["epoch"].agg(["count", "max"])
    )
    assert (lengths["count"] == lengths["max"]).all() and len(lengths) == 65


def test_every_erratum_is_of_a_paper_that_is_there() -> None:
    assert {e["paper"] for e in published.errata()} <= set(published.papers())
    assert len(list(files(HERE))) > 50
