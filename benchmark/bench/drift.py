"""How far another arithmetic goes from the reference, fp32 on the CPU: the losses of the first steps of every method, same start and same
batches in both. The other is bf16, on a GPU also fp32, both replayed from graphs.

`first` is the difference of the first step's loss: rounding alone. `gap` is the mean over the steps of |loss in bf16 - loss in fp32| as a part
of the mean fp32 loss, `bias` the difference of the mean losses. Training is chaotic, so a gap must be held against what a change of bf16's
size does by itself: `floor` is the gap between fp32 and fp32 from weights moved by 2^-9 of themselves (half of bf16's last bit).
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
from benchmark.bench.ours import open_items, small_run
from benchmark.data.stream import Stream
from benchmark.errors import InputError
from benchmark.spec.runs import Run
from benchmark.training import checkpoint, graphs
from benchmark.training.active_run import MAIN, ActiveRun
from benchmark.training.execution import Execution
from benchmark.training.lockstep import Lockstep
from models import Network

FIRST, GAP, FLOORS = 0.02, 0.10, 2.0
"""The stated bounds: first step within 2%; gap at most 10% and twice the floor."""
NUDGE = 2.0**-9


@functools.cache
def taught(name: str) -> Network:
    """A teacher of 96 steps on digits in fp32: an untrained one maps all images to nearly one vector, whose relations are rounding alone."""
    run = small_run("plain", student=name)
    with tempfile.TemporaryDirectory() as folder:
        _, (item,) = _open(run, _cpu(), folder, None)
        _steps(run, item, _cpu(), None, 96)
    assert item.student is not None
    return item.student.eval().requires_grad_(False)


def _cpu(precision: str = "fp32") -> Execution:
    return Execution("cpu", precision, torch.get_num_threads())


def losses(
    run: Run,
    teacher: Network | None,
    execution: Execution,
    steps: int,
    nudge: float = 0.0,
    init: bool = False,
) -> list[float]:
    """The first losses: of the main stage (an initialisation stage counts as one that learnt nothing), or with `init` of the first
    stage. teacher: is moved to the device; None for a run without one."""
    if teacher is not None:
        execution.teacher_to_device(teacher)
    with tempfile.TemporaryDirectory() as folder:
        _, (item,) = _open(run, execution, folder, teacher, main=not init)
        if nudge:
            assert item.student is not None
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for p in (*item.student.parameters(), *item.objective.parameters()):
                    p.mul_(1 + nudge * torch.randn(p.shape, generator=generator))
        with execution.applied():
            return _steps(run, item, execution, teacher, steps)


def _split(run: Run, execution: Execution) -> data.Split:
    return data.load(run.dataset).train.take(run.recipe.train_images).to(execution.torch_device)


def _open(
    run: Run, execution: Execution, folder: str, teacher: Network | None, main: bool = True
) -> tuple[Network | None, list[ActiveRun]]:
    return open_items([run], _split(run, execution), execution, Path(folder), teacher, main)


def _steps(
    run: Run, item: ActiveRun, execution: Execution, teacher: Network | None, steps: int
) -> list[float]:
    mean, std = (tuple(run.settings["normalise"][k]) for k in ("mean", "std"))
    stream = Stream(
        _split(run, execution),
        mean=mean,
        std=std,
        sampler=run.spec.sampler,
        batch_size=run.recipe.batch_size,
        drop_last=True,
        seed=run.seed,
    )
    found: list[float] = []
    stepper = graphs.stepper_for(execution, print)
    while True:
        item.begin_epoch()
        lockstep = Lockstep([item], teacher, execution)
        name = MAIN if item.stage.name == MAIN else f"init{item.stage_index}"
        for _ in stepper.steps(lockstep, stream, name, item.epoch + 1):
            stepper.synchronise()
            found.append(item.meter.read()["train_loss"])
            item.meter.reset()
            if len(found) == steps:
                return found
        item.epoch += 1


def compare(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    """`gap` and `bias` of a row of losses against the reference `b`."""
    x, y = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    scale = y.mean().abs()
    return {"gap": float((x - y).abs().mean() / scale), "bias": float((x.mean() - y.mean()) / scale)}


@dataclass
class Reference:
    """What fp32 on a CPU gave: losses and the floor by row, and the teachers. It can be made on one machine and held against on another."""

    steps: int
    losses: dict[str, list[float]] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    teachers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, run: Run, init: bool) -> None:
        """Computes a row that is not there."""
        name = row_name(run, init)
        if name in self.losses:
            return
        if run.teacher_ref is not None:
            network = run.teacher_ref.network
            self.teachers.setdefault(network, taught(network).state_dict())
        teacher = self.teacher(run)
        self.losses[name] = losses(run, teacher, _cpu(), self.steps, init=init)
        self.floors[name] = compare(losses(run, teacher, _cpu(), self.steps, NUDGE, init), self.losses[name])[
            "gap"
        ]

    def teacher(self, run: Run) -> Network | None:
        """The run's teacher, a network of the caller's own; None for a run without one."""
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
        """`InputError` for a file that is none, or of another number of steps."""
        try:
            found = checkpoint.load(path, torch.device("cpu"))
            reference = Reference(**(found or {}))
        except Exception as error:
            raise InputError(
                f"{path} is no reference of bench --drift; allowed: a file that --save wrote"
            ) from error
        if reference.steps != steps:
            raise InputError(f"{path} has {reference.steps} steps; allowed: --steps {reference.steps}")
        return reference


def row_name(run: Run, init: bool) -> str:
    """The method; the student too, where it is none of the two that every method is tried on."""
    name = run.method if run.student in ("resnet8", "resnet14") else f"{run.method}, {run.student}"
    return f"{name}, initialisation" if init else name


def biases(run: Run, steps: int) -> dict[str, float]:
    """`bias` of a run's main stage in bf16, and of fp32 from moved weights: one of rounding would show in the first over seeds, not in the second."""
    teacher = None if run.teacher_ref is None else taught(run.teacher_ref.network)
    base = losses(run, teacher, _cpu(), steps)
    others = {
        "bf16": losses(run, teacher, _cpu("bf16"), steps),
        "moved": losses(run, teacher, _cpu(), steps, NUDGE),
    }
    return {what: compare(found, base)["bias"] for what, found in others.items()}


def variants(execution: Execution) -> list[Execution]:
    """What is held against the reference on this device."""
    if execution.torch_device.type == "cuda":
        return [replace(execution, precision=p) for p in ("fp32", "bf16")]
    return [_cpu("bf16")]


def measure(run: Run, reference: Reference, execution: Execution, init: bool = False) -> dict[str, Any]:
    """One row of `bench --drift`; init: of the method's initialisation stage."""
    reference.add(run, init)
    name = row_name(run, init)
    base, floor = reference.losses[name], reference.floors[name]
    other = losses(run, reference.teacher(run), execution, reference.steps, init=init)
    found = compare(other, base)
    first = abs(other[0] - base[0]) / abs(base[0])
    return {
        "method": name,
        "device": execution.torch_device.type,
        "precision": execution.precision,
        "loss_first": base[0],
        "loss_last": base[-1],
        "first": first,
        **found,
        "floor": floor,
        "within": first <= FIRST and found["gap"] <= GAP + FLOORS * floor,
    }
