"""The trainer's side of the bench: real items, real stream, real `Lockstep`, on random images."""

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
from benchmark.spec.runs import Request, Run
from benchmark.training import graphs
from benchmark.training.active_run import MAIN, ActiveRun
from benchmark.training.execution import Execution
from benchmark.training.lockstep import Lockstep
from models import Network


def random_split(n: int, num_classes: int, seed: int) -> Split:
    """`n` random images, classes of equal size (or as nearly so as can be)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(n) % num_classes)


def pair_runs(table: str, pair: str, profile: str = "paper") -> list[Run]:
    """Every method of a table on one pair, seed 0: what `run` would train in one pack, the shortest needs first."""
    found = matrix.expand(matrix.load_table(table), profile, seeds=[0], pairs=[pair])
    return [
        run
        for cell in found.cells
        if cell.row.method not in ("teacher", "student")
        for run in cell.runs
        if run.spec.components
    ]


def small_run(method: str, seed: int = 0, student: str = "resnet8") -> Run:
    """A method on digits with the smallest networks: real images, a loss that falls."""
    alone = method == "plain" or methods.get(method).self_teacher
    pair = ("none", student) if alone else ("resnet14", student)
    return Resolver().run(Request("digits", "crd", "quick", *pair, method), seed)


def build_teacher(run: Run, execution: Execution) -> Network:
    """The run's teacher with random weights, frozen and in eval mode."""
    assert run.teacher_ref is not None
    network = run.teacher_ref.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(0, "bench", network))
        net = models.build(network, data.info(run.dataset).num_classes)
    execution.teacher_to_device(net.eval().requires_grad_(False))
    return net


def open_items(
    runs: Sequence[Run],
    split: Split,
    execution: Execution,
    folder: Path,
    teacher: Network | None = None,
    main: bool = True,
) -> tuple[Network | None, list[ActiveRun]]:
    """The teacher (built unless given) and an item a run. main: put at the start of the main stage, with modules as they are
    after an initialisation stage that learnt nothing; else at the very start. A head that a method needs is an untrained one."""
    with_teacher = [r for r in runs if r.teacher_ref is not None]
    if teacher is None and with_teacher:
        teacher = build_teacher(with_teacher[0], execution)
    items = []
    for i, run in enumerate(runs):
        artifacts: dict[str, dict[str, Tensor]] = {}
        for head in run.heads:
            trained = ActiveRun.open(head, folder / f"head{i}", execution, teacher, split.labels, {})
            artifacts[head.method] = trained.objective.method(head.method).state_dict()
        own = teacher if run.teacher_ref is not None else None
        item = ActiveRun.open(run, folder / f"item{i}", execution, own, split.labels, artifacts)
        if main:
            for stage in item.stages[:-1]:
                method = item.objective.methods[stage.method]
                assert isinstance(method, Method)
                method.after_init()
            item.stage_index = len(item.stages) - 1
        items.append(item)
    return teacher, items


class Ours:
    """A pack that can be stepped one batch at a time, for ever: `next(pack)` is one step of every student."""

    def __init__(
        self,
        runs: Sequence[Run],
        split: Split,
        execution: Execution,
        folder: Path,
        teacher: Network | None = None,
    ) -> None:
        self.teacher, self.items = open_items(runs, split, execution, folder, teacher)
        run = runs[0]
        mean, std = (tuple(run.settings["normalise"][k]) for k in ("mean", "std"))
        self.stream = Stream(
            split,
            mean=mean,
            std=std,
            sampler=run.spec.sampler,
            batch_size=run.recipe.batch_size,
            drop_last=True,
            seed=run.seed,
        )
        self.students = len(self.items)
        self.batch_size = run.recipe.batch_size
        for item in self.items:
            item.begin_epoch()
        self.lockstep = Lockstep(self.items, self.teacher, execution)
        self.stepper = graphs.stepper_for(execution)
        self._steps = self.steps()

    def batches(self) -> Iterator[Batch]:
        """The main stage's batches, epoch after epoch."""
        for epoch in itertools.count(1):
            yield from self.lockstep.batches(self.stream, MAIN, epoch)

    def steps(self) -> Iterator[tuple[int, int]]:
        """The main stage's steps, epoch after epoch."""
        for epoch in itertools.count(1):
            yield from self.stepper.steps(self.lockstep, self.stream, MAIN, epoch)

    def step(self) -> int:
        """One batch through the pack; returns its student-images."""
        size, alive = next(self._steps)
        return size * alive
