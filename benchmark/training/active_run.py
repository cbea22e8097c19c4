"""One run in training: its student, its loss, its optimiser, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import models
from benchmark import data
from benchmark.data.stream import Batch
from benchmark.methods import Method, MethodContext, Needs, Objective, Step
from benchmark.seeds import seed_of
from benchmark.spec.runs import Run
from benchmark.training import casts, checkpoint
from benchmark.training.execution import Execution
from models import Features, Network

MAIN = "main"


def select(features: Features, parts: frozenset[str]) -> Features:
    """The named parts in float32; the others are dropped, so that nothing keeps their memory."""
    empty: Any = None
    return Features(
        features.stem.float() if "stem" in parts else empty,
        tuple(x.float() for x in features.stages) if "stages" in parts else (),
        tuple(x.float() for x in features.preacts) if "preacts" in parts else (),
        features.embedding.float() if "embedding" in parts else empty,
        features.logits.float() if "logits" in parts else empty,
    )


def seen_of(net: Network, x: Tensor, parts: frozenset[str]) -> Features:
    """A pass that hands out the named parts in float32, and makes no more than them."""
    if parts == {"logits"}:
        empty: Any = None
        return Features(empty, (), (), empty, net(x).float())
    return select(net.features(x, preacts="preacts" in parts), parts)


@dataclass(frozen=True)
class Stage:
    """A part of a run's training. name: `main`, or `init:METHOD`; needs: what it reads."""

    name: str
    epochs: int
    needs: Needs


class Meter:
    """Sums of an epoch, kept on the device where they lie (a captured step adds to them); reading them is a synchronisation, made once
    an epoch."""

    def __init__(self) -> None:
        self.images = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, total: Tensor, terms: Mapping[str, Tensor], correct: Tensor | None, rows: int) -> None:
        """Losses are means over the batch, so they are weighted with its rows. The caller counts the images: `images += rows`."""
        found = {"train_loss": total, **{f"term_{k}": v for k, v in terms.items()}}
        parts = {name: value.detach() * rows for name, value in found.items()}
        if correct is not None:
            parts["correct"] = correct
        for name, part in parts.items():
            if name in self.sums:
                self.sums[name].add_(part)
            else:
                self.sums[name] = part.clone()

    def reset(self) -> None:
        """Begins a new epoch."""
        self.images = 0
        for value in self.sums.values():
            value.zero_()

    def read(self) -> dict[str, float]:
        """Means over the epoch; train_acc in percent."""
        if not self.images:
            return {}
        names = list(self.sums)
        sums = dict(zip(names, torch.stack([self.sums[n].double() for n in names]).tolist(), strict=True))
        correct = sums.pop("correct", None)
        found = {n: v / self.images for n, v in sums.items()}
        return found if correct is None else {**found, "train_acc": 100 * correct / self.images}


@dataclass
class Best:
    epoch: int = 0
    top1: float = -1.0


@dataclass
class ActiveRun:
    """A run in a pack. Build with `ActiveRun.open`, which goes on from the checkpoint if there is one.

    position: (index of the stage in `stages`, epochs done in it); curve: rows as in `checkpoint.FIRST`.
    """

    run: Run
    execution: Execution
    folder: Path
    student: Network | None
    objective: Objective
    stages: tuple[Stage, ...]
    optimizer: torch.optim.Optimizer | None = None
    stage_index: int = 0
    epoch: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    best: Best = field(default_factory=Best)
    seconds: float = 0.0
    share_seconds: float = 0.0
    resumes: int = 0
    diverged: bool = False
    failure: BaseException | None = None
    meter: Meter = field(default_factory=Meter)
    generators: dict[str, torch.Generator] = field(default_factory=dict)
    until: int | None = None
    teacher_cache: str = ""
    step_seconds: float = 0.0  # of its last step on a CPU: the longest is begun first

    @staticmethod
    def open(
        run: Run,
        folder: Path,
        execution: Execution,
        teacher: Network | None,
        train_labels: Tensor,
        artifacts: Mapping[str, Mapping[str, Tensor]],
    ) -> ActiveRun:
        """Builds the run's networks and modules from its seed, or reads them from its checkpoint in `folder`."""
        device = execution.torch_device
        info = data.info(run.dataset)
        student = None
        if run.student != "none":
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
        objective.run_networks_under(execution.autocast_methods)
        init = [
            Stage(f"init:{name}", epochs, c.method.init_needs(c.config))
            for c, (name, epochs) in zip(run.spec.init_stages, run.init_epochs, strict=True)
        ]
        stages = (*init, Stage(MAIN, run.recipe.epochs, run.spec.needs()))
        item = ActiveRun(run, execution, folder, student, objective, stages)
        item._resume()
        return item

    # --- where it stands ------------------------------------------------------------------------------------------------

    @property
    def stage(self) -> Stage:
        return self.stages[self.stage_index]

    @property
    def epochs_done(self) -> int:
        """Finished epochs of all stages."""
        return sum(stage.epochs for stage in self.stages[: self.stage_index]) + self.epoch

    @property
    def next_unit(self) -> tuple[int, str, int] | None:
        """What comes next, as an order that all items of a pack share: (0.. for init stages, 10^6 for main; name of the batch stream;
        epoch), or None when the run is finished. Init stages have a stream of their own, so main's batches stay common."""
        if self.diverged or self.failure is not None:
            return None
        if self.stage_index == len(self.stages) - 1 and self.epoch == self.stage.epochs:
            return None
        if self.stage.name == MAIN:
            return None if self.stopped else (10**6, MAIN, self.epoch + 1)
        return self.stage_index, f"init{self.stage_index}", self.epoch + 1

    @property
    def stopped(self) -> bool:
        """Whether the run was to stop here, short of its end (`until` epochs of the main stage)."""
        return (
            self.until is not None
            and self.stage.name == MAIN
            and self.until <= self.epoch < self.stage.epochs
        )

    @property
    def finished(self) -> bool:
        return self.next_unit is None and self.failure is None and not self.stopped

    # --- an epoch ---------------------------------------------------------------------------------------------------------

    def note_teacher_cache(self, state: str) -> None:
        """Keeps whether the main stage read the teacher from its table: `on`, `off`, or `mixed` if it changed between two epochs."""
        self.teacher_cache = state if self.teacher_cache in ("", state) else "mixed"

    def begin_epoch(self) -> None:
        """Modes, learning rate, the methods' generators and schedules for the next epoch."""
        epoch, stage = self.epoch + 1, self.stage
        device = self.execution.torch_device
        self.meter.reset()
        for name in self.objective.methods:
            if name not in self.generators:
                self.generators[name] = torch.Generator(device)
            self.generators[name].manual_seed(seed_of(self.run.seed, "method", name, stage.name, epoch))
        if stage.name == MAIN:
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
            group["lr"].fill_(self.lr)  # in place: a captured step reads it where it lies

    @property
    def lr(self) -> float:
        """Learning rate of the next epoch."""
        recipe = self.run.recipe
        if self.stage.name == MAIN:
            return recipe.lr_at(self.epoch + 1)
        return (
            self._init_method().init_lr(self.run.student, recipe.lr / self.run.lr_scale) * self.run.lr_scale
        )

    def step(self, batch: Batch, teachers: Mapping[str, Features]) -> None:
        """One optimisation step; its images are counted by the caller (`meter.images`). Nothing here waits for the device, and no tensor
        that outlives the step is replaced by another: a graph that was captured of it can be replayed."""
        needs, main = self.stage.needs, self.stage.name == MAIN
        students = self._student_pass(batch, needs)
        steps = {
            name: Step(batch.labels, batch.indices, batch.views, students, teachers, generator)
            for name, generator in self.generators.items()
        } or {"": Step(batch.labels, batch.indices, batch.views, students, teachers, torch.default_generator)}
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
        if (
            main and self.student is not None and not self.objective.predictors
        ):  # what stands in its place has no training accuracy
            z = students["normal"].logits
            correct = (z.detach().argmax(dim=1) == batch.labels).sum()
        self.meter.add(total, terms, correct, len(batch.labels))

    def _student_pass(self, batch: Batch, needs: Needs) -> dict[str, Features]:
        if self.student is None or not needs.student:
            return {}
        names = [v.name for v in needs.views]
        images = [batch.views[n] for n in names]
        x = images[0] if len(images) == 1 else torch.cat(images).contiguous(memory_format=torch.channels_last)
        student = self.student

        def run() -> Features:
            return seen_of(student, x, needs.student)

        with self.execution.autocast():
            out = casts.called(student, run) if self.execution.casts_at_once else run()
        if len(names) == 1:
            return {names[0]: out}
        found, start = {}, 0
        for name, image in zip(names, images, strict=True):
            rows = slice(start, start + len(image))
            found[name] = _rows(out, rows)
            start += len(image)
        return found

    def end_epoch(self) -> dict[str, Any]:
        """Counts the epoch and moves to the next stage when this one is over. Returns the epoch's means."""
        row = {"stage": self.stage.name, "epoch": self.epoch + 1, "lr": self.lr, **self.meter.read()}
        self.epoch += 1
        if self.stage.name != MAIN and self.epoch == self.stage.epochs:
            self._init_method().after_init()
            if self.student is not None:
                self.student.requires_grad_(True)
            self.stage_index += 1
            self.epoch = 0
            self.optimizer = None
            self.meter = Meter()
        return row

    def _init_method(self) -> Method:
        return self.objective.method(self.stage.name.partition(":")[2])

    def _init_modules(self) -> list[nn.Module]:
        return list(self._init_method().init_modules(self.student))

    def _make_optimizer(self) -> torch.optim.Optimizer:
        """SGD over every tensor that trains; weight decay reaches all of them (batch norms, biases, the methods' modules), as in the
        benchmark's code. Each stage starts a fresh one."""
        if self.stage.name == MAIN:
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

    # --- checkpoints --------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Writes the checkpoint; after it, at most the next epoch can be lost."""
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
        state = checkpoint.load(self.folder / "checkpoint.pt", self.execution.torch_device)
        if state is None:
            return
        if state["key"] != self.run.key:
            raise ValueError(f"checkpoint.pt is of {state['key']}")
        self.stage_index, self.epoch = state["stage_index"], state["epoch"]
        if self.student is not None:
            self.student.load_state_dict(state["student"])
        self.objective.load_state_dict(state["objective"])
        for stage in self.stages[: self.stage_index]:
            self.objective.method(stage.name.partition(":")[2]).after_init()
        if state["optimizer"] is not None:
            self.optimizer = self._make_optimizer()
            own = self.optimizer.param_groups[0]["lr"]
            self.optimizer.load_state_dict(state["optimizer"])
            self.optimizer.param_groups[0]["lr"] = (
                own  # older checkpoints hold a number here; `begin_epoch` sets it
            )
        self.curve, self.best = state["curve"], Best(*state["best"])
        self.teacher_cache = state.get("teacher_cache", "off")
        self.seconds, self.share_seconds = state["seconds"], state["share_seconds"]
        self.resumes, self.diverged = state["resumes"] + 1, state["diverged"]


def _rows(f: Features, rows: slice) -> Features:
    empty: Any = None
    return Features(
        empty if f.stem is None else f.stem[rows],
        tuple(x[rows] for x in f.stages),
        tuple(x[rows] for x in f.preacts),
        empty if f.embedding is None else f.embedding[rows],
        empty if f.logits is None else f.logits[rows],
    )


def stored_precision(folder: Path) -> str | None:
    """The precision that a run was started in: it is kept when the run goes on, so that one result has one precision."""
    state = checkpoint.load(folder / "checkpoint.pt", torch.device("cpu"))
    return None if state is None else str(state["precision"])
