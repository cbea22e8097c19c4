"""Every method and some combinations learn: on digits, each ends well above the untrained student."""

from __future__ import annotations

import pytest
import torch
from training_kit import FP32, LEARNING, small_run, train

from benchmark import data, methods
from benchmark.spec.plan import pack_key
from benchmark.spec.runs import Run, skip_reason
from benchmark.training.active_run import ActiveRun
from benchmark.training.evaluate import evaluate
from results.store import Store

COMBINATIONS = ("plain", "at+kd", "crd+kd", "kd+ls", "kd+kdpp", "kd+at+sp")
SINGLE = tuple(
    n for n in methods.names() if methods.get(n).trains_student and not methods.get(n).is_wrapper()
)
SPECIAL = {
    "catkd": {"recipe__epochs": 12},
    "iusp": {"recipe__lr": 0.02},
    "semckd": {"recipe__lr": 0.01, "recipe__epochs": 8},
    "moco": {"moco__queue": 256, "moco__momentum": 0.99, "recipe__lr": 0.03, "recipe__epochs": 8},
}
"""Settings of methods that need others to learn here.

SemCKD's weight of 400 makes the first steps with batches of 16 diverge at a learning rate of 0.05; IUSP
learns slowly there, and so does CAT-KD. MoCo's queue and momentum are for millions of images.
"""

MORE = 20
"""How much better than the untrained student, in points of top-1; the least that was measured is 30."""
MORE_WITHOUT_LABELS = 10
"""For MoCo (measured: 21), whose top-1 is that of a classifier on features that learn no label."""


@pytest.fixture(scope="module")
def learned(digits16_early: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float]]:
    """All of them, trained in as few packs as possible: name -> outcome and best top-1."""
    folder = tmp_path_factory.mktemp("learned")
    store = Store(folder)
    packs: dict[object, list[tuple[str, Run]]] = {}
    for name in (*COMBINATIONS, *SINGLE):
        run = small_run(name, **{**LEARNING, **SPECIAL.get(name, {})})
        assert skip_reason(run) is None, name
        packs.setdefault(pack_key(run), []).append((name, run))
    results = {}
    for pack in packs.values():
        outcomes = train([run for _, run in pack], folder)
        for (name, run), outcome in zip(pack, outcomes, strict=True):
            results[name] = (
                outcome.status + outcome.reason,
                float((store.record(run.key) or {}).get("top1_best") or 0),
            )
    return results


@pytest.fixture(scope="module")
def start(digits16_early: None, tmp_path_factory: pytest.TempPathFactory) -> float:
    """The plain student's top-1 before any training (chance, 10%)."""
    test = data.load("digits16").test
    run = small_run("plain", **LEARNING)
    mean, std = (torch.tensor(run.settings["normalise"][k]) for k in ("mean", "std"))
    fresh = ActiveRun.open(run, tmp_path_factory.mktemp("fresh"), FP32, None, test.labels, {}).student
    assert fresh is not None
    return evaluate(fresh, test, mean, std, FP32).top1


@pytest.mark.parametrize("method", [*COMBINATIONS, *SINGLE])
def test_it_learns(learned: dict[str, tuple[str, float]], start: float, method: str) -> None:
    status, best = learned[method]
    assert status == "done"
    assert best > start + (MORE_WITHOUT_LABELS if method == "moco" else MORE), (method, start, best)
