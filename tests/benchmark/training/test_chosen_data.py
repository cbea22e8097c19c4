"""Training on a share of the images and with noisy labels."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from training_kit import FP32, small_run, train, weights

from benchmark import data
from benchmark.data import Split
from benchmark.spec.runs import Run
from benchmark.training.pack_trainer import PackTrainer
from results.store import Store

CHOICE: dict[str, Any] = {
    "recipe__share": 0.25,
    "recipe__subset": "random",
    "recipe__label_noise": 0.5,
    "recipe__noise_kind": "uniform",
}


ALL = {"recipe__train_images": 128}


def chosen(method: str = "crd+kd", **more: Any) -> Run:
    return small_run(method, **ALL, **CHOICE, **more)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the teacher, which is that of all images."""
    folder = tmp_path_factory.mktemp("teacher")
    assert [o.status for o in train(list(small_run("kd", **ALL).needs_runs), folder)] == ["done"]
    return folder


def copy_of(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def test_methods_get_the_chosen_images_and_labels(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CRD's banks have a row for each chosen image; the test set keeps its labels and its size."""
    folder = copy_of(teacher, tmp_path / "runs")
    run, seen = chosen(), []
    load_data = PackTrainer._load_data

    def spy(self: PackTrainer, first: Run) -> None:
        load_data(self, first)
        seen.append((self.images.train, self.images.test))

    monkeypatch.setattr(PackTrainer, "_load_data", spy)
    assert [o.status for o in train([run], folder, until=1)] == ["stopped"]
    digits = data.load("digits")
    ((images, test),) = seen
    expected = run.recipe.selection.apply(digits.train, seed=0, num_classes=10)
    assert len(images.labels) == 32 and torch.equal(images.labels, expected.labels)
    assert torch.equal(images.images, expected.images)
    assert torch.equal(test.labels, digits.test.labels[:32])
    state = torch.load(folder / run.key / "checkpoint.pt", weights_only=True)
    banks = [v for k, v in _tensors(state).items() if "bank" in k]
    assert len(banks) == 2 and all(b.shape[0] == 32 for b in banks)


def _tensors(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Return the tensors of nested dictionaries by their path."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    if not isinstance(value, dict):
        return {}
    return {k: t for key, v in value.items() for k, t in _tensors(v, f"{name}/{key}").items()}


def test_resumed_alone_and_in_a_pack_the_weights_are_the_same(teacher: Path, tmp_path: Path) -> None:
    run, a, b = chosen("kd"), copy_of(teacher, tmp_path / "a"), copy_of(teacher, tmp_path / "b")
    assert [o.status for o in train([run], a, until=1)] == ["stopped"]
    assert [o.status for o in train([run], a)] == ["done"]
    assert [o.status for o in train([chosen("at"), run], b)] == ["done", "done"]
    assert weights(run, a) == weights(run, b)
    record = Store(a).record(run.key)
    assert record is not None
    recipe = record["settings"]["recipe"]
    assert {name: recipe[name.removeprefix("recipe__")] for name in CHOICE} == CHOICE
    assert (recipe["train_images"], recipe["drawn_from"]) == (32, 128)
    assert record["images_per_second"] == pytest.approx(32 * 2 / record["share_seconds"], rel=0.01, abs=0.1)


def test_the_training_accuracy_is_that_of_the_noisy_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All images are of class 0; with the noise, not all labels are."""
    digits = data.load("digits")
    zeros = digits.train.labels == 0
    only = Split(digits.train.images[zeros], digits.train.labels[zeros])
    monkeypatch.setattr(
        data, "load", lambda *_: data.Dataset("digits", only, Split(only.images, only.labels))
    )
    noise = {"recipe__label_noise": 0.5, "recipe__noise_kind": "uniform", "recipe__epochs": 4}
    run = small_run("plain", **ALL, **noise)
    assert [o.status for o in train([run], tmp_path, FP32)] == ["done"]
    curve = Store(tmp_path).curve(run.key)
    assert curve is not None
    labels = run.recipe.selection.apply(only, seed=0, num_classes=10).labels
    at_best = 100 * float((labels == 0).double().mean())
    assert 40 < at_best < 70
    assert curve["test_acc"].iloc[-1] == 100
    assert curve["train_acc"].iloc[-1] == pytest.approx(at_best, abs=5)
