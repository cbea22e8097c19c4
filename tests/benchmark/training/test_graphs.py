"""Replayed steps are the eager steps, bit for bit: held on the CPU by a tape (tape.py) in the place of CUDA's graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tape import Tape
from training_kit import FP32, every_method, small_run, train, weights

from benchmark.bench.ours import open_active_runs, random_split
from benchmark.data.stream import Stream
from benchmark.spec.runs import Run
from benchmark.training import graphs
from benchmark.training.active_run import ActiveRun
from benchmark.training.execution import Execution
from benchmark.training.graphs import Graphs, what_the_host_knows
from benchmark.training.lockstep import Lockstep

IMAGES, BATCH, EPOCHS = 44, 16, 3  # two full batches and one of 12


def trained(runs: list[Run], folder: Path, made: Graphs | None, main: bool = True) -> list[ActiveRun]:
    """The runs after a few epochs of one stage."""
    split = random_split(IMAGES, 10, seed=0)
    teacher, items = open_active_runs(runs, split, FP32, folder, at_main_stage=main)
    stream = Stream(split, (0.5,) * 3, (0.5,) * 3, runs[0].spec.sampler, BATCH, False, seed=0)
    for epoch in range(EPOCHS):
        for item in items:
            item.begin_epoch()
        lockstep = Lockstep(items, teacher, FP32, graphs=made)
        for _ in lockstep.steps(stream, "main" if main else "init0", epoch + 1):
            pass
        for item in items:
            item.curve.append(item.meter.read())
            item.epoch += 1
    return items


def state(item: ActiveRun) -> dict[str, Any]:
    assert item.optimizer is not None
    student = {} if item.student is None else item.student.state_dict()
    momenta = {str(i): s["momentum_buffer"] for i, s in enumerate(item.optimizer.state.values())}
    return {"student": student, "objective": item.objective.state_dict(), "momenta": momenta}


def assert_same(a: ActiveRun, b: ActiveRun) -> None:
    if (
        "reviewkd" in a.run.method
    ):  # equal to rounding alone on the tape; which of its operators rounds otherwise there was not found out
        for x, y in zip(a.curve, b.curve, strict=True):
            assert x == pytest.approx(y, rel=1e-4)
        return
    assert a.curve == b.curve
    for part, found in state(a).items():
        for name, value in state(b)[part].items():
            assert torch.equal(found[name], value), f"{part} {name}"


@pytest.mark.parametrize("run", every_method(), ids=lambda r: r.method)
def test_every_method_replayed_is_every_method_stepped(run: Run, tmp_path: Path) -> None:
    for main in (True, False) if run.init_epochs else (True,):
        tape = Tape()
        (eager,) = trained([run], tmp_path / f"eager{main}", None, main)
        (replayed,) = trained([run], tmp_path / f"replayed{main}", Graphs(tape), main)
        assert_same(replayed, eager)
        assert tape.replays >= 2 * (EPOCHS * 2 - graphs.WARM), "the steps were not replayed"


def test_a_pack_of_several_sizes_and_views_is_each_alone(tmp_path: Path) -> None:
    runs = [small_run(m) for m in ("kd", "crd", "dlkd", "plain")]
    packed = trained(runs, tmp_path / "pack", Graphs(Tape()))
    for i, run in enumerate(runs):
        (alone,) = trained([run], tmp_path / f"alone{i}", None)
        assert_same(packed[i], alone)


def test_what_cannot_be_captured_is_stepped_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    asked: list[int] = []

    def refuse() -> bool:  # both batches' graphs, then the first item's are made; the second item's are not
        asked.append(1)
        return len(asked) == 3

    runs = [small_run(m) for m in ("kd", "crd")]
    items = trained(runs, tmp_path / "pack", Graphs(Tape(refuse), said.append))
    for i, run in enumerate(runs):
        (alone,) = trained([run], tmp_path / f"alone{i}", None)
        assert_same(items[i], alone)
    assert len(said) == 1 and "without a graph: operation not permitted when stream is capturing" in said[0]


@pytest.mark.parametrize(
    ("method", "settings"),
    [("dkd", {"dkd__warmup": 200}), ("reviewkd", {"reviewkd__warmup": 200}), ("ctkd", {"ctkd__rise": 200})],
)
def test_a_schedule_on_the_host_is_seen(method: str, settings: dict[str, Any], tmp_path: Path) -> None:
    run = small_run(method, recipe__epochs=6, **settings)
    said: list[str] = []
    (item,) = trained([run], tmp_path / "replayed", Graphs(Tape(), said.append))
    assert not said, "the graphs of a later epoch were refused"
    (eager,) = trained([run], tmp_path / "eager", None)
    assert_same(item, eager)
    item.objective.start_epoch(1)
    before = what_the_host_knows(item)
    item.objective.start_epoch(2)
    assert what_the_host_knows(item) != before


def test_the_trainer_with_graphs_is_the_trainer_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the initialisation stage, evaluations, checkpoints and a resumption."""
    runs = [small_run(m, recipe__epochs=4) for m in ("ft", "kd", "crd")]
    plain, taped = tmp_path / "plain", tmp_path / "taped"
    assert [o.status for o in train(runs, plain)] == ["done"] * 3
    tapes: list[Tape] = []

    def of(execution: Execution, told: Any) -> Graphs:
        tapes.append(Tape())
        return Graphs(tapes[-1], told)

    monkeypatch.setattr(graphs, "of", of)
    assert [o.status for o in train(runs, taped, until=3)] == ["stopped"] * 3
    assert [o.status for o in train(runs, taped)] == ["done"] * 3
    for run in runs:
        assert weights(run, plain) == weights(run, taped)
    assert sum(bool(t.captures) for t in tapes) >= 2


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The trainer with a tape in the place of CUDA's graphs. What it said."""
    said: list[str] = []
    monkeypatch.setattr(graphs, "of", lambda execution, told: Graphs(Tape(), said.append))
    return said


def test_a_run_that_catches_up_and_is_joined(tmp_path: Path, taped: list[str]) -> None:
    """The front was captured for the one that was behind; the items of the next epoch are more."""
    runs = [
        small_run(m, recipe__epochs=3, **{f"{m}__warmup": 0} if m == "dkd" else {}) for m in ("kd", "dkd")
    ]
    assert [o.status for o in train(runs[:1], tmp_path, until=1)] == ["stopped"]
    assert [o.status for o in train(runs, tmp_path)] == ["done", "done"]
    assert not taped


def test_an_initialisation_stage_that_reads_what_the_main_stage_reads(
    tmp_path: Path, taped: list[str]
) -> None:
    runs = [small_run(m, recipe__epochs=3) for m in ("at", "ft")]
    assert [(o.status, o.reason) for o in train(runs, tmp_path)] == [("done", "")] * 2
    assert not taped


def test_a_tensor_replaced_is_not_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.methods.kd import KD

    loss = KD.loss

    def keeps(self: Any, step: Any) -> Any:
        found = loss(self, step)
        past = getattr(self, "past", None)
        self.past = step.student.logits.detach()
        return (
            found
            if past is None or past.shape != self.past.shape
            else {k: v + 0 * past.sum() for k, v in found.items()}
        )

    monkeypatch.setattr(KD, "loss", keeps)
    said: list[str] = []
    trained([small_run("kd")], tmp_path, Graphs(Tape(), said.append))
    assert len(said) == 1 and "replaced by another" in said[0]
