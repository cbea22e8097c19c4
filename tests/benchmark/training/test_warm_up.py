"""The learning rate of Self-KD-Lib's recipe: it rises step by step, in eager steps and in replayed ones."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

import pytest
import torch
from tape import Tape
from training_kit import FP32, small_run, train, weights

from benchmark.bench.ours import open_active_runs, open_stream, random_split
from benchmark.spec import recipes
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request
from benchmark.training.active_run import ActiveRun
from benchmark.training.graphs import GraphStepper
from benchmark.training.lockstep import Lockstep
from benchmark.training.stepper import EagerStepper, Stepper


def selfkdlib_rate(epoch: int, step: int, steps: int) -> float:
    """The rule of the library's adjust_lr; epoch and step count from 0."""
    if epoch < 5:
        return 0.1 * (1 + step + epoch * steps) / (5 * steps)
    return float(0.1 * 0.1 ** bisect_right([100, 150], epoch - 5))


def test_the_published_schedule() -> None:
    run = Resolver().run(Request("cifar100", "selfkdlib", "paper", "none", "ResNet18", "plain"), 0)
    recipe, steps = run.recipe, 391
    assert recipe.nesterov and recipe.milestones == (105, 155) and recipe.warm_up == 5
    for epoch in range(200):
        for step in (0, 1, steps - 1):
            expected = selfkdlib_rate(epoch, step, steps)
            assert recipe.lr_at(epoch + 1, step + 1, steps) == pytest.approx(expected, rel=1e-12)
        assert recipe.lr_at(epoch + 1) == pytest.approx(selfkdlib_rate(epoch, steps - 1, steps), rel=1e-12)


def test_it_is_scaled_and_part_of_the_key_only_where_there_is_one() -> None:
    recipe = small_run("plain", protocol="selfkdlib").recipe
    assert (recipe.epochs, recipe.warm_up) == (2, 1) and recipe.settings()["warm_up"] == 1
    assert "warm_up" not in small_run("plain").recipe.settings()
    assert recipes.check_recipe_override("recipe.warm_up", "0") == 0
    without = small_run("plain", protocol="selfkdlib", recipe__warm_up=0)
    assert without.recipe.lr_at(1) == without.recipe.lr > recipe.lr_at(1, 1, 8)


def rates(stepper: Stepper, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], ActiveRun]:
    """The rates of all steps of three epochs, of which two warm up, and the run."""
    run, split = small_run("plain", recipe__warm_up=2, recipe__epochs=3), random_split(96, 10, seed=0)
    seen: list[float] = []
    begin_step = ActiveRun.begin_step

    def noted(active: ActiveRun) -> None:
        begin_step(active)
        assert active.optimizer is not None
        seen.append(active.optimizer.param_groups[0]["lr"].item())

    monkeypatch.setattr(ActiveRun, "begin_step", noted)
    _, (active,) = open_active_runs([run], split, FP32, folder)
    stream = open_stream(run, split)
    for epoch in range(3):
        active.begin_epoch(stream.steps("main", epoch + 1))
        for _ in stepper.steps(Lockstep([active], None, FP32), stream, "main", epoch + 1):
            pass
        active.end_epoch()
    monkeypatch.undo()
    return seen, active


def test_each_step_has_its_rate_eager_and_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tape = Tape()
    eager, eager_run = rates(EagerStepper(), tmp_path / "eager", monkeypatch)
    replayed, replayed_run = rates(GraphStepper(tape), tmp_path / "replayed", monkeypatch)
    lr = eager_run.run.recipe.lr
    steps = len(eager) // 3
    rise = [lr * (k + 1) / (2 * steps) for k in range(2 * steps)]
    assert eager_run.run.recipe.milestones == (2, 2, 3)
    expected = rise + [lr * 0.01] * steps
    assert steps > 3 and eager == replayed == pytest.approx(expected, rel=1e-6)
    assert tape.replays > steps
    assert eager_run.student is not None and replayed_run.student is not None
    ours, theirs = (run.student.state_dict() for run in (replayed_run, eager_run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_stopped_in_the_warm_up_is_resumed_bit_equal(tmp_path: Path) -> None:
    run = small_run("plain", protocol="selfkdlib", recipe__warm_up=2)
    train([run], tmp_path / "whole")
    assert [o.status for o in train([run], tmp_path / "parts", until=1)] == ["stopped"]
    train([run], tmp_path / "parts")
    assert weights(run, tmp_path / "whole") == weights(run, tmp_path / "parts")
