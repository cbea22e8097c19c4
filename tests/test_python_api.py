"""docs/python-api.md is true: its blocks run, and its evaluation gives the accuracy in the record."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmark.__main__ import main

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python-api.md"
TABLE = """
title = "One student"
paper = "none"
table = "t"
dataset = "cifar100"
protocol = "crd"
seeds = 1
columns = ["none:resnet8"]
[[rows]]
label = "Student"
method = "student"
"""


def test_the_blocks_run_and_evaluate_to_the_records_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESULTS", str(tmp_path / "runs"))
    (tmp_path / "one.toml").write_text(TABLE, encoding="utf-8")
    small = ["--set", "recipe.train_images=128", "--set", "recipe.test_images=100"]
    how = ["--precision", "fp32", "--device", "cpu", "--threads", "1"]
    assert main(["run", "one.toml", "--profile", "quick", *small, *how]) == 0
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["score"].top1 == pytest.approx(names["record"]["top1_last"])
    assert len(names["curve"]) == names["record"]["epochs"] == 2
    assert names["features"].logits.shape == (8, 10)
    assert len(names["table"].runs) == 1 + 5 + 5  # the teacher, and five seeds of the plain student and of KD
