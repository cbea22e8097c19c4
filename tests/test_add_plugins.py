"""The plug-ins of docs/add-your-own.md, exactly as printed: each is found and trains."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import models
from benchmark import data, methods
from benchmark.__main__ import main
from benchmark.spec import protocols, teacher_table
from results.store import load

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "add-your-own.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", TEXT, re.DOTALL))
PLUGINS = {name: text for name, text in BLOCKS.items() if name.startswith("plugins/")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "plugins").mkdir()
    for name, content in {**PLUGINS, "parity.toml": BLOCKS["parity.toml"]}.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KD_PLUGINS", "plugins")
    methods.clear_cache()
    yield tmp_path
    methods.clear_cache()


def test_the_page_has_one_of_each(folder: Path) -> None:
    assert "mse" in methods.names()
    assert {"TinyNet", "shufflenet_tv", "deit_ti"} <= set(models.names())
    assert data.info("parity").num_classes == 2 and data.info("parity").train_images == 1400
    long = protocols.get_protocol("long")
    assert (long.epochs, long.batch_size, long.schedule, long.mixup) == (480, 128, "cosine", 0.2)
    assert [(e.pair, e.table) for e in teacher_table.entries()] == [("", ""), ("resnet14:resnet8", "mytable")]


@pytest.mark.parametrize(
    ("name", "shapes", "preacts"),
    [
        ("TinyNet", [(8, 32, 32), (16, 16, 16), (32, 8, 8)], True),
        ("shufflenet_tv", [(48, 16, 16), (96, 8, 8), (192, 4, 4)], False),
        ("deit_ti", [(192, 8, 8)] * 3, False),
    ],
)
def test_a_network_gives_its_features(
    name: str, shapes: list[tuple[int, int, int]], preacts: bool, folder: Path
) -> None:
    net = models.build(name, num_classes=10).eval()
    images = torch.randn(2, 3, 32, 32)
    features = net.features(images)
    assert [tuple(stage.shape[1:]) for stage in features.stages] == shapes
    assert features.has("preacts") == preacts
    assert torch.equal(features.logits, net(images))
    assert torch.allclose(net.linear_head()(features.embedding), features.logits, atol=1e-5)
    info = models.info(name, 10)
    assert info.stage_shapes == tuple(shapes)
    if name == "deit_ti":  # 12 blocks of 12 d^2 + 13 d parameters, d = 192
        assert info.params == 12 * (12 * 192**2 + 13 * 192) + 192 * (3 * 16 + 1 + 1 + 65 + 2) + 193 * 10


def test_all_of_them_train_together(folder: Path) -> None:
    small = ["recipe.train_images=16", "recipe.test_images=8", "recipe.epochs=1", "recipe.batch_size=8"]
    options = [word for setting in small for word in ("--set", setting)]
    options += [
        "--profile",
        "quick",
        "--results",
        "runs",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--methods",
        "mse",
    ]
    assert main(["run", "parity.toml", *options]) == 0
    frame = load(folder / "runs")
    assert set(frame.dataset) == {"parity"} and (frame.status == "done").all()
    ours = frame[frame.method == "mse"]
    assert set(ours.student) == {"TinyNet", "shufflenet_tv", "deit_ti"} and set(ours.protocol) == {"long"}
