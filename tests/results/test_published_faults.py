"""Each rule of the registry's validator and each error of its reader finds a planted fault."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from results import published
from results.published.schema import NUMBERS, PublishedError, parse, read_rows

GOOD = next(read_rows(NUMBERS / "crd" / "table1.csv"))[1]


def plant(folder: Path, *rows: dict[str, str]) -> list[str]:
    """Return the problems of a folder with one valid row and changed copies of it."""
    folder.mkdir(exist_ok=True)
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, published.COLUMNS)
        writer.writeheader()
        writer.writerows([GOOD, *({**GOOD, "method": "kd", **changes} for changes in rows)])
    return published.validate(folder)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"method": "teacher"}, "the same cell"),
        ({"source": ""}, "source is blank"),
        ({"origin": ""}, "origin ''; allowed: run by"),
        ({"origin": "copied"}, "origin 'copied'"),
        ({"value": "175.1"}, "1 to 100"),
        ({"value": "0.75"}, "1 to 100"),
        ({"value": "", "note": ""}, "the note is too"),
        ({"value": "", "note": "N/A", "std": "0.3"}, "of a blank value"),
        ({"value": "many"}, "value = 'many'; allowed: a number"),
        ({"value": "nan"}, "value = 'nan'"),
        ({"value": "inf"}, "value = 'inf'"),
        ({"value": "74,92"}, "value = '74,92'"),
        ({"std": "12"}, "std 12"),
        ({"std": "-0.1"}, "std -0.1"),
        ({"n": "0"}, "n 0"),
        ({"n": "2.5"}, "n = '2.5'; allowed: a whole number"),
        ({"epochs": "0"}, "epochs 0"),
        ({"rule": "median"}, "rule = 'median'; allowed: last, best, unknown"),
        ({"rule": ""}, "rule = ''"),
        ({"metric": "mIoU"}, "metric 'mIoU'"),
        ({"dataset": "CIFAR"}, "dataset 'CIFAR'"),
        ({"dataset": "cifar-100"}, "allowed: cifar100"),
        ({"method": "KD"}, "method 'KD'; allowed: lower case"),
        ({"method": "k d"}, "method 'k d'"),
        ({"teacher": "resnet50"}, "teacher 'resnet50'; allowed: ResNet50"),
        ({"teacher": ""}, "teacher ''"),
        ({"student": "WRN-40-2"}, "student 'WRN-40-2'; allowed: wrn_40_2"),
        ({"student": "none"}, "student 'none'"),
        ({"paper": "My Paper"}, "paper 'My Paper'"),
        ({"table": "Table 1"}, "table 'Table 1'"),
        ({"year": "20"}, "year 20"),
        ({"year": "", "note": ""}, "year is blank"),
        ({"origin": "copied from crd/table9"}, "has no such cell"),
        ({"origin": "part of crd/table9: a run"}, "has no such cell"),
        (
            {"origin": "copied from crd/table1", "table": "x", "method": "teacher", "value": "10"},
            "where it is 75.61",
        ),
        ({"origin": "derived: copied from crd/table1", "table": "x", "value": "10"}, "where it is 74.92"),
        (
            {"origin": "copied from crd/table1", "table": "x", "value": "74.92", "rule": "best"},
            "rule 'best' of a number",
        ),
        ({"metric": "top5", "method": "teacher", "value": "70"}, "top1 75.61 is above top5 70.0"),
    ],
)
def test_each_fault_is_found(tmp_path: Path, changes: dict[str, str], problem: str) -> None:
    assert plant(tmp_path) == []
    found = plant(tmp_path, changes)
    assert any(problem in line and "t.csv:" in line for line in found), found


def test_a_fault_is_found_at_its_line_and_the_others_are_read(tmp_path: Path) -> None:
    found = plant(
        tmp_path, {"method": "at"}, {"method": "sp", "value": "many"}, {"method": "cc", "source": ""}
    )
    assert len(found) == 2
    assert "t.csv:4: value = 'many'" in found[0] and "t.csv:5: source is blank" in found[1]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("paper,table\nx,y\n", ":1: columns missing: year, dataset"),
        ("# ours\npaper,table\nx,y\n", ":2: columns missing"),
        ("", ":1: columns missing: paper"),
        (",".join([*published.COLUMNS, "valu"]) + "\n", "columns unknown: valu"),
        (";".join(published.COLUMNS) + "\n", "columns missing"),
        (",".join(published.COLUMNS) + "\n" + "x," * 17 + "x\n", ":2: more fields than the 17 columns"),
        (",".join(published.COLUMNS) + "\nx,y\n", ":2: fewer fields than the 17 columns"),
        (
            ",".join(published.COLUMNS) + '\n"x' + "," * 16 + "\n",
            "comma-separated values (unexpected end of data)",
        ),
    ],
)
def test_a_file_that_is_not_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert any(problem in line for line in published.validate(tmp_path)), published.validate(tmp_path)
    monkeypatch.setenv("KD_PUBLISHED", str(tmp_path))
    with pytest.raises(PublishedError) as error:
        published.load()
    assert problem in str(error.value) and "\n" not in str(error.value)


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(",".join(published.COLUMNS).encode() + b"\n\xff\xfe\n")
    assert any("not UTF-8" in line for line in published.validate(tmp_path))


def test_errors_of_types_name_file_line_and_what_is_allowed() -> None:
    for name, text in (("value", "x"), ("n", "3.0"), ("year", "MMXX"), ("rule", "first")):
        with pytest.raises(PublishedError, match=rf"t\.csv:7: {name} = '{text}'; allowed: "):
            parse(Path("t.csv"), 7, {**GOOD, name: text})


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("nobody,,,,kd,wrong,me", "paper 'nobody' has no table"),
        ("crd,,,,kd,,me", "what or source is blank"),
        ("crd,kd", "fewer fields"),
    ],
)
def test_faults_of_errata(tmp_path: Path, row: str, problem: str) -> None:
    (tmp_path / "errata.csv").write_text(f"paper,table,teacher,student,method,what,source\n{row}\n")
    assert any(problem in line and "errata.csv:2" in line for line in published.validate(tmp_path))


@pytest.mark.parametrize("text", ["7_3.3", "1e1", "٧٣", "0x10", "1" * 400])
def test_what_only_python_reads_as_a_number_is_refused(tmp_path: Path, text: str) -> None:
    (problem,) = plant(tmp_path, {"value": text})
    assert f"value = '{text}'; allowed: a number with a decimal point" in problem
    (problem,) = plant(tmp_path, {"n": text})
    assert f"n = '{text}'; allowed: a whole number" in problem


@pytest.mark.parametrize(
    ("changes", "meant"),
    [
        ({"student": "ShuffleNetV1"}, "ShuffleV1"),
        ({"student": "ShuffleNet-v2"}, "ShuffleV2"),
        ({"teacher": "W40-2"}, "wrn_40_2"),
        ({"teacher": "WRN40-2"}, "allowed: wrn_40_2"),
        ({"student": "WideResNet-16-2"}, "wrn_16_2"),
        ({"student": "R8x4"}, "resnet8x4"),
        ({"student": "MobileNet"}, "MobileNetV2"),
        ({"method": "fitnets"}, "fitnet"),
        ({"method": "vanilla"}, "student"),
        ({"method": "fitnets+kd"}, "fitnet+kd"),
    ],
)
def test_a_name_that_no_cell_has_is_named_with_the_one_that_was_meant(
    tmp_path: Path, changes: dict[str, str], meant: str
) -> None:
    (problem,) = plant(tmp_path, changes)
    (name,) = changes.values()
    assert f"'{name}'" in problem and (meant if "allowed" in meant else f"did you mean {meant}?") in problem


@pytest.mark.parametrize("changes", [{"student": "ResNet152"}, {"method": "mynewkd"}, {"student": "R2D2"}])
def test_other_names_are_allowed(tmp_path: Path, changes: dict[str, str]) -> None:
    assert plant(tmp_path, changes) == []


def test_a_name_of_the_users_own_is_right(tmp_path: Path) -> None:
    assert plant(tmp_path, {"method": "fitnets"}) != []
    assert published.validate(tmp_path, known=["fitnets"]) == []
