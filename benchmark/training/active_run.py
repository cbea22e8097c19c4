"""A run in training: its student, its loss, its optimiser, and its progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import models
from benchmark import data
from benchmark.data.stream import Batch
from benchmark.methods import Method, MethodContext, Needs, Objective, Step
from benchmark.seeds import seed_of
from benchmark.spec.runs import NONE, Run
from benchmark.training import casts, checkpoint
from benchmark.training.execution import Execution
from benchmark.training.features import features_of
from benchmark.training.meter import Meter
from models import Features, Network

MAIN = "main"
"""Name of the main stage."""


@dataclass(frozen=True)
class Stage:
    """A part of a run's training: the main stage, or a method's initialisation stage before it."""

    name: str
    """`main`, or `init:METHOD`, as written in curves."""
    epochs: int
    needs: Needs
    """What the stage reads."""
    method: str = ""
    """The method whose initialisation stage it is; empty for the main stage."""

    @property
    def is_main(self) -> bool:
        return not self.method


class NextEpoch(NamedTuple):
    """An epoch that a run trains next. Runs of a pack whose next epoch is equal train it together.

    The smallest is trained first.
    """

    rank: int
    """The index of the stage; 10^6 for the main stage."""
    stream: str
    """The name of the batch stream.

    Each initialisation stage has its own, so that all runs see the same batches in the main stage.
    """
    epoch: int
    """Counted from 1 in each stage."""


@dataclass
class Best:
    """The epoch of the main stage with the best top-1 so far (percent of the test set); epoch 0: none yet."""

    epoch: int = 0
    top1: float = -1.0


@dataclass
class ActiveRun:
    """A run that is being trained. Create it with `ActiveRun.open`."""

    run: Run
    execution: Execution
    folder: Path
    """Folder of the run's checkpoint."""
    student: Network | None
    objective: Objective
    stages: tuple[Stage, ...]
    """Initialisation stages in order, then the main stage."""
    optimizer: torch.optim.Optimizer | None = None
    """Made in the first epoch of each stage."""
    stage_index: int = 0
    """Index of the current stage in `stages`."""
    epoch: int = 0
    """Finished epochs of the current stage."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """One row per finished epoch, with the columns of `checkpoint.COLUMNS` and the terms of the loss."""
    best: Best = field(default_factory=Best)
    seconds: float = 0.0
    """Wall time while the run was trained."""
    share_seconds: float = 0.0
    """The run's share of that time: the runs of a pack share every second equally."""
    resumes: int = 0
    """How often the run was resumed from a checkpoint."""
    diverged: bool = False
    failure: BaseException | None = None
    """The error that ended the run in this process."""
    meter: Meter = field(default_factory=Meter)
    generators: dict[str, torch.Generator] = field(default_factory=dict)
    """One random generator per method, on the device; seeded again for each epoch."""
    until: int | None = None
    """Stop after this epoch of the main stage."""
    teacher_cache: str = ""
    """Whether the main stage read the teacher cache: `on`, `off`, or `mixed` if that changed."""
    step_seconds: float = 0.0
    """Duration of the last step on a CPU; the run with the longest step is started first in the next one."""

    @staticmethod
    def open(
        run: Run,
        folder: Path,
        execution: Execution,
        teacher: Network | None,
        train_labels: Tensor,
        artifacts: Mapping[str, Mapping[str, Tensor]],
    ) -> ActiveRun:
        """Build the run from its seed, and resume from the checkpoint in `folder` if there is one.

        train_labels: int64 `[N]` on the device. artifacts: for each method that the run requires, the state
        dict that the run of that method left.
        """
        device = execution.torch_device
        info = data.info(run.dataset)
        student = None
        if run.student != NONE:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(run.seed, "init", run.student))
                student = models.build(run.student, info.num_classes)
            execution.to_device(student)
        context = MethodContext(
            student=None if student is None else models.info(run.student, info.num_classes),
            teacher=None
            if run.teacher_ref is None or teacher is None
            else models.info(run.teacher_ref.network, info.num_classes),
            student_net=student,
            teacher_net=teacher,
            train_labels=train_labels,
            num_classes=info.num_classes,
            epochs=run.recipe.epochs,
            batch_size=run.recipe.batch_size,
            device=device,
            artifacts=artifacts,
        )
        objective = Objective(run.spec, context, lambda name: seed_of(run.seed, "modules", name))
        execution.methods_to_device(objective)
        objective.set_autocast(execution.autocast_methods)
        init = [
            Stage(f"init:{name}", epochs, c.method.init_needs(c.config), method=name)
            for c, (name, epochs) in zip(run.spec.init_stages, run.init_epochs, strict=True)
        ]
        stages = (*init, Stage(MAIN, run.recipe.epochs, run.spec.needs()))
        active = ActiveRun(
            run=run,
            execution=execution,
            folder=folder,
            student=student,
            objective=objective,
            stages=stages,
        )
        active._resume()
        return active

    # --- progress -------------------------------------------------------------------------------------------

    @property
    def stage(self) -> Stage:
        return self.stages[self.stage_index]

    @property
    def epochs_done(self) -> int:
        """Finished epochs of all stages."""
        return sum(stage.epochs for stage in self.stages[: self.stage_index]) + self.epoch

    @property
    def next_epoch(self) -> NextEpoch | None:
        """The epoch to train next, or None if the run is finished, stopped or failed."""
        if self.diverged or self.failure is not None:
            return None
        if self.stage_index == len(self.stages) - 1 and self.epoch == self.stage.epochs:
            return None
        if self.stage.is_main:
            return None if self.stopped else NextEpoch(10**6, MAIN, self.epoch + 1)
        return NextEpoch(self.stage_index, f"init{self.stage_index}", self.epoch + 1)

    @property
    def stopped(self) -> bool:
        """Whether the run stops here, before its last epoch, because `until` is reached."""
        if self.until is None or not self.stage.is_main:
            return False
        return self.until <= self.epoch < self.stage.epochs

    @property
    def epochs_to_do(self) -> int:
        """Number of epochs of all stages, up to `until`."""
        main = self.stages[-1].epochs if self.until is None else min(self.until, self.stages[-1].epochs)
        return max(sum(stage.epochs for stage in self.stages[:-1]) + main, self.epochs_done)

    @property
    def finished(self) -> bool:
        """Whether the run has its result: all epochs are done, or it diverged."""
        return self.next_epoch is None and self.failure is None and not self.stopped

    # --- an epoch -------------------------------------------------------------------------------------------

    def note_teacher_cache(self, state: str) -> None:
        """Note whether an epoch of the main stage reads the teacher cache: `on` or `off`."""
        self.teacher_cache = state if self.teacher_cache in ("", state) else "mixed"

    def begin_epoch(self) -> None:
        """Set modes, learning rate, the methods' generators and their schedules for the next epoch."""
        epoch, stage = self.epoch + 1, self.stage
        device = self.execution.torch_device
        self.meter.reset()
        for name in self.objective.methods:
            if name not in self.generators:
                self.generators[name] = torch.Generator(device)
            self.generators[name].manual_seed(seed_of(self.run.seed, "method", name, stage.name, epoch))
        if stage.is_main:
            if self.student is not None:
                self.student.train().requires_grad_(True)
            self.objective.train()
            self.objective.start_epoch(epoch)
        else:
            modules = self._init_modules()
            if self.student is not None:
                self.student.eval()
            self.objective.eval()
            for module in modules:
                module.train()
        if self.optimizer is None:
            self.optimizer = self._make_optimizer()
        for group in self.optimizer.param_groups:
            group["lr"].fill_(self.lr)  # in place, because a captured step reads this tensor

    @property
    def lr(self) -> float:
        """The learning rate of the next epoch."""
        recipe = self.run.recipe
        if self.stage.is_main:
            return recipe.lr_at(self.epoch + 1)
        return (
            self._init_method().init_lr(self.run.student, recipe.lr / self.run.lr_scale) * self.run.lr_scale
        )

    def step(self, batch: Batch, teachers: Mapping[str, Features]) -> None:
        """Do one optimisation step. teachers: the teacher's features by view.

        The caller counts the images (`meter.images`). Nothing here waits for the device, and tensors that
        live longer than the step are changed in place, so that a step captured in a CUDA graph can be
        replayed.
        """
        needs, main = self.stage.needs, self.stage.is_main
        students = self.student_features(batch, needs)

        def step_with(generator: torch.Generator) -> Step:
            return Step(
                labels=batch.labels,
                indices=batch.indices,
                images=batch.views,
                students=students,
                teachers=teachers,
                generator=generator,
            )

        steps = {name: step_with(generator) for name, generator in self.generators.items()}
        if not steps:  # a plain student has no method
            steps = {"": step_with(torch.default_generator)}
        if main:
            total, terms = self.objective(steps)
        else:
            method = self._init_method()
            terms = method.init_loss(steps[method.name])
            total = torch.stack(list(terms.values())).sum()
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        if main:
            self.objective.after_step()
        correct = None
        # a method that replaces the student's predictions at test time leaves no training accuracy to measure
        if main and self.student is not None and not self.objective.predictors:
            z = students["normal"].logits
            correct = (z.detach().argmax(dim=1) == batch.labels).sum()
        self.meter.add(total, terms, correct, len(batch.labels))

    def student_features(self, batch: Batch, needs: Needs) -> dict[str, Features]:
        """Run the student on all views of the batch in one pass. Returns its features by view."""
        if self.student is None or not needs.student:
            return {}
        names = [v.name for v in needs.views]
        images = [batch.views[n] for n in names]
        x = images[0] if len(images) == 1 else torch.cat(images).contiguous(memory_format=torch.channels_last)
        student = self.student

        def run() -> Features:
            return features_of(student, x, needs.student)

        with self.execution.autocast():
            out = casts.with_cast_weights(student, run) if self.execution.casts_at_once else run()
        if len(names) == 1:
            return {names[0]: out}
        by_view, start = {}, 0
        for name, image in zip(names, images, strict=True):
            by_view[name] = out.rows(slice(start, start + len(image)))
            start += len(image)
        return by_view

    def end_epoch(self) -> dict[str, Any]:
        """Count the epoch and return its row of the curve. Goes to the next stage if this one is over."""
        row = {"stage": self.stage.name, "epoch": self.epoch + 1, "lr": self.lr, **self.meter.read()}
        self.epoch += 1
        if not self.stage.is_main and self.epoch == self.stage.epochs:
            self._init_method().after_init()
            if self.student is not None:
                self.student.requires_grad_(True)
            self.stage_index += 1
            self.epoch = 0
            self.optimizer = None
            self.meter = Meter()
        return row

    def _init_method(self) -> Method:
        return self.objective.method(self.stage.method)

    def _init_modules(self) -> list[nn.Module]:
        return list(self._init_method().init_modules(self.student))

    def _make_optimizer(self) -> torch.optim.Optimizer:
        """Return a new SGD optimiser over all parameters that train in this stage.

        Weight decay applies to all of them, including batch norms, biases and the methods' modules, as in the
        code of the papers.
        """
        if self.stage.is_main:
            modules: list[nn.Module] = [m for m in (self.student, self.objective) if m is not None]
        else:
            modules = self._init_modules()
        parameters = list({id(p): p for m in modules for p in m.parameters() if p.requires_grad}.values())
        r = self.run.recipe
        lr = torch.tensor(self.lr, device=self.execution.torch_device)
        return torch.optim.SGD(
            parameters,
            lr=lr,
            momentum=r.momentum,
            weight_decay=r.weight_decay,
            nesterov=r.nesterov,
            fused=True,
        )

    # --- checkpoints ----------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint, from which `open` resumes."""
        checkpoint.save(
            self.folder / "checkpoint.pt",
            {
                "key": self.run.key,
                "stage_index": self.stage_index,
                "epoch": self.epoch,
                "student": None if self.student is None else self.student.state_dict(),
                "objective": self.objective.state_dict(),
                "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
                "curve": self.curve,
                "best": [self.best.epoch, self.best.top1],
                "seconds": self.seconds,
                "share_seconds": self.share_seconds,
                "resumes": self.resumes,
                "precision": self.execution.precision,
                "diverged": self.diverged,
                "teacher_cache": self.teacher_cache,
            },
        )

    def _resume(self) -> None:
        """Load the state from the checkpoint, if there is one."""
        state = checkpoint.load(self.folder / "checkpoint.pt", self.execution.torch_device)
        if state is None:
            return
        if state["key"] != self.run.key:
            raise ValueError(f"checkpoint.pt belongs to another run, {state['key']}")
        self.stage_index, self.epoch = state["stage_index"], state["epoch"]
        if self.student is not None:
            self.student.load_state_dict(state["student"])
        self.objective.load_state_dict(state["objective"])
        for stage in self.stages[: self.stage_index]:
            self.objective.method(stage.method).after_init()
        if state["optimizer"] is not None:
            self.optimizer = self._make_optimizer()
            lr = self.optimizer.param_groups[0]["lr"]
            self.optimizer.load_state_dict(state["optimizer"])
            # older checkpoints hold a number here and not a tensor; `begin_epoch` sets the value
            self.optimizer.param_groups[0]["lr"] = lr
        self.curve, self.best = state["curve"], Best(*state["best"])
        self.teacher_cache = state.get("teacher_cache", "off")
        self.seconds, self.share_seconds = state["seconds"], state["share_seconds"]
        self.resumes, self.diverged = state["resumes"] + 1, state["diverged"]


def stored_precision(folder: Path) -> str | None:
    """Return the precision in which the run of this folder was begun; None if it has no checkpoint."""
    state = checkpoint.load(folder / "checkpoint.pt", torch.device("cpu"))
    return None if state is None else str(state["precision"])
