"""`bench independent`: its loop makes the recipe's views and loss, and its comparison finds differences."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor

from benchmark import data
from benchmark.__main__ import main
from benchmark.bench import independent
from benchmark.bench.independent import Comparison, Curve, Independent, PilViews
from benchmark.bench.ours import build_teacher, open_active_runs, small_run
from benchmark.data.datasets import Split
from benchmark.data.views import RawBatch, View, every_variant, view_for
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request
from benchmark.training.execution import Execution


@pytest.fixture(scope="module")
def split() -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(3))


def test_pil_views_are_outcomes_of_the_recipe(split: Split) -> None:
    """Every PIL view is one of the 162 crops and flips of its image; rotated copies are turned before it."""
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    pil = PilViews(split, ["normal", "rotated", "second"], mean, std)
    variants = every_variant()
    normal: View = view_for("crop-flip", independent.NORMAL)
    for i in range(1, 3):
        views, label, index = pil[i]
        assert label == index == i
        assert {k: len(v) for k, v in views.items()} == {"normal": 1, "rotated": 3, "second": 1}
        copies = [(0, views["normal"][0]), (0, views["second"][0]), *enumerate(views["rotated"], start=1)]
        for turns, view in copies:
            image = split.images[i : i + 1]
            flipped = [torch.rot90(f, turns, (1, 2)) for f in (image, image.flip(2))]
            outcomes = torch.cat([_outcomes(f, normal, variants, mean, std) for f in flipped])
            assert float((outcomes - view).abs().amax(dim=(1, 2, 3)).min()) < 1e-5


def _outcomes(
    image: Tensor, normal: View, variants: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> Tensor:
    """All crops of an image that is not flipped any more."""
    crops = variants[variants[:, 2] == 0]
    labels = torch.zeros(len(crops), dtype=torch.int64)
    raw = RawBatch(
        image.expand(len(crops), -1, -1, -1), labels, labels, torch.tensor(mean), torch.tensor(std)
    )
    return normal.make(raw, crops, crops)


@pytest.mark.parametrize("method", ["plain", "kd", "at+kd", "crd", "dlkd", "dkd+ls"])
def test_the_loss_is_the_trainers(method: str, tmp_path: Path) -> None:
    """On the same features the independent sum of terms is the trainer's objective."""
    run = (
        small_run("plain")
        if method == "plain"
        else Resolver().run(Request("digits", "crd", "quick", "resnet14", "resnet8", method), 0)
    )
    dataset = data.load("digits")
    execution = Execution("cpu", "fp32", 1)
    teacher = build_teacher(run, execution) if run.teacher_ref is not None else None
    loop = Independent(run, dataset, teacher, seed=0, device=torch.device("cpu"))
    _, (active,) = open_active_runs([run], loop.train_split, execution, tmp_path, teacher=teacher)
    for name, module in zip(active.objective.methods, loop.methods, strict=True):
        module.load_state_dict(active.objective.method(name).state_dict())
        module.start_epoch(1)
    active.objective.start_epoch(1)
    views, labels, indices = next(iter(independent._batches(loop.loader, torch.device("cpu"))))
    step = loop._step(views, labels, indices, loop.needs)
    step.generator = torch.Generator().manual_seed(1)
    ours = loop._total(step)
    step.generator = torch.Generator().manual_seed(1)
    theirs, _ = active.objective(dict.fromkeys(active.objective.methods, step) or {"": step})
    assert math.isfinite(float(ours.detach()))
    torch.testing.assert_close(ours, theirs)


def test_methods_that_the_loop_cannot_train() -> None:
    assert "sampler halves" in independent.why_not(small_run("dlb"))
    assert "sskd_head" in independent.why_not(small_run("sskd"))
    assert independent.why_not(small_run("ft")) == independent.why_not(small_run("kd")) == ""


def test_passes_that_the_loop_does_not_make() -> None:
    assert "train mode" in independent.why_not(small_run("ofd"))
    run = Resolver().run(
        Request("digits", "crd", "quick", "none", "resnet8", "plain", (("recipe.warm_up", 1),)), 0
    )
    assert "warm-up" in independent.why_not(run)


def test_an_evaluation_changes_no_method(tmp_path: Path) -> None:
    """SimKD predicts by a projector with batch norms, whose mode and statistics count at test time."""
    overrides = (("recipe.train_images", 32), ("recipe.test_images", 20))
    run = Resolver().run(Request("digits", "crd", "quick", "resnet14", "resnet8", "simkd", overrides), 0)
    loop = Independent(
        run,
        data.load("digits"),
        build_teacher(run, Execution("cpu", "fp32", 1)),
        seed=0,
        device=torch.device("cpu"),
    )
    (method,) = loop.methods
    method.train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    loop.test()
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert not any(module.training for module in method.modules())


def test_an_initialisation_stage_trains_what_the_method_names() -> None:
    run = Resolver().run(
        Request("digits", "crd", "quick", "resnet14", "resnet8", "ft", (("recipe.train_images", 32),)), 0
    )
    teacher = build_teacher(run, Execution("cpu", "fp32", 1))
    loop = Independent(run, data.load("digits"), teacher, seed=0, device=torch.device("cpu"))
    before = {k: v.clone() for k, v in loop.student.state_dict().items()}
    (method,) = loop.methods
    modules = list(method.init_modules(loop.student))
    weights = [p.detach().clone() for m in modules for p in m.parameters()]
    loop._init_stage(method, method.init_needs(method.config), 1)
    assert all(torch.equal(v, before[k]) for k, v in loop.student.state_dict().items())
    trained = [p for m in modules for p in m.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(weights, trained, strict=True))


def test_the_comparison() -> None:
    """Welch's t against scipy's, and no spread at all."""
    a, b = (60.0, 61.0, 62.5), (50.0, 51.0, 50.5)
    (train, test, loss) = independent.compare(
        "KD", [Curve([x], [50.0], [2.0, x / 10]) for x in a], [Curve([x], [50.0], [x / 10]) for x in b]
    )
    low, high, p = train.welch()
    scipy = stats.ttest_ind(a, b, equal_var=False)
    assert p == pytest.approx(scipy.pvalue) and p < 0.01
    assert (low, high) == pytest.approx(tuple(scipy.confidence_interval(0.95)))
    assert test.welch() == (0.0, 0.0, 1.0)
    assert loss.measure == "train loss" and loss.welch() == pytest.approx((low / 10, high / 10, p))
    accuracies = independent.compare("KD", [Curve([60.0], [50.0])], [Curve([60.0], [50.0], [2.0])])
    assert [c.measure for c in accuracies] == ["train accuracy", "test accuracy"]
    assert Comparison("KD", "test", (51.0, 51.0), (50.0, 50.0)).welch() == (1.0, 1.0, 0.0)


TABLE = """
title = "Three rows"
paper = "dlkd"
table = "table1"
dataset = "cifar100"
protocol = "dlkd"
seeds = 1
columns = ["resnet14:resnet8"]
rows = [
    { label = "Student", method = "student" },
    { label = "KD", method = "kd" },
    { label = "SSKD", method = "sskd" },
]
"""


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It writes its report and its plot; a second call trains nothing."""
    table = tmp_path / "three.toml"
    table.write_text(TABLE)
    command = [
        *("bench", "independent", str(table), "--profile", "quick"),
        *("--methods", "kd,sskd", "--set", "recipe.train_images=32", "--set", "recipe.test_images=32"),
        *("--set", "recipe.epochs=1", "--results", str(tmp_path / "runs"), "--precision", "fp32"),
        *("--json", str(tmp_path / "report.json"), "--plot", str(tmp_path / "curves.png")),
    ]
    assert main([*command, "--seeds", "1"]) == 2
    assert "give 2 or more" in capsys.readouterr().err
    assert main([*command, "--seeds", "2"]) in (0, 1)
    captured = capsys.readouterr()
    assert "left out: SSKD: the independent loop cannot train it" in captured.err
    assert "| KD " in captured.out and (tmp_path / "curves.png").stat().st_size > 1000
    report = json.loads((tmp_path / "report.json").read_text())["independent"]
    assert set(report["curves"]) == {"Student", "KD"} and len(report["curves"]["KD"]["independent"]) == 2
    assert main([*command, "--seeds", "2"]) in (0, 1)
    again = capsys.readouterr()
    assert "nothing to train" in again.err and "epoch 1 of 1" not in again.err
    assert json.loads((tmp_path / "report.json").read_text())["independent"] == report
