"""SEED with a teacher that was trained without labels.

The teacher's classifier has no influence, and neither have the labels on the student's features.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_kit import LEARNING, SMALL, small_run, train

import models
from benchmark import data
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run, TeacherRef
from results.store import Store


def imported(folder: Path, classifier_seed: int) -> TeacherRef:
    """A checkpoint of a resnet14: always the same features, with a classifier drawn from the given seed."""
    torch.manual_seed(0)
    net = models.build("resnet14", 10)
    torch.manual_seed(classifier_seed)
    torch.nn.init.normal_(net.linear_head().weight, 0.0, 5.0)
    path = folder / f"teacher{classifier_seed}" / "resnet14.pth"
    models.save_weights(net, path)
    return TeacherRef("resnet14", weights=models.weights_hash(net), path=str(path))


def seed_run(ref: TeacherRef, labels: str) -> Run:
    overrides = tuple(sorted((*SMALL, ("seed.labels", labels), ("seed.queue", 64))))
    return Resolver({("digits", "resnet14"): ref}).run(
        Request("digits", "crd", "quick", "resnet14", "resnet8", "seed", overrides), 0
    )


def left(run: Run, folder: Path) -> dict[str, torch.Tensor]:
    """The student's weights by name."""
    return torch.load(folder / run.key / "last.pt", weights_only=True)["model"]


def test_the_student_does_not_depend_on_the_teachers_classifier(tmp_path: Path) -> None:
    runs = [seed_run(imported(tmp_path, k), "classifier") for k in (1, 2)]
    assert runs[0].key != runs[1].key
    for run in runs:
        assert [o.status for o in train([run], tmp_path / "runs")] == ["done"]
    a, b = (left(run, tmp_path / "runs") for run in runs)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("labels", ["classifier", "student"])
def test_the_students_features_do_not_depend_on_labels(
    labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained on true and permuted labels; with `labels=classifier`, only the classifier differs."""
    run = seed_run(imported(tmp_path, 1), labels)
    digits = data.load("digits")
    weights = []
    for name, split in (
        ("true", digits.train),
        ("permuted", data.Split(digits.train.images, digits.train.labels.roll(1))),
    ):
        monkeypatch.setattr("benchmark.data.load", lambda *_, s=split: data.Dataset("digits", s, digits.test))
        assert [o.status for o in train([run], tmp_path / name)] == ["done"]
        weights.append(left(run, tmp_path / name))
    differ = {k for k in weights[0] if not torch.equal(weights[0][k], weights[1][k])}
    assert differ == {"fc.weight", "fc.bias"} if labels == "classifier" else len(differ) > 20


def test_the_student_learns_the_teachers_features(digits16: None, tmp_path: Path) -> None:
    """The teacher has trained features and a classifier of noise.

    A probe on its student's features is far better than one on features that were not distilled (weight 0).
    """
    (teacher,) = small_run("kd", **LEARNING).needs_runs
    train([teacher], tmp_path)
    net = models.build("resnet14", 10)
    models.load_weights(net, tmp_path / teacher.key / "last.pt")
    torch.nn.init.normal_(net.linear_head().weight, 0.0, 5.0)
    models.save_weights(net, tmp_path / "resnet14.pth")
    ref = TeacherRef("resnet14", weights=models.weights_hash(net), path=str(tmp_path / "resnet14.pth"))
    resolver = Resolver({("digits16", "resnet14"): ref})
    top1 = []
    for weight in (1.0, 0.0):
        settings = {"seed__labels": "classifier", "seed__queue": 256, "seed__weight": weight}
        run = small_run("seed", resolver=resolver, **LEARNING, **settings)
        assert [o.status for o in train([run], tmp_path)] == ["done"]
        top1.append((Store(tmp_path).record(run.key) or {})["top1_best"])
    assert top1[0] > top1[1] + 10, top1
