"""The table of shares of the training images, made from nothing."""

from __future__ import annotations

import csv
from pathlib import Path

from cli_kit import FAST

from benchmark.__main__ import main
from benchmark.spec.table_file import FOLDER


def test_reproduce_makes_the_few_shot_table(tmp_path: Path) -> None:
    """With smaller networks, which are not published."""
    text = (FOLDER / "hsakd-few-shot.toml").read_text(encoding="utf-8")
    table = tmp_path / "few.toml"
    table.write_text(text.replace("resnet56:resnet20", "resnet14:resnet8"), encoding="utf-8")
    argv = ["reproduce", str(table), *FAST, "--set", "recipe.train_images=48", "--methods", "kd"]
    argv += ["--device", "cpu", "--precision", "fp32", "--results", str(tmp_path / "results")]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    (path,) = (tmp_path / "out").glob("few-quick-set-*.csv")
    header = path.with_suffix(".md").read_text(encoding="utf-8")
    for images in (12, 24, 36):
        assert f"{images} of 48 images (stratified" in header
    rows = {row["label"]: row for row in csv.DictReader(path.open(encoding="utf-8"))}
    assert list(rows) == ["Teacher", *(f"{m} {s}%" for s in (25, 50, 75) for m in ("Student", "KD"))]
    assert all(row["state"] == "done" and row["last_mean"] for row in rows.values())
    assert len(list((tmp_path / "results").rglob("record.json"))) == 7
