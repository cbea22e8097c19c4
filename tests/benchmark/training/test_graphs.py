"""Replayed steps equal eager steps bit for bit. A tape on the CPU (tape.py) stands in for CUDA graphs."""

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
from benchmark.training.graphs import GraphStepper, step_constants
from benchmark.training.lockstep import Lockstep
from benchmark.training.stepper import EagerStepper, Stepper

IMAGES, BATCH, EPOCHS = 22, 8, 3  # two full batches and one of 6


def trained(runs: list[Run], folder: Path, stepper: Stepper, main: bool = True) -> list[ActiveRun]:
    """The runs after a few epochs of one stage."""
    split = random_split(IMAGES, 10, seed=0)
    teacher, active_runs = open_active_runs(runs, split, FP32, folder, at_main_stage=main)
    stream = Stream(
        split,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        sampler=runs[0].spec.sampler,
        batch_size=BATCH,
        drop_last=False,
        seed=0,
    )
    for epoch in range(EPOCHS):
        for active in active_runs:
            active.begin_epoch()
        lockstep = Lockstep(active_runs, teacher, FP32)
        for _ in stepper.steps(lockstep, stream, "main" if main else "init0", epoch + 1):
            pass
        for active in active_runs:
            active.curve.append(active.meter.read())
            active.epoch += 1
    return active_runs


def state(active: ActiveRun) -> dict[str, Any]:
    assert active.optimizer is not None
    student = {} if active.student is None else active.student.state_dict()
    momenta = {str(i): s["momentum_buffer"] for i, s in enumerate(active.optimizer.state.values())}
    return {"student": student, "objective": active.objective.state_dict(), "momenta": momenta}


def assert_same(a: ActiveRun, b: ActiveRun) -> None:
    # on the tape, ReviewKD is equal only up to rounding; which operator rounds differently is not known
    if "reviewkd" in a.run.method:
        for x, y in zip(a.curve, b.curve, strict=True):
            assert x == pytest.approx(y, rel=1e-4)
        return
    assert a.curve == b.curve
    for part, tensors in state(a).items():
        for name, value in state(b)[part].items():
            assert torch.equal(tensors[name], value), f"{part} {name}"


@pytest.mark.parametrize("run", every_method(), ids=lambda r: r.method)
def test_every_method_is_the_same_replayed_and_eager(run: Run, tmp_path: Path) -> None:
    for main in (True, False) if run.init_epochs else (True,):
        tape = Tape()
        (eager,) = trained([run], tmp_path / f"eager{main}", EagerStepper(), main)
        (replayed,) = trained([run], tmp_path / f"replayed{main}", GraphStepper(tape), main)
        assert_same(replayed, eager)
        assert tape.replays >= 2 * (EPOCHS * 2 - graphs.WARM_UP_STEPS), "the steps were not replayed"


def test_runs_of_a_replayed_pack_equal_eager_runs_alone(tmp_path: Path) -> None:
    runs = [small_run(m) for m in ("kd", "crd", "dlkd", "plain")]
    packed = trained(runs, tmp_path / "pack", GraphStepper(Tape()))
    for i, run in enumerate(runs):
        (alone,) = trained([run], tmp_path / f"alone{i}", EagerStepper())
        assert_same(packed[i], alone)


def test_a_run_that_cannot_be_captured_is_stepped_eagerly(tmp_path: Path) -> None:
    notes: list[str] = []
    asked: list[int] = []

    def refuse() -> (
        bool
    ):  # the third capture: the first is a batch's, the second one run's, the third the other run's
        asked.append(1)
        return len(asked) == 3

    runs = [small_run(m) for m in ("kd", "crd")]
    active_runs = trained(runs, tmp_path / "pack", GraphStepper(Tape(refuse), notes.append))
    for i, run in enumerate(runs):
        (alone,) = trained([run], tmp_path / f"alone{i}", EagerStepper())
        assert_same(active_runs[i], alone)
    assert len(notes) == 1 and "without a graph: operation not permitted when stream is capturing" in notes[0]


@pytest.mark.parametrize(
    ("method", "settings"),
    [("dkd", {"dkd__warmup": 200}), ("reviewkd", {"reviewkd__warmup": 200}), ("ctkd", {"ctkd__rise": 200})],
)
def test_a_schedule_on_the_host_takes_effect(method: str, settings: dict[str, Any], tmp_path: Path) -> None:
    run = small_run(method, recipe__epochs=6, **settings)
    notes: list[str] = []
    (active,) = trained([run], tmp_path / "replayed", GraphStepper(Tape(), notes.append))
    assert not notes, "the graphs of a later epoch were refused"
    (eager,) = trained([run], tmp_path / "eager", EagerStepper())
    assert_same(active, eager)
    active.objective.start_epoch(1)
    before = step_constants(active)
    active.objective.start_epoch(2)
    assert step_constants(active) != before


def test_the_trainer_gives_the_same_weights_with_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Including an initialisation stage, evaluations, checkpoints and a resumed run."""
    runs = [small_run(m, recipe__epochs=4) for m in ("ft", "kd", "crd")]
    plain, taped = tmp_path / "plain", tmp_path / "taped"
    assert [o.status for o in train(runs, plain)] == ["done"] * 3
    tapes: list[Tape] = []

    def taped_stepper(execution: Execution, note: Any) -> GraphStepper:
        tapes.append(Tape())
        return GraphStepper(tapes[-1], note)

    monkeypatch.setattr(graphs, "stepper_for", taped_stepper)
    assert [o.status for o in train(runs, taped, until=3)] == ["stopped"] * 3
    assert [o.status for o in train(runs, taped)] == ["done"] * 3
    for run in runs:
        assert weights(run, plain) == weights(run, taped)
    assert sum(bool(t.captures) for t in tapes) >= 2


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The trainer steps with a tape instead of CUDA graphs. Returns its notes."""
    notes: list[str] = []
    monkeypatch.setattr(graphs, "stepper_for", lambda execution, note: GraphStepper(Tape(), notes.append))
    return notes


def test_a_run_that_is_behind_catches_up_and_is_joined(tmp_path: Path, taped: list[str]) -> None:
    """The batch slot was captured for one run; in the next epoch, two runs read it."""
    runs = [
        small_run(m, recipe__epochs=3, **{f"{m}__warmup": 0} if m == "dkd" else {}) for m in ("kd", "dkd")
    ]
    assert [o.status for o in train(runs[:1], tmp_path, until=1)] == ["stopped"]
    assert [o.status for o in train(runs, tmp_path)] == ["done", "done"]
    assert not taped


def test_an_initialisation_stage_may_read_what_the_main_stage_reads(tmp_path: Path, taped: list[str]) -> None:
    runs = [small_run(m, recipe__epochs=3) for m in ("at", "ft")]
    assert [(o.status, o.reason) for o in train(runs, tmp_path)] == [("done", "")] * 2
    assert not taped


def test_a_tensor_that_is_replaced_between_epochs_takes_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark.methods.at import AT

    loss = AT.loss

    def start(self: Any, epoch: int) -> None:
        self.share = torch.tensor(1 / epoch)

    def scaled(self: Any, step: Any) -> Any:
        return {name: value * self.share for name, value in loss(self, step).items()}

    monkeypatch.setattr(AT, "start_epoch", start)
    monkeypatch.setattr(AT, "loss", scaled)
    (eager,) = trained([small_run("at")], tmp_path / "eager", EagerStepper())
    (replayed,) = trained([small_run("at")], tmp_path / "replayed", GraphStepper(Tape()))
    assert_same(replayed, eager)


def test_a_step_begins_after_what_its_epoch_has_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a warm-up, `begin_epoch` and `begin_step` write the learning rate, on two streams."""
    events: list[str] = []
    tape, begin_step = Tape(), ActiveRun.begin_step

    def begin(self: ActiveRun) -> None:
        events.append("begin")
        begin_step(self)

    monkeypatch.setattr(ActiveRun, "begin_step", begin)
    monkeypatch.setattr(tape, "mark", lambda stream: "main" if stream is None else "student")
    monkeypatch.setattr(tape, "wait", lambda stream, mark: events.append(f"wait for {mark}"))
    trained([small_run("kd")], tmp_path, GraphStepper(tape))
    assert tape.replays
    begun = [i for i, event in enumerate(events) if event == "begin"]
    assert begun and all(events[i - 1] == "wait for main" for i in begun)


def test_a_method_that_replaces_a_kept_tensor_is_not_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark.methods.kd import KD

    loss = KD.loss

    def keeps(self: Any, step: Any) -> Any:
        terms = loss(self, step)
        past = getattr(self, "past", None)
        self.past = step.student.logits.detach()
        return (
            terms
            if past is None or past.shape != self.past.shape
            else {k: v + 0 * past.sum() for k, v in terms.items()}
        )

    monkeypatch.setattr(KD, "loss", keeps)
    notes: list[str] = []
    trained([small_run("kd")], tmp_path, GraphStepper(Tape(), notes.append))
    assert len(notes) == 1 and "replaced a tensor" in notes[0]
