"""The registry of published numbers: valid, complete, and read as it is written."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pandas as pd
import pytest

import models
from results import published
from results.published import reader
from results.published.schema import NUMBERS, OriginKind, parse_origin, table_files
from results.published.validate import NETWORKS

SIMILAR = (
    *(
        "wrn_40_2:wrn_16_2",
        "wrn_40_2:wrn_40_1",
        "resnet56:resnet20",
        "resnet110:resnet20",
        "resnet110:resnet32",
    ),
    *("resnet32x4:resnet8x4", "vgg13:vgg8"),
)
CROSS = (
    *(
        "vgg13:MobileNetV2",
        "ResNet50:MobileNetV2",
        "ResNet50:vgg8",
        "resnet32x4:ShuffleV1",
        "resnet32x4:ShuffleV2",
    ),
    "wrn_40_2:ShuffleV1",
)
SSKD_SIMILAR = tuple(p for p in SIMILAR if not p.startswith("resnet110"))


def row(paper: str, table: str, method: str, pairs: tuple[str, ...]) -> list[float | None]:
    found = [published.value(paper, table, *pair.split(":"), method) for pair in pairs]
    assert all(x is not None for x in found)
    return [x.value for x in found if x is not None]


def test_the_registry_is_valid() -> None:
    assert published.validate() == []
    assert len(published.load()) == 3239 and len(published.papers()) == 41


@pytest.mark.parametrize(
    ("name", "count", "blank"),
    [
        ("crd/table1", 105, 1),
        ("crd/table2", 84, 0),
        ("sskd/table3", 65, 0),
        ("sskd/table4", 78, 0),
        ("dlkd/table1", 70, 5),
        ("dlkd/table2", 84, 5),
    ],
)
def test_the_six_tables_are_complete(name: str, count: int, blank: int) -> None:
    paper, table = name.split("/")
    found = published.cells(paper, table)
    assert len(found) == count and found["value"].isna().sum() == blank
    per_pair = found.groupby(["teacher", "student"])["method"].nunique()
    assert per_pair.nunique() == 1 and per_pair.sum() == count


def test_rows_as_they_are_published() -> None:
    assert row("crd", "table1", "kd", SIMILAR) == [74.92, 73.54, 70.66, 70.67, 73.08, 73.33, 72.98]
    assert row("crd", "table1", "teacher", SIMILAR) == [75.61, 75.61, 72.34, 74.31, 74.31, 79.42, 74.64]
    assert row("crd", "table2", "kd", CROSS) == [67.37, 67.35, 73.81, 74.07, 74.45, 74.83]
    assert row("sskd", "table3", "kd", SSKD_SIMILAR) == [74.92, 73.54, 70.66, 73.33, 72.98]
    assert row("sskd", "table4", "sskd", CROSS) == [71.53, 72.57, 75.76, 78.44, 78.61, 77.40]
    assert row("sskd", "table4", "teacher", CROSS) == [75.38, 79.10, 79.10, 79.63, 79.63, 76.46]
    assert row("dlkd", "table2", "sskd", CROSS) == row("sskd", "table4", "sskd", CROSS)
    assert row("dlkd", "table1", "dlkd", SSKD_SIMILAR) == [None] * 5
    assert row("lskd", "table2", "mlld+ls", ("resnet32x4:resnet8x4",)) == [78.28]
    assert published.value("pskd", "readme", "none", "DenseNet121", "ps-kd").value == 81.27  # type: ignore[union-attr]
    assert published.value("crd", "table1", "wrn_40_2", "wrn_16_2", "nope") is None


def test_provenance_of_the_six_tables() -> None:
    kd = published.value("crd", "table1", "wrn_40_2", "wrn_16_2", "kd")
    assert kd is not None
    assert (kd.year, kd.std, kd.n, kd.epochs, kd.rule) == (
        2020,
        0.28,
        5,
        240,
        "last",
    ) and "README.md:L80" in kd.source
    assert published.value("crd", "table2", "vgg13", "MobileNetV2", "sp").n == 3  # type: ignore[union-attr]
    copied = published.value("sskd", "table3", "wrn_40_2", "wrn_16_2", "kd")
    assert copied is not None
    assert (copied.origin, copied.rule, copied.value) == ("copied from crd/table1", "last", kd.value)
    fitnet = published.value("dlkd", "table1", "wrn_40_2", "wrn_16_2", "fitnet")
    assert fitnet is not None and "together with KD" in fitnet.recipe
    assert (fitnet.origin, fitnet.rule) == ("derived: copied from sskd/table3", "best")
    own = published.value("dlkd", "table1", "wrn_40_2", "wrn_16_2", "dlkd")
    assert own is not None and (own.value, own.rule) == (None, "unknown") and own.note.startswith("blank: ")


def test_names() -> None:
    assert "mlkd" not in published.papers()
    assert (
        published.tables("crd") == ("appendix", "table1", "table2", "transfer")
        and published.tables("nobody") == ()
    )
    wanted = {
        "crd",
        "sskd",
        "dlkd",
        "ttm",
        "dkd",
        "reviewkd",
        "lskd",
        "rltf",
        "hsakd",
        "simkd",
        "semckd",
        "dist",
    }
    wanted |= {
        "ctkd",
        "kdpp",
        "itrd",
        "norm",
        "wsld",
        "supermix",
        "selfkdlib",
        "pskd",
        "bake",
        "byot",
        "tfkd",
    }
    assert wanted <= set(published.papers())
    assert set(NETWORKS) - set(models.names()) == {"ResNet34", "none"}
    for path in table_files(NUMBERS):
        assert path.parent.name in published.papers()


def test_error_rates_are_converted_to_accuracies() -> None:
    notes = published.load().dropna(subset=["value"])
    errors = notes["note"].str.extract(r"as an error (?:of |\()([\d.]+)")[0]
    turned = notes[errors.notna()]
    assert len(turned) > 100
    assert ((turned["value"] + errors.dropna().astype(float) - 100).abs() < 1e-9).all()


def test_means_of_reproductions_are_those_of_their_runs() -> None:
    found = published.cells("reproductions", student="resnet8x4")
    for mean in found[found["n"] == 5].to_dict("records"):
        runs = found[
            (found["method"] == mean["method"])
            & found["origin"].str.startswith(f"part of reproductions/{mean['table']}: one of")
        ]
        if mean["table"].endswith("-best"):
            continue
        assert len(runs) == 5
        assert statistics.mean(runs["value"]) == pytest.approx(mean["value"], abs=0.0006)
        assert statistics.stdev(runs["value"]) == pytest.approx(mean["std"], abs=0.0006)


def test_a_copy_is_no_new_evidence() -> None:
    found = published.disagreements("resnet32x4", "resnet8x4", "kd")
    crd = found[found["result"] == "crd/table1"]
    assert len(crd) > 8 and set(crd["value"]) == {73.33} and (~crd["copy"]).sum() == 1
    assert {"sskd", "dlkd", "itrd"} <= set(crd["paper"])  # a copy of a copy too
    assert found.attrs["results"] == (~found["copy"]).sum() == 4 < len(found)
    assert found.attrs["spread"] == pytest.approx(74.42 - 72.86)
    assert found.attrs["spread_first_hand"] == pytest.approx(74.42 - 73.174)
    repeated = published.disagreements("vgg13", "vgg8", "reviewkd")
    assert not repeated.empty and repeated[~repeated["copy"]]["value"].is_unique
    assert published.disagreements("vgg13", "vgg8", "nope").attrs == {
        "spread": 0.0,
        "spread_first_hand": 0.0,
        "results": 0,
        "first_hand": 0,
    }


def test_every_cell_of_the_registry_can_be_shown() -> None:
    cells = (
        published.load()
        .dropna(subset=["value"])[["teacher", "student", "method", "dataset"]]
        .drop_duplicates()
    )
    for cell in cells.sample(60, random_state=0).itertuples(index=False):
        assert "spread" in published.format_cell(cell.teacher, cell.student, cell.method, cell.dataset) or (
            published.disagreements(cell.teacher, cell.student, cell.method, cell.dataset).empty
        )


def test_the_text_of_a_cell() -> None:
    text = published.format_cell("resnet32x4", "resnet8x4", "kd")
    assert "73.33 ± 0.25" in text and "= sskd/table3" in text and "24 published values of 4 results" in text
    assert "per-seed-4 73.40" in text  # not 73.4
    assert "erratum (sskd): the KD row equals CRD's" in text
    assert "no published top1" in published.format_cell("resnet32x4", "resnet8x4", "nope")


def test_errata_are_about_numbers_of_the_registry() -> None:
    errata = [(x, published.errata_of(x)) for x in reader.numbers()]
    for erratum in published.errata():
        about = [x for x, applied in errata if erratum in applied]
        assert about, erratum
        digits = re.match(r"published as (\d\d\.\d\d)", erratum["what"])
        if digits:
            assert {x.value for x in about} == {float(digits[1])}
    ctkd = published.value("ctkd", "readme", "resnet110", "resnet20", "kd")
    assert ctkd is not None and ctkd.value == 70.66  # as published here, not as in CRD
    assert any("70.67" in e["what"] for e in published.errata_of(ctkd))
    similar = published.value("crd", "table1", "vgg13", "vgg8", "kd")
    assert similar is not None and published.errata_of(similar) == []


def test_origins_are_taken_apart() -> None:
    assert parse_origin("run by this paper") == (OriginKind.RUN, "")
    assert parse_origin("derived: 100 - error") == (OriginKind.DERIVED, "")
    assert parse_origin("derived: copied from sskd/table3") == (OriginKind.COPY, "sskd/table3")
    assert parse_origin("part of a/b: one run") == (OriginKind.PART, "a/b")
    assert parse_origin("unknown: from a/b") == (OriginKind.UNKNOWN, "")
    assert parse_origin("copied") == (None, "")


def test_every_number_says_who_ran_it() -> None:
    numbers = reader.numbers()
    assert {x.origin_kind for x in numbers} == set(OriginKind)
    assert all((x.copied_from != "") == (x.origin_kind in ("copy", "part")) for x in numbers)
    copied = published.value("sskd", "table3", "wrn_40_2", "wrn_16_2", "kd")
    assert copied is not None and copied.origin_kind is OriginKind.COPY and copied.copied_from == "crd/table1"


def test_types() -> None:
    frame = published.load()
    assert tuple(frame.columns) == published.COLUMNS
    assert frame["value"].dtype == "float64" and frame["n"].dtype == "Int64" and frame["note"].notna().all()
    frame["value"] = 0.0
    assert published.load()["value"].max() > 1  # a caller changes only his copy
    assert isinstance(published.cells("crd", "table1"), pd.DataFrame) and published.cells("crd", "nope").empty


def add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_added", [])


HEADER = ",".join(published.COLUMNS)
MINE = "mine,2026,t1,cifar100,top1,resnet56,resnet20,my-kd,{value},,3,240,last,run by this paper,,our paper,"


def test_a_users_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch)
    path = tmp_path / "deep" / "t.csv"
    path.parent.mkdir()
    path.write_text(f"# our table\n{HEADER}\n{MINE.format(value=71.5)}\n", encoding="utf-8-sig")
    assert "mine" not in published.papers()
    monkeypatch.setenv("KD_PUBLISHED", str(tmp_path))
    assert published.value("mine", "t1", "resnet56", "resnet20", "my-kd").value == 71.5  # type: ignore[union-attr]
    assert published.validate() == []
    path.write_text(f"{HEADER}\n{MINE.format(value=72)}5\n{MINE.format(value=72)}\n")
    assert published.value("mine", "t1", "resnet56", "resnet20", "my-kd").value == 72  # type: ignore[union-attr]
    assert [line for line in published.validate() if "same cell" in line and f"{path}:3" in line]
    monkeypatch.delenv("KD_PUBLISHED")
    assert "mine" not in published.papers()
    published.add_folder(tmp_path)
    published.add_folder(str(tmp_path))
    assert len(published.cells("mine")) == 2
    with pytest.raises(published.PublishedError, match="no folder"):
        published.add_folder(tmp_path / "nothing")
    monkeypatch.setenv("KD_PUBLISHED", str(tmp_path / "nothing"))
    with pytest.raises(published.PublishedError, match="KD_PUBLISHED: there is no folder"):
        published.load()


def test_a_user_fills_in_a_blank_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch)
    before = len(published.load())
    cell = "dlkd,2020,table1,cifar100,top1,vgg13,vgg8,dlkd"
    filled = f"{cell},70.00,,,240,best,run by this paper,,the paper's table,"
    (tmp_path / "dlkd.csv").write_text(f"{HEADER}\n{filled}\n")
    (tmp_path / "errata.csv").write_text(
        "paper,table,teacher,student,method,what,source\ndlkd,table1,,,dlkd,mine,me\n"
    )
    published.add_folder(tmp_path)
    own = published.value("dlkd", "table1", "vgg13", "vgg8", "dlkd")
    assert own is not None and (own.value, own.rule) == (70.0, "best") and len(published.load()) == before
    assert published.validate() == []
    assert "mine" in {e["what"] for e in published.errata_of(own)}
