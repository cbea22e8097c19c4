"""Methods and combinations in the trainer: bit-equal alone and in a resumed pack."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_kit import FP32, LEARNING, small_run, train, weights

import models
from benchmark import data, methods
from benchmark.methods import MethodContext
from benchmark.spec.plan import pack_key
from benchmark.spec.runs import Run
from benchmark.training.evaluate import evaluate
from results.store import Store

COMBINED = ("kd+ls", "dkd+ls", "mlld+ls", "kd+kdpp", "semckd+kd")
COVERED = {"kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "nst", "crd", "dlkd"}  # in test_pack.py
SINGLE = tuple(
    n
    for n in methods.names()
    if n not in COVERED
    and not methods.get(n).is_wrapper()
    and methods.get(n).trains_student
    and not methods.get(n).init_epochs
    and not methods.get(n).requires(methods.get(n).Config())
    and methods.parse(n).needs_teacher
)
"""Methods without an initialisation stage or a teacher head, which other tests cover."""


def tiny(name: str) -> Run:
    return small_run(name, recipe__train_images=32, recipe__test_images=16)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Last weights of each method, trained in packs that were stopped after the first epoch and resumed."""
    folder = tmp_path_factory.mktemp("packed")
    packs: dict[object, list[str]] = {}
    for name in (*SINGLE, *COMBINED):
        packs.setdefault(pack_key(tiny(name)), []).append(name)
    for members in packs.values():
        assert {o.status for o in train([tiny(n) for n in members], folder, until=1)} == {"stopped"}
        assert {o.status for o in train([tiny(n) for n in members], folder)} == {"done"}
    return {n: weights(tiny(n), folder) for n in (*SINGLE, *COMBINED)}


@pytest.mark.parametrize("name", [*SINGLE, *COMBINED])
def test_the_weights_are_the_same_alone_and_in_the_resumed_pack(
    tmp_path: Path, packed: dict[str, str], name: str
) -> None:
    run = tiny(name)
    assert [o.status for o in train([run], tmp_path)] == ["done"]
    assert weights(run, tmp_path) == packed[name]


def test_methods_differ(packed: dict[str, str]) -> None:
    assert len(set(packed.values())) == len(packed)


def test_a_student_that_predicts_with_a_projector_is_tested_with_it(digits16: None, tmp_path: Path) -> None:
    """SimKD is tested with its projector and the teacher's classifier, which are saved with the student.

    The student's classifier has learnt nothing.
    """
    run = small_run("simkd", **LEARNING)
    (outcome,) = train([run], tmp_path)
    record, weights_file = Store(tmp_path).record(run.key) or {}, tmp_path / run.key / "last.pt"
    assert outcome.status == "done" and record["method_params"] > 0
    curve = Store(tmp_path).curve(run.key)
    assert curve is not None and curve["train_acc"].isna().all(), (
        "the accuracy of an untrained classifier would mislead"
    )

    student, teacher = models.build("resnet8", 10), models.build("resnet14", 10)
    infos = [models.info(n, 10) for n in ("resnet8", "resnet14")]
    context = MethodContext(
        *infos, student, teacher, torch.zeros(256, dtype=torch.int64), 10, 4, 16, torch.device("cpu")
    )
    method = methods.get("simkd")(run.spec.components[0].config, context)
    models.load_weights(student, weights_file)
    method.load_state_dict(torch.load(weights_file, weights_only=True)["at_test_simkd"])
    mean, std = (torch.tensor(run.settings["normalise"][k]) for k in ("mean", "std"))
    test = data.load("digits16").test.take(100)
    without = evaluate(student, test, mean, std, FP32)
    with_projector = evaluate(student, test, mean, std, FP32, method.eval().predict)
    assert with_projector.top1 == record["top1_last"] > 10 + without.top1


def test_dropout_in_a_methods_modules_is_the_same_after_a_resume(tmp_path: Path) -> None:
    """KD++ has a dropout where the embeddings differ in size."""
    run = small_run("kd+kdpp", teacher="MobileNetV2", recipe__train_images=32, recipe__test_images=20)
    assert [o.status for o in train([run], tmp_path / "once")] == ["done"]
    assert [o.status for o in train([run], tmp_path / "twice", until=1)] == ["stopped"]
    assert [o.status for o in train([run], tmp_path / "twice")] == ["done"]
    assert weights(run, tmp_path / "once") == weights(run, tmp_path / "twice")
