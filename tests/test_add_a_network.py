"""The network of docs/add-your-own.md: once registered, it has every feature and trains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from benchmark.__main__ import main
from models import registry
from results.store import load

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "add-your-own.md").read_text(encoding="utf-8")
TABLE = """
title = "A network of one's own"
paper = "none"
table = "t"
dataset = "cifar100"
protocol = "crd"
seeds = 1
columns = ["resnet8:TinyNet"]
[[rows]]
label = "AT"
method = "at"
"""


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n# models/tinynet.py\n(.*?)```", TEXT, re.DOTALL)
    (line,) = re.findall(r'^    ("TinyNet": TinyNet,)$', TEXT, re.MULTILINE)
    names: dict[str, Any] = {"__name__": "tinynet"}
    exec(code, names)
    monkeypatch.setattr(registry, "NETWORKS", {**registry.NETWORKS, **eval(f"{{{line}}}", names)})


def test_it_has_every_feature(registered: None) -> None:
    net = models.build("TinyNet", num_classes=10).eval()
    images = torch.randn(2, 3, 32, 32)
    features = net.features(images)
    assert [tuple(stage.shape[1:]) for stage in features.stages] == [(8, 32, 32), (16, 16, 16), (32, 8, 8)]
    assert len(features.preacts) == 3 and features.embedding.shape == (2, 32)
    assert torch.equal(features.logits, net(images))


def test_it_trains_as_a_student(registered: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(TABLE, encoding="utf-8")
    small = [
        "--set",
        "recipe.train_images=96",
        "--set",
        "recipe.test_images=50",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    assert main(["run", "own.toml", "--profile", "quick", "--results", "runs", *small]) == 0
    frame = load(tmp_path / "runs")
    assert set(frame.student) == {"resnet8", "TinyNet"} and frame.top1_last.notna().all()
