"""The tables of linear probes, made from nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from cli_kit import SMALL, refused

from benchmark.__main__ import main
from benchmark.spec import matrix
from benchmark.spec.table_file import FOLDER

PROBE = [
    *("--set", "probe.epochs=1", "--set", "probe.train_images=24", "--set", "probe.test_images=20"),
    *("--set", "probe.size=16", "--set", "probe.k=3"),
]


def table(tmp_path: Path) -> Path:
    """Return CRD's table with smaller networks, on digits alone."""
    text = (FOLDER / "crd-transfer.toml").read_text(encoding="utf-8")
    text = text.replace("wrn_40_2:wrn_16_2", "resnet14:resnet8").replace(
        '"digits", "pictures"', '"", "digits"'
    )
    path = tmp_path / "transfer.toml"
    path.write_text(text.replace('protocol = "rrd"', 'protocol = "cached"'), encoding="utf-8")
    return path


def test_reproduce_makes_the_transfer_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [str(table(tmp_path)), *SMALL, *PROBE, "--methods", "kd", "--results", str(tmp_path / "results")]
    argv = [
        "reproduce",
        *common,
        "--threads",
        "1",
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--keep",
        "none",
    ]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    assert "all weights are kept" in capsys.readouterr().err
    (path,) = (tmp_path / "out").glob("transfer-quick-set-*.csv")
    rows = {row["label"]: row for row in csv.DictReader(path.open(encoding="utf-8"))}
    targets = ("STL-10", "TinyImageNet-200")
    assert list(rows) == [f"{label}, {t}" for t in targets for label in ("Teacher", "Student", "KD")]
    assert all(row["state"] == "done" and row["last_mean"] for row in rows.values())
    records = {p: p.stat().st_mtime_ns for p in (tmp_path / "results").rglob("record.json")}
    measures = [r for p in records if (r := json.loads(p.read_text())).get("measure")]
    assert len(records) == 6 and len(measures) == 3, "both targets are digits here, and measured once"
    assert rows["KD, STL-10"]["last_mean"] == rows["KD, TinyImageNet-200"]["last_mean"]

    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    assert "nothing to train" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in records} == records

    assert main(["diff", *common]) == 0
    text = capsys.readouterr().out
    assert "measured on the trained networks" in text and "knn_top1" in text and "probe_top1" not in text


def test_a_missing_target_is_noticed_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(tmp_path)
    path.write_text(path.read_text().replace('"stl10", ', "").replace('"", "digits"', '"digits"'))
    results = tmp_path / "results"
    argv = ["run", str(path), "--profile", "paper", "--methods", "kd", "--results", str(results)]
    assert "tinyimagenet is not there" in refused([*argv, "--data", str(tmp_path), "--device", "cpu"], capsys)
    assert not list(results.rglob("log.txt"))


def test_published_values_meet_their_cells() -> None:
    from tables.published_cells import PublishedCells

    for name, row, expected in (
        ("crd-transfer", "CRD+KD, STL-10", 72.2),
        ("crd-transfer", "Teacher, TinyImageNet-200", 31.5),
        ("crd-transfer", "DCD+KD, TinyImageNet-200", 36.2),
        ("hsakd-transfer", "HSAKD, TinyImageNet-200", 42.57),
        ("hsakd-transfer", "AB, STL-10", 67.82),
    ):
        loaded = matrix.load_table(name)
        numbers = PublishedCells.read(loaded.dataset)
        cells = {c.row.label: c for c in matrix.expand(loaded, "quick").cells}
        number = numbers.of(loaded, cells[row])
        assert number is not None and number.value == expected and number.metric == "probe_top1"
