"""Our training loop as `bench` measures it: real runs, real batch streams and the real `Lockstep`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

import models
from benchmark import data, methods
from benchmark.data.datasets import Split
from benchmark.data.stream import Batch, Stream
from benchmark.methods import Method
from benchmark.seeds import seed_of
from benchmark.spec import matrix
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import NONE, Request, Run
from benchmark.training import graphs
from benchmark.training.active_run import ActiveRun
from benchmark.training.execution import Execution
from benchmark.training.lockstep import Lockstep
from benchmark.training.stages import MAIN
from models import Network


def random_split(n: int, num_classes: int, seed: int) -> Split:
    """Return `n` random images in classes of equal size (up to one image)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(n) % num_classes)


def pair_runs(table: str, pair: str, profile: str = "paper") -> list[Run]:
    """Return every method of a table on one pair with seed 0: the runs that `run` would train in one pack."""
    expansion = matrix.expand(matrix.load_table(table), profile, seeds=[0], pairs=[pair])
    return [
        run
        for cell in expansion.cells
        if cell.row.method not in ("teacher", "student")
        for run in cell.runs
        if run.spec.components
    ]


def small_run(method: str, seed: int = 0, student: str = "resnet8") -> Run:
    """Return a run with small networks on digits, which are real images, so that the loss falls."""
    alone = method == methods.PLAIN or methods.get(method).self_teacher
    pair = (NONE, student) if alone else ("resnet14", student)
    return Resolver().run(Request("digits", "crd", "quick", *pair, method), seed)


def build_teacher(run: Run, execution: Execution) -> Network:
    """Return the run's teacher with random weights, frozen and in eval mode."""
    assert run.teacher_ref is not None
    network = run.teacher_ref.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(0, "bench", network))
        net = models.build(network, data.info(run.dataset).num_classes)
    execution.teacher_to_device(net.eval().requires_grad_(False))
    return net


def open_active_runs(
    runs: Sequence[Run],
    split: Split,
    execution: Execution,
    folder: Path,
    teacher: Network | None = None,
    at_main_stage: bool = True,
) -> tuple[Network | None, list[ActiveRun]]:
    """Return the teacher (built unless given) and the runs, ready to train.

    at_main_stage: start at the main stage, with modules as they are after an initialisation stage that learnt
    nothing; otherwise at the first stage. The teacher's head that some methods need is untrained.
    """
    with_teacher = [r for r in runs if r.teacher_ref is not None]
    if teacher is None and with_teacher:
        teacher = build_teacher(with_teacher[0], execution)
    active_runs = []
    for i, run in enumerate(runs):
        artifacts: dict[str, dict[str, Tensor]] = {}
        for head in run.heads:
            untrained = ActiveRun.open(head, folder / f"head{i}", execution, teacher, split.labels, {})
            artifacts[head.method] = untrained.objective.method(head.method).state_dict()
        run_teacher = teacher if run.teacher_ref is not None else None
        active = ActiveRun.open(run, folder / f"run{i}", execution, run_teacher, split.labels, artifacts)
        if at_main_stage:
            for stage in active.stages[:-1]:
                method = active.objective.methods[stage.method]
                assert isinstance(method, Method)
                method.after_init()
            active.stage_index = len(active.stages) - 1
        active_runs.append(active)
    return teacher, active_runs


def open_stream(run: Run, split: Split) -> Stream:
    """Return the batch stream that the packs of this run read. The last batch is dropped if it is smaller."""
    mean, std = (tuple(run.settings["normalise"][k]) for k in ("mean", "std"))
    return Stream(
        split,
        mean=mean,
        std=std,
        sampler=run.spec.sampler,
        batch_size=run.recipe.batch_size,
        drop_last=True,
        seed=run.seed,
    )


class Ours:
    """A pack that is trained one batch at a time, without end."""

    def __init__(
        self,
        runs: Sequence[Run],
        split: Split,
        execution: Execution,
        folder: Path,
        teacher: Network | None = None,
    ) -> None:
        self.teacher, self.active_runs = open_active_runs(runs, split, execution, folder, teacher=teacher)
        self.stream = open_stream(runs[0], split)
        self.students = len(self.active_runs)
        for active in self.active_runs:
            active.begin_epoch(self.stream.steps(MAIN, 1))
        self.lockstep = Lockstep(self.active_runs, self.teacher, execution)
        self.stepper = graphs.stepper_for(execution)
        self._steps = self._endless_steps()

    def batches(self) -> Iterator[Batch]:
        """Yield the main stage's batches, epoch after epoch."""
        for epoch in itertools.count(1):
            yield from self.lockstep.batches(self.stream, MAIN, epoch)

    def _endless_steps(self) -> Iterator[tuple[int, int]]:
        """Train the main stage, epoch after epoch. Yield each step's batch size and number of students."""
        for epoch in itertools.count(1):
            yield from self.stepper.steps(self.lockstep, self.stream, MAIN, epoch)

    def step(self) -> int:
        """Train all students on one batch. Returns the number of student-images."""
        batch_size, students = next(self._steps)
        return batch_size * students
