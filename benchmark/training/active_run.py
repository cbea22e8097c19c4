"""A run in training: its student, its loss, its optimiser, and its progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import models
from benchmark import data
from benchmark.data.mixup import partners
from benchmark.data.stream import Batch
from benchmark.methods import Method, MethodContext, Needs, Objective, Step
from benchmark.seeds import (
    global_generators_kept,
    global_states,
    gpu_generator,
    seed_global_generators,
    seed_of,
)
from benchmark.spec.runs import NONE, Run
from benchmark.training import casts, checkpoint, processes
from benchmark.training.execution import Execution
from benchmark.training.features import features_of
from benchmark.training.gathering import (
    GatheredViews,
    average_gradients,
    gathered_features,
    take_over_state,
)
from benchmark.training.guard import RunGuard
from benchmark.training.meter import Meter
from benchmark.training.parts import Part, extended
from benchmark.training.stages import MAIN, Best, NextEpoch, Stage
from models import Features, Network
from models.wrn import WideResNet


@dataclass
class ActiveRun:
    """A run that is being trained. Create it with `ActiveRun.open`."""

    run: Run
    execution: Execution
    folder: Path
    """Folder of the run's checkpoint."""
    student: Network | None
    objective: Objective
    guard: RunGuard
    """Watches what the methods change."""
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
    parts: list[Part] = field(default_factory=list)
    """What was trained under which conditions so far (see parts.py)."""
    conditions: Part = field(default_factory=dict)
    """Those of this process."""
    meter: Meter = field(default_factory=Meter)
    generators: dict[str, torch.Generator] = field(default_factory=dict)
    """One random generator per method, on the device; seeded again for each epoch."""
    until: int | None = None
    """Stop after this epoch of the main stage."""
    teacher_cache: str = ""
    """Whether the main stage read the teacher cache: `on`, `off`, or `mixed` if that changed."""
    step_number: int = 0
    """The number of the current step in its epoch, counted from 1."""
    draws_globally: bool = False
    """Whether a step of the run is known to draw from a global generator."""
    steps: int = 1
    """Number of steps of the current epoch."""
    steps_begun: int = 0
    """Steps of the current epoch that have begun."""
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
            with global_generators_kept(device):
                seed_global_generators(seed_of(run.seed, "init", run.student), device)
                student = models.build(run.student, info.num_classes)
            if run.recipe.norm_updates > 1:
                assert isinstance(student, WideResNet)
                student.set_norm_updates(run.recipe.norm_updates)
            execution.to_device(student)
        guard = RunGuard(teacher, train_labels)
        context = MethodContext(
            student=None if student is None else models.info(run.student, info.num_classes, info.size),
            teacher=None
            if run.teacher_ref is None or teacher is None
            else models.info(run.teacher_ref.network, info.num_classes, info.size),
            student_net=student,
            teacher_net=guard.teacher,
            train_labels=guard.train_labels,
            num_classes=info.num_classes,
            epochs=run.recipe.epochs,
            batch_size=run.recipe.batch_size,
            device=device,
            artifacts=artifacts,
        )
        with global_generators_kept(device):
            objective = Objective(run.spec, context, lambda name: seed_of(run.seed, "modules", name), guard)
            objective.label_smoothing = run.recipe.label_smoothing
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
            guard=guard,
            stages=stages,
        )
        with global_generators_kept(device):
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

    def begin_epoch(self, steps: int = 1) -> None:
        """Set modes, learning rate, the methods' generators and their schedules for the next epoch.

        steps: number of steps of the epoch. A warm-up divides the rise of the learning rate among them.
        """
        epoch, stage = self.epoch + 1, self.stage
        self.steps, self.steps_begun = steps, 0
        device = self.execution.torch_device
        self.step_number = 0
        self.seed_globals("begin_epoch")
        self.meter.reset()
        for name in self.objective.methods:
            if name not in self.generators:
                self.generators[name] = torch.Generator(device)
            self.generators[name].manual_seed(seed_of(self.run.seed, "method", name, stage.name, epoch))
        if stage.is_main:
            if self.student is not None:
                self.student.train().requires_grad_(True)
            self.objective.set_mode(training=True)
            self.objective.start_epoch(epoch)
        else:
            modules = self._init_modules()
            if self.student is not None:
                self.student.eval()
            self.objective.set_mode(training=False)
            for module in modules:
                module.train()
        if self.optimizer is None:
            self.optimizer = self._make_optimizer()
        for group in self.optimizer.param_groups:
            group["lr"].fill_(self.lr)  # in place, because a captured step reads this tensor

    def begin_step(self) -> None:
        """Set the learning rate of the next step, if it is part of a warm-up.

        It is called before each step and not within one: a captured step reads the rate from its tensor.
        """
        if self.stage.is_main and self.epoch < self.run.recipe.warm_up:
            assert self.optimizer is not None
            self.steps_begun = min(self.steps_begun + 1, self.steps)
            lr = self.run.recipe.lr_at(self.epoch + 1, self.steps_begun, self.steps)
            for group in self.optimizer.param_groups:
                group["lr"].fill_(lr)

    @property
    def lr(self) -> float:
        """The learning rate of the next epoch; in a warm-up, that of its last step."""
        recipe = self.run.recipe
        if self.stage.is_main:
            return recipe.lr_at(self.epoch + 1)
        lr: float = self.objective.call(
            self._init_method(), "init_lr", self.run.student, recipe.lr / self.run.lr_scale
        )
        return lr * self.run.lr_scale

    def seed_globals(self, *words: str | int) -> None:
        """Seed the global generators for this run. words: what the methods are called for."""
        seed = seed_of(self.run.seed, "global", self.stage.name, self.epoch + 1, *words)
        seed_global_generators(seed, self.execution.torch_device)

    def step(self, batch: Batch, teachers: Mapping[str, Features]) -> None:
        """Do one optimisation step. teachers: the teacher's features by view.

        The caller counts the images (`meter.images`). Nothing here waits for the device, and tensors that
        live longer than the step are changed in place, so that a step captured in a CUDA graph can be
        replayed.
        """
        if not self.guard.side_by_side:  # else the run is known not to draw from them (see lockstep.py)
            self.seed_globals("step", self.step_number)
        with self.guard.step(self.run.method):
            self._step(batch, teachers)

    def drew_globally(self) -> bool:
        """Return whether the last step drew from a global generator. Seeds them again."""
        device = self.execution.torch_device
        if device.type == "cuda" and gpu_generator(device).get_offset():
            return True
        return self.drew_on_the_host()

    def drew_on_the_host(self) -> bool:
        """Return whether the last step drew from a global generator of the CPU. Seeds them again."""
        after = global_states()
        self.seed_globals("step", self.step_number)
        return after != global_states()

    def _step(self, batch: Batch, teachers: Mapping[str, Features]) -> None:
        needs, main = self.stage.needs, self.stage.is_main
        students = self.student_features(batch, needs)
        mine, teachers = self.guard.share(batch, teachers)
        images: Mapping[str, Tensor] = mine.views
        if batch.portion is not None:
            images = GatheredViews(mine.views, batch.portion, processes.current())

        def step_with(generator: torch.Generator) -> Step:
            return Step(
                labels=mine.labels,
                indices=mine.indices,
                images=images,
                students=students,
                teachers=teachers,
                generator=generator,
                first=batch.first,
                mix=mine.mix,
            )

        steps = {name: step_with(generator) for name, generator in self.generators.items()}
        if not steps:  # a plain student has no method
            steps = {"": step_with(torch.default_generator)}
        if main:
            total, terms = self.objective(steps)
        else:
            method = self._init_method()
            terms = self.objective.init_loss(method, steps[method.name])
            total = torch.stack(list(terms.values())).sum()
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        try:
            total.backward()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise self.objective.blamed("the backward pass", error) from error
        if self.execution.is_shared:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            average_gradients(parameters, processes.current())
        self.optimizer.step()
        if main:
            self.objective.after_step()
        correct = None
        # a method that replaces the student's predictions at test time leaves no training accuracy to measure
        if main and self.student is not None and not self.objective.predictors:
            z = students["normal"].logits
            guess = z.detach().argmax(dim=1)
            correct = (guess == batch.labels).sum()
            if batch.mix is not None:
                other = (guess == partners(batch.labels)).sum()
                correct = batch.mix * correct + (1 - batch.mix) * other
        self.meter.add(total, terms, correct, len(batch.labels))

    def student_features(self, batch: Batch, needs: Needs) -> dict[str, Features]:
        """Run the student on all views of the batch, in one pass or in one for each. Returns its features by
        view.

        If several processes share the batch, the student is run on the portion of this one, and the features
        are gathered. Its random draws (dropout) then differ between the processes.
        """
        if self.student is None or not needs.student:
            return {}
        if batch.portion is None:
            return self._passes(batch, needs, batch.first)
        team = processes.current()
        self.seed_globals("step", self.step_number, "process", team.number)
        features = self._passes(batch, needs, batch.portion.first)
        self.seed_globals("step", self.step_number)  # what the methods draw is the same in all processes
        return {
            view.name: gathered_features(features[view.name], batch.portion, view.copies, team)
            for view in needs.views
        }

    def _passes(self, batch: Batch, needs: Needs, first: int) -> dict[str, Features]:
        """Run the student on the views that this process has. first: rows in the first part of the batch."""
        assert self.student is not None
        names = [v.name for v in needs.views]
        images = [batch.views[n] for n in names]
        together = len(images) > 1 and not needs.separate_passes
        inputs = [torch.cat(images).contiguous(memory_format=torch.channels_last)] if together else images
        student = self.student
        cut = first if needs.parts_apart and len(images) == 1 else None

        def run() -> list[Features]:
            return [features_of(student, x, needs.student, cut) for x in inputs]

        with self.execution.autocast(), self.execution.norms_of(batch):
            outputs = casts.with_cast_weights(student, run) if self.execution.casts_at_once else run()
        if not together:
            return dict(zip(names, outputs, strict=True))
        (out,) = outputs
        by_view, start = {}, 0
        for name, image in zip(names, images, strict=True):
            by_view[name] = out.rows(slice(start, start + len(image)))
            start += len(image)
        return by_view

    def end_epoch(self) -> dict[str, Any]:
        """Count the epoch and return its row of the curve. Goes to the next stage if this one is over."""
        if self.execution.is_shared:
            student = {} if self.student is None else self.student.state_dict()
            state = [*student.values(), *self.objective.saved().values()]
            take_over_state([t for t in state if isinstance(t, Tensor)], processes.current())
        row = {"stage": self.stage.name, "epoch": self.epoch + 1, "lr": self.lr, **self.meter.read()}
        self.epoch += 1
        if not self.stage.is_main and self.epoch == self.stage.epochs:
            self._after_init(self.stage)
            if self.student is not None:
                self.student.requires_grad_(True)
            self.stage_index += 1
            self.epoch = 0
            self.optimizer = None
            self.meter = Meter()
        return row

    def _after_init(self, stage: Stage) -> None:
        seed_global_generators(
            seed_of(self.run.seed, "global", stage.name, "after_init"), self.execution.torch_device
        )
        self.objective.call(self.objective.method(stage.method), "after_init")

    def _init_method(self) -> Method:
        return self.objective.method(self.stage.method)

    def _init_modules(self) -> list[nn.Module]:
        return list(self.objective.call(self._init_method(), "init_modules", self.student))

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
        self.parts = extended(self.parts, self.conditions, len(self.curve))
        self.seed_globals("save")
        checkpoint.save(
            self.folder / checkpoint.FILE,
            {
                "key": self.run.key,
                "stage_index": self.stage_index,
                "epoch": self.epoch,
                "student": None if self.student is None else self.student.state_dict(),
                "objective": self.objective.saved(),
                "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
                "curve": self.curve,
                "best": [self.best.epoch, self.best.top1, self.best.weights],
                "seconds": self.seconds,
                "share_seconds": self.share_seconds,
                "resumes": self.resumes,
                "precision": self.execution.precision,
                "diverged": self.diverged,
                "teacher_cache": self.teacher_cache,
                "parts": self.parts,
            },
            about=self.parts[-1] if self.parts else None,
        )

    def _resume(self) -> None:
        """Load the state from the checkpoint, if there is one."""
        state = checkpoint.load(self.folder / checkpoint.FILE, self.execution.torch_device)
        if state is None:
            return
        if state["key"] != self.run.key:
            raise ValueError(f"checkpoint.pt belongs to another run, {state['key']}")
        self.stage_index, self.epoch = state["stage_index"], state["epoch"]
        if self.student is not None:
            self.student.load_state_dict(state["student"])
        self.objective.load(state["objective"])
        for stage in self.stages[: self.stage_index]:
            self._after_init(stage)
        if self.stage_index:
            self.objective.load(state["objective"])  # again, in case `after_init` changed a value
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
        # an older version wrote no parts; `RunFiles.begin` adds what else began.json states
        older = {"from": 1, "to": len(self.curve), "precision": state["precision"]}
        self.parts = state.get("parts", [older])
