"""`bench drift` and `bench biases`: how far bf16, or a GPU, moves the losses from fp32 on the CPU.

Every method trains for some steps from the same weights and on the same batches. On a CPU, bf16 is compared
with the reference; on a GPU, fp32 and bf16 are, both replayed from CUDA graphs. With the losses x and the
losses y of the reference:

    first   |x_1 - y_1| / |y_1|, the difference of the first step's loss: rounding alone
    gap     mean |x - y| / mean y
    bias    (mean x - mean y) / mean y
    floor   the gap between fp32 and fp32 from weights changed by 2^-9 of themselves (half of bf16's last bit)

Training is chaotic, so a gap is meaningful only in comparison with the floor, which is the gap that any
change of bf16's size causes.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import models
from benchmark import data
from benchmark.bench.ours import open_active_runs, open_stream, small_run
from benchmark.errors import InputError
from benchmark.methods import PLAIN
from benchmark.spec.runs import Run
from benchmark.training import checkpoint, graphs
from benchmark.training.active_run import ActiveRun
from benchmark.training.execution import Execution
from benchmark.training.lockstep import Lockstep
from benchmark.training.stages import MAIN
from models import Network

FIRST, GAP, FLOORS = 0.02, 0.10, 2.0
"""The bounds: the first step within 2%; the gap at most 10% plus twice the floor."""
NUDGE = 2.0**-9
"""Relative change of the weights, for the floor."""
TEACHER_STEPS = 96


@functools.cache
def trained_teacher(name: str) -> Network:
    """Return a teacher that was trained for a few steps on digits in fp32.

    An untrained teacher maps all images to nearly the same vector, so relations between images would consist
    of rounding errors.
    """
    run = small_run(PLAIN, student=name)
    with tempfile.TemporaryDirectory() as folder:
        active = _open(run, _cpu(), folder, teacher=None)
        _train(run, active, _cpu(), teacher=None, steps=TEACHER_STEPS)
    assert active.student is not None
    return active.student.eval().requires_grad_(False)


def _cpu(precision: str = "fp32") -> Execution:
    return Execution("cpu", precision, torch.get_num_threads())


def losses(
    run: Run,
    teacher: Network | None,
    execution: Execution,
    steps: int,
    *,
    nudge: float = 0.0,
    init: bool = False,
) -> list[float]:
    """Return the losses of the first steps.

    teacher: moved to the device; None for a run without one. nudge: relative change of the weights at the
    start. init: train the first initialisation stage; otherwise the main stage, as after an initialisation
    stage that learnt nothing.
    """
    if teacher is not None:
        execution.teacher_to_device(teacher)
    with tempfile.TemporaryDirectory() as folder:
        active = _open(run, execution, folder, teacher=teacher, at_main_stage=not init)
        if nudge:
            assert active.student is not None
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for p in (*active.student.parameters(), *active.objective.parameters()):
                    p.mul_(1 + nudge * torch.randn(p.shape, generator=generator))
        with execution.applied():
            return _train(run, active, execution, teacher=teacher, steps=steps)


def _split(run: Run, execution: Execution) -> data.Split:
    classes = data.info(run.dataset).num_classes
    train = data.load(run.dataset).train
    split = run.recipe.selection.apply(train, seed=run.seed, num_classes=classes)
    return split.to(execution.torch_device)


def _open(
    run: Run, execution: Execution, folder: str, *, teacher: Network | None, at_main_stage: bool = True
) -> ActiveRun:
    split = _split(run, execution)
    _, (active,) = open_active_runs(
        [run], split, execution, Path(folder), teacher=teacher, at_main_stage=at_main_stage
    )
    return active


def _train(
    run: Run, active: ActiveRun, execution: Execution, *, teacher: Network | None, steps: int
) -> list[float]:
    """Train for some steps of the current stage, and return their losses."""
    stream = open_stream(run, _split(run, execution))
    by_step: list[float] = []
    stepper = graphs.stepper_for(execution, print)
    while True:
        stage = MAIN if active.stage.name == MAIN else f"init{active.stage_index}"
        active.begin_epoch(stream.steps(stage, active.epoch + 1))
        lockstep = Lockstep([active], teacher, execution)
        for _ in stepper.steps(lockstep, stream, stage, active.epoch + 1):
            stepper.synchronise()
            by_step.append(active.meter.read()["train_loss"])
            active.meter.reset()
            if len(by_step) == steps:
                return by_step
        active.epoch += 1


def compare(losses: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Return `gap` and `bias` of the losses."""
    x, y = torch.tensor(losses, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64)
    scale = y.mean().abs()
    return {"gap": float((x - y).abs().mean() / scale), "bias": float((x.mean() - y.mean()) / scale)}


@dataclass
class Reference:
    """The results in fp32 on a CPU. They can be computed on one machine and compared with on another."""

    steps: int
    losses: dict[str, list[float]] = field(default_factory=dict)
    """Name of a row -> its losses."""
    floors: dict[str, float] = field(default_factory=dict)
    """Name of a row -> its floor."""
    teachers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Network -> the weights of its `trained_teacher`."""

    def add(self, run: Run, init: bool) -> None:
        """Compute a row unless it exists. init: of the method's initialisation stage."""
        name = row_name(run, init)
        if name in self.losses:
            return
        if run.teacher_ref is not None:
            network = run.teacher_ref.network
            self.teachers.setdefault(network, trained_teacher(network).state_dict())
        teacher = self.teacher(run)
        self.losses[name] = losses(run, teacher, _cpu(), self.steps, init=init)
        nudged = losses(run, teacher, _cpu(), self.steps, nudge=NUDGE, init=init)
        self.floors[name] = compare(nudged, self.losses[name])["gap"]

    def teacher(self, run: Run) -> Network | None:
        """Return a new copy of the run's teacher, None for a run without one."""
        if run.teacher_ref is None:
            return None
        network = run.teacher_ref.network
        net = models.build(network, data.info(run.dataset).num_classes)
        net.load_state_dict(self.teachers[network])
        return net.eval().requires_grad_(False)

    def save(self, path: Path) -> None:
        checkpoint.save(path, dict(vars(self)))

    @staticmethod
    def load(path: Path, steps: int) -> Reference:
        """Read a file that `save` wrote. Raises `InputError` for other files and other numbers of steps."""
        try:
            reference = Reference(**(checkpoint.load(path, torch.device("cpu")) or {}))
        except Exception as error:
            raise InputError(
                f"{path} is not a reference of `bench drift`; give a file that --save wrote"
            ) from error
        if reference.steps != steps:
            raise InputError(f"{path} has {reference.steps} steps; give --steps {reference.steps}")
        return reference


def row_name(run: Run, init: bool) -> str:
    """Return the method, with the student if it is not one of the two that all methods are measured on."""
    name = run.method if run.student in ("resnet8", "resnet14") else f"{run.method}, {run.student}"
    return f"{name}, initialisation" if init else name


def biases(run: Run, steps: int) -> dict[str, float]:
    """Return the bias of a run's main stage in bf16 (`bf16`) and of fp32 from changed weights (`moved`).

    Over seeds, a bias that rounding causes shows in the first and not in the second.
    """
    teacher = None if run.teacher_ref is None else trained_teacher(run.teacher_ref.network)
    reference = losses(run, teacher, _cpu(), steps)
    variants = {
        "bf16": losses(run, teacher, _cpu("bf16"), steps),
        "moved": losses(run, teacher, _cpu(), steps, nudge=NUDGE),
    }
    return {name: compare(by_step, reference)["bias"] for name, by_step in variants.items()}


def variants(execution: Execution) -> list[Execution]:
    """Return the executions that are compared with the reference on this device."""
    if execution.torch_device.type == "cuda":
        return [replace(execution, precision=p) for p in ("fp32", "bf16")]
    return [_cpu("bf16")]


def measure(run: Run, reference: Reference, execution: Execution, *, init: bool = False) -> dict[str, Any]:
    """Return one row of `bench drift`. init: of the method's initialisation stage."""
    reference.add(run, init)
    name = row_name(run, init)
    expected, floor = reference.losses[name], reference.floors[name]
    measured = losses(run, reference.teacher(run), execution, reference.steps, init=init)
    differences = compare(measured, expected)
    first = abs(measured[0] - expected[0]) / abs(expected[0])
    return {
        "method": name,
        "device": execution.torch_device.type,
        "precision": execution.precision,
        "loss_first": expected[0],
        "loss_last": expected[-1],
        "first": first,
        **differences,
        "floor": floor,
        "within": first <= FIRST and differences["gap"] <= GAP + FLOORS * floor,
    }
