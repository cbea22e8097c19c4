"""`teachers`: what is measured of an imported checkpoint, by class too, and where the list finds it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import models
from benchmark.__main__ import main
from benchmark.evaluate import per_class, score

ROOT = Path(__file__).resolve().parents[2]


def test_accuracy_by_class_counts_each_class_by_itself() -> None:
    labels = torch.tensor([0, 0, 0, 2, 2, 3])
    z = torch.eye(4)[torch.tensor([0, 0, 1, 2, 2, 0])]
    z[3] = math.nan  # a prediction that is no number is wrong
    found = per_class(z, labels)
    assert found[0] == pytest.approx(200 / 3) and found[2:] == [50.0, 0.0] and math.isnan(found[1])
    z, labels = torch.randn(50, 5), torch.arange(50) % 5
    assert sum(per_class(z, labels)) / 5 == pytest.approx(score(z, labels).top1)


def test_a_checkpoint_is_measured_once_and_listed_with_its_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    models.save_weights(models.build("resnet14", 10), tmp_path / "resnet14.pth")
    argv = ["teachers", "--dataset", "digits", "--profile", "short", "--teachers", str(tmp_path), "--results", str(tmp_path / "runs")]
    assert main([*argv, "--test", "--per-class"]) == 0
    out = capsys.readouterr().out
    assert "tested" in out and "top-1 by class" in out
    assert main([*argv, "--profile", "paper", "--json"]) == 0, "another profile finds it too"
    (row,) = [r for r in json.loads(capsys.readouterr().out) if r["origin"].startswith("imported")]
    assert row["state"] == "tested" and set(row["per_class"]) == set("0123456789")


def test_the_reference_teacher_is_listed_as_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ROOT / "results" / "reference" / "teachers"
    assert main(["teachers", "--teachers", str(folder), "--results", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"wrn_40_2", "resnet56"} <= {r["network"] for r in rows} and "crnn_64" not in {r["network"] for r in rows}
    (row,) = [r for r in rows if r["origin"].startswith("imported")]
    assert row["state"] == "tested (reference results)" and row["top1_best"] == 73.44 in row["published"]
    assert len(row["per_class"]) == 100 and sum(row["per_class"].values()) / 100 == pytest.approx(73.44)
