"""Runs without labels: MoCo-v2, and the students that learn from the network that it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_kit import SMALL, train, weights

import models
from benchmark import data
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run
from results.store import Store


def run_of(method: str, pair: str = "resnet14:resnet8", **settings: object) -> Run:
    teacher, student = pair.split(":")
    more = {f"{method}.queue": 32} if method != "dlkd" else {}
    overrides = tuple(sorted({**dict(SMALL), "recipe.train_images": 32, **more, **settings}.items()))
    return Resolver().run(Request("digits", "seed", "quick", teacher, student, method, overrides), 0)


def test_moco_is_bit_equal_when_resumed(tmp_path: Path) -> None:
    """The momentum encoder, the queue and its position are restored."""
    run = run_of("moco", "none:resnet8")
    assert [o.status for o in train([run], tmp_path / "whole")] == ["done"]
    assert [o.status for o in train([run], tmp_path / "twice", until=1)] == ["stopped"]
    assert [o.status for o in train([run], tmp_path / "twice")] == ["done"]
    for name in ("last.pt", "best.pt"):
        assert weights(run, tmp_path / "whole", name) == weights(run, tmp_path / "twice", name)
    curves = [Store(tmp_path / f).curve(run.key).drop(columns="seconds") for f in ("whole", "twice")]
    assert curves[0].equals(curves[1])


def test_moco_follows_its_own_schedule_under_every_protocol() -> None:
    r = Resolver().run(Request("cifar100", "crd", "paper", "none", "ResNet18", "moco"), 0).recipe
    assert (r.epochs, r.batch_size, r.lr, r.weight_decay) == (200, 256, 0.03, 1e-4)
    assert (r.schedule, r.augment, r.warm_up, r.milestones) == ("cosine", "contrast", 0, ())


WITHOUT_LABELS = {"dlkd.align": 10.0, "dlkd.corr": 20.0, "dlkd.sup": 0.0, "dlkd.ce": 0.0}


@pytest.mark.parametrize("method", ["moco", "dlkd"])
def test_no_label_is_learnt(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With permuted labels, only MoCo's classifier differs, and nothing of a DLKD student of its network."""
    run = run_of("moco", "none:resnet8") if method == "moco" else run_of("dlkd", **WITHOUT_LABELS)
    digits = data.load("digits")
    left = []
    for name, labels in (("true", digits.train.labels), ("permuted", digits.train.labels.roll(1))):
        split = data.Split(digits.train.images, labels)
        monkeypatch.setattr("benchmark.data.load", lambda *_, s=split: data.Dataset("digits", s, digits.test))
        assert [o.status for o in train([run], tmp_path / name)] == ["done"]
        left.append(torch.load(tmp_path / name / run.key / "last.pt", weights_only=True)["model"])
    differ = {k for k in left[0] if not torch.equal(left[0][k], left[1][k])}
    assert differ == ({"fc.weight", "fc.bias"} if method == "moco" else set())


def test_students_of_a_moco_teacher(tmp_path: Path) -> None:
    """They learn from its last epoch, which is kept with its projector even where no weights are."""
    seed = run_of("seed")
    ref = seed.teacher_ref
    assert ref is not None and ref.run is not None
    assert (ref.run.method, ref.run.protocol, ref.epoch) == ("moco", "seed", "last")
    assert run_of("dlkd", **WITHOUT_LABELS).teacher_ref == ref
    assert [o.status for o in train([ref.run], tmp_path, keep="none")] == ["done"]
    net = models.build("resnet14", 10)
    models.load_weights(net, tmp_path / ref.run.key / "last.pt")
    assert [tuple(p.shape) for p in net.projector.parameters()] == [(64, 64), (64,), (128, 64), (128,)]
    assert [o.status for o in train([seed], tmp_path)] == ["done"]
    record = Store(tmp_path).record(seed.key) or {}
    assert record["teacher_info"]["weights"] == models.weights_hash(net)
    # of the student's head alone: Linear(64, 64) and Linear(64, 128), with biases
    assert record["method_params"] == 64 * 64 + 64 + 64 * 128 + 128
