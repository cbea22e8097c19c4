"""Weak teachers are named before their students train, or refused; good ones are not evaluated twice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from training_kit import FP32, small_run, train

import models
from benchmark import data
from benchmark.errors import InputError
from benchmark.spec.imported import read_checkpoint
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run, TeacherRef
from benchmark.training import teacher_check
from benchmark.training.options import TrainingOptions
from benchmark.training.pack import train_pack
from benchmark.training.pack_data import PackData
from benchmark.training.reporter import Reporter
from results.store import Store

FULL = 10_000
"""The test images of CIFAR-100."""


class Notes(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def run_of(ref: TeacherRef | None, protocol: str = "crd", profile: str = "paper", **overrides: object) -> Run:
    imported = {} if ref is None else {("cifar100", ref.network): ref}
    settings = tuple((k.replace("__", "."), v) for k, v in overrides.items())
    request = Request("cifar100", protocol, profile, "resnet56", "resnet20", "kd", settings)
    return Resolver(imported).run(request, 0)


IMPORTED = TeacherRef("resnet56", weights="0" * 16, path="teachers/resnet56_x.pth")


@pytest.mark.parametrize(
    ("top1", "protocol", "images", "weakness"),
    [
        (1.03, "crd", FULL, teacher_check.Weakness.NEAR_CHANCE),
        (1.99, "crd", 256, teacher_check.Weakness.NEAR_CHANCE),
        (2.01, "crd", 256, None),
        # CRD publishes 72.34 for resnet56, SSKD 73.44
        (69.30, "crd", FULL, teacher_check.Weakness.BELOW_PUBLISHED),
        (69.40, "crd", FULL, None),
        (69.40, "sskd", FULL, teacher_check.Weakness.BELOW_PUBLISHED),
        (70.50, "sskd", FULL, None),
        (50.00, "crd", 256, None),
    ],
)
def test_an_imported_teacher_is_compared_with_chance_and_with_its_paper(
    top1: float, protocol: str, images: int, weakness: teacher_check.Weakness | None
) -> None:
    run = run_of(IMPORTED, protocol)
    assert run.teacher_ref is not None
    finding = teacher_check.weakness(run.teacher_ref, top1, run, images)
    assert (None if finding is None else finding.weakness) == weakness
    if finding is not None:
        published = {"crd": "72.34", "sskd": "73.44"}[protocol]
        near = finding.weakness is teacher_check.Weakness.NEAR_CHANCE
        other = "guessing has 1.00; its classes are probably in another order" if near else published
        assert f"top-1 {top1:.2f}" in finding.text and other in finding.text
        assert "resnet56_x.pth" in finding.text and "\n" not in finding.text
        assert teacher_check.must_refuse(finding, run.teacher_ref, run) == near


@pytest.mark.parametrize(
    ("profile", "overrides", "weak"),
    [("paper", {}, True), ("short", {}, False), ("paper", {"recipe__epochs": 2}, False)],
)
def test_a_teacher_of_ours_is_compared_only_if_it_was_trained_in_full(
    profile: str, overrides: dict[str, object], weak: bool
) -> None:
    run = run_of(None, profile=profile, **overrides)
    ref = run.teacher_ref
    assert ref is not None and ref.run is not None
    assert (teacher_check.weakness(ref, 60.0, run, FULL) is not None) == weak
    near_chance = teacher_check.weakness(ref, 1.0, run, FULL)
    assert (near_chance is not None) == (not overrides)
    assert near_chance is None or not teacher_check.must_refuse(near_chance, ref, run)
    quick = small_run("kd")
    assert quick.teacher_ref is not None
    assert teacher_check.weakness(quick.teacher_ref, 0.0, quick, 100) is None


@pytest.fixture
def shuffled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TeacherRef:
    """Write a teacher that always answers a class that no image has, and take digits for CIFAR-10."""
    monkeypatch.setitem(data.DATASETS, "cifar10", dataclasses.replace(data.info("digits"), name="cifar10"))
    torch.manual_seed(0)
    net = models.build("resnet14", 10)
    with torch.no_grad():
        net.linear_head().weight.zero_()
        net.linear_head().bias.copy_(torch.arange(10.0))
    models.save_weights(net, tmp_path / "resnet14.pth")
    return read_checkpoint(tmp_path / "resnet14.pth").ref()


def students(ref: TeacherRef, profile: str) -> list[Run]:
    overrides = (("recipe.epochs", 1), ("recipe.test_images", 20), ("recipe.train_images", 16))
    resolver = Resolver({("cifar10", ref.network): ref})
    request = Request("cifar10", "crd", profile, ref.network, "resnet8", "kd", overrides)
    return [resolver.run(request, seed) for seed in (0, 1)]


def test_an_imported_teacher_near_chance_teaches_only_if_the_user_accepts_it(
    shuffled: TeacherRef, tmp_path: Path
) -> None:
    runs, store = students(shuffled, "short"), Store(tmp_path / "runs")
    for run in runs:
        with pytest.raises(InputError, match=r"resnet14\.pth\) is near chance: .*--accept-weak-teacher"):
            train_pack([run], store, TrainingOptions(FP32))
        assert not store.is_done(run.key)
    options = TrainingOptions(FP32, accept_weak_teacher=True, reporter=Notes())
    for run in runs:
        assert [o.status for o in train_pack([run], store, options)] == ["done"]
    assert sum("near chance" in note for note in options.reporter.notes) == 1, "once, not in each pack"  # type: ignore[attr-defined]


def test_in_quick_it_is_named(shuffled: TeacherRef, tmp_path: Path) -> None:
    options = TrainingOptions(FP32, reporter=Notes())
    (run, _) = students(shuffled, "quick")
    assert [o.status for o in train_pack([run], Store(tmp_path / "runs"), options)] == ["done"]
    assert sum("near chance" in note for note in options.reporter.notes) == 1  # type: ignore[attr-defined]


def test_a_recorded_accuracy_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (small_run("kd", seed=seed, recipe__epochs=1) for seed in range(3))
    measured = []
    score = PackData.score

    def count(self: PackData, net: models.Network, *args: object) -> object:
        measured.append(net.name)
        return score(self, net, *args)  # type: ignore[arg-type]

    train([first], tmp_path)
    store = Store(tmp_path)
    assert first.teacher_ref is not None and first.teacher_ref.run is not None
    teacher = store.record(first.teacher_ref.run.key) or {}
    info = (store.record(first.key) or {})["teacher_info"]
    assert info["top1"] == teacher["top1_last"], "the digits of both ways are the same"
    monkeypatch.setattr(PackData, "score", count)
    train([second], tmp_path)
    assert "resnet14" not in measured and "resnet8" in measured
    store.write_record(teacher["key"], {**teacher, "threads": 7})
    train([third], tmp_path)
    assert "resnet14" in measured, "measured under other conditions, a digit may differ"
    assert (store.record(third.key) or {})["teacher_info"] == info
