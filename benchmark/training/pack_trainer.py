"""The trainer: one pack, one teacher pass, many students.

Each step draws one batch, runs the teacher once for every view that some run of the pack needs, and steps
every student. The runs do not influence each other: in fp32 on the CPU, the weights of a run are bit-equal
whether it is trained alone or in any pack. Every run has its own checkpoint, written after each epoch. Runs
of a pack may have done different numbers of epochs (after a crash between two checkpoints, or if the packs
were formed differently before); those that are behind catch up first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

import models
from benchmark import data
from benchmark.data.stream import Stream
from benchmark.errors import InputError
from benchmark.spec import imported, teacher_cache_rule
from benchmark.spec.runs import Run, TeacherRef
from benchmark.training import checkpoint, graphs, teacher_cache, teacher_check
from benchmark.training.active_run import MAIN, ActiveRun, Best, NextEpoch, stored_precision
from benchmark.training.evaluate import Score, evaluate, logits, per_class, score
from benchmark.training.execution import Execution
from benchmark.training.lockstep import Lockstep
from benchmark.training.options import TrainingOptions
from benchmark.training.reporter import Outcome, Status
from benchmark.training.run_files import PackInfo, RunFiles
from benchmark.training.teacher_cache import TeacherCache
from models import Features, Network
from results.files import Claim
from results.store import Store

T = TypeVar("T")

PROGRESS_SECONDS = 5.0
"""Seconds between two updates of the progress files within an epoch."""


class PackTrainer:
    """Trains the runs of one pack, which this process has claimed. Use it through `train_pack`."""

    def __init__(
        self, runs: Sequence[Run], store: Store, options: TrainingOptions, claims: Mapping[str, Claim]
    ) -> None:
        self.runs, self.store, self.options, self.claims = runs, store, options, claims
        self.execution = options.execution
        self.reporter = options.reporter
        self.files = {run.key: RunFiles(run, store) for run in runs}
        self.outcomes: dict[str, Outcome] = {}
        self._progress_written = 0.0

    def train(self) -> dict[str, Outcome]:
        """Train all runs whose needs are met. Returns the outcome of every run, by key."""
        ready = [run for run in self.runs if not self._is_blocked(run)]
        if ready:
            self.execution = self._execution_for(ready)
            with self.execution.applied():
                self._load_data(ready[0])
                if ready[0].evaluates is not None:
                    for run in ready:
                        self._evaluate_imported(run)
                elif self._load_teacher(ready):
                    self._train(ready)
        return self.outcomes

    # --- before the first epoch -----------------------------------------------------------------------------

    def _is_blocked(self, run: Run) -> bool:
        """Return whether a run that this one needs has no result. The outcome is set in that case."""
        for needed in run.needs_runs:
            state = self.store.state(needed.key)
            if state == "done":
                continue
            why = (self.store.failure(needed.key) or {}).get("reason", "")
            reason = f"needs {needed.key}, which is {state}{': ' + why if why else ''}"
            if state in ("failed", "diverged", "absent"):
                self.files[run.key].block(reason)
                self._end(Outcome(run, Status.BLOCKED, reason))
            else:  # it may still finish: a stored failure would exclude this run from later plans
                self.outcomes[run.key] = Outcome(run, Status.WAITING, reason)
            return True
        return False

    def _execution_for(self, runs: Sequence[Run]) -> Execution:
        """Return the pack's execution, in the precision in which the first resumed run was begun.

        A run keeps its precision when it resumes, so that one result has one precision.
        """
        for run in runs:
            try:
                stored = stored_precision(self.store.path(run.key))
            except Exception:
                stored = None  # a damaged checkpoint is reported when the run is opened
            if stored is not None and stored != self.execution.precision:
                self.reporter.note(f"resuming in {stored}, the precision in which {run.key} was begun")
                return replace(self.execution, precision=stored)
        return self.execution

    def _load_data(self, run: Run) -> None:
        """Load what all runs of the pack have in common with this one: the data set and its normalisation."""
        device = self.execution.torch_device
        dataset = data.load(run.dataset, self.options.data_folder)
        self.classes = dataset.classes
        self.train_split = dataset.train.take(run.recipe.train_images).to(device)
        self.test_split = dataset.test.take(run.recipe.test_images).to(device)
        normalise = run.settings["normalise"]
        self.mean = torch.tensor(tuple(normalise["mean"]), device=device)
        self.std = torch.tensor(tuple(normalise["std"]), device=device)
        self.info = PackInfo(
            execution=self.execution,
            size=len(self.runs),
            train_images=len(self.train_split.labels),
            test_images=len(self.test_split.labels),
        )

    def _load_teacher(self, runs: Sequence[Run]) -> bool:
        """Load the teacher of the pack, if it has one. Returns False if its file is damaged.

        The runs of the pack have failed then: the teacher was trained here, and other packs have other
        teachers. A damaged checkpoint that the user imported raises `InputError`: no run that uses it can be
        trained.
        """
        self.teacher: Network | None = None
        ref = runs[0].teacher_ref
        if ref is None:
            return True
        path = teacher_path(ref, self.store)
        try:
            teacher = imported.load_teacher(ref, runs[0].dataset, path)
        except InputError as error:
            if ref.run is None:
                raise
            for run in runs:
                self._fail(run, checkpoint.Damaged(path, str(error)))
            return False
        weights = models.weights_hash(teacher)  # before `teacher_to_device`, which may change them
        self.execution.teacher_to_device(teacher)
        self.teacher = teacher
        info = {
            "network": ref.network,
            "identity": ref.identity,
            "epoch": ref.epoch,
            "weights": weights,
            "top1": self._top1_of_teacher(ref, runs[0], teacher),
        }
        self.info = replace(self.info, teacher=info)
        return True

    def _top1_of_teacher(self, ref: TeacherRef, run: Run, teacher: Network) -> float:
        """Return the teacher's top-1, by its record or measured here.

        A weak teacher is named. Raises `InputError` for an imported one that is near chance, unless the user
        accepts it.
        """
        images = self.info.test_images
        top1 = teacher_check.recorded_top1(ref, run, self.store, self.execution, images)
        if top1 is None:
            top1 = self._score(teacher).top1
        finding = teacher_check.weakness(ref, top1, run, images)
        if finding is None:
            return top1
        if teacher_check.must_refuse(finding, ref, run) and not self.options.accept_weak_teacher:
            raise InputError(
                f"{finding.text}; give another file, or add --accept-weak-teacher to train with it anyway"
            )
        if finding.text not in self.options.weak_teachers:
            self.options.weak_teachers.add(finding.text)
            self.reporter.note(finding.text)
        return top1

    def _open_teacher_cache(self, runs: Sequence[Run]) -> TeacherCache | None:
        """Open the teacher's cache. None unless the plan chose one and some run can read it."""
        ref = runs[0].teacher_ref
        if self.teacher is None or ref is None or ref.identity not in self.options.cached_teachers:
            return None
        if self.execution.precision != self.options.execution.precision:
            return None  # the cache was chosen for the plan's precision, and resumed runs keep another one
        parts = teacher_cache_rule.cached_parts(runs)
        if not parts:
            return None
        return TeacherCache.open(
            self.store.folder / teacher_cache.FOLDER,
            teacher=self.teacher,
            split=self.train_split,
            normalise=(self.mean, self.std),
            execution=self.execution,
            parts=parts,
            note=self.reporter.note,
        )

    def _open(self, run: Run) -> ActiveRun | None:
        """Build the run, or read it from its checkpoint. None if that fails; the failure is then stored."""
        files = self.files[run.key]
        files.folder.mkdir(parents=True, exist_ok=True)
        device = self.execution.torch_device
        try:
            artifacts = {
                head.method: checkpoint.load(self.store.path(head.key) / "state.pt", device) or {}
                for head in run.heads
            }
            active = ActiveRun.open(
                run,
                files.folder,
                execution=self.execution,
                teacher=self.teacher,
                train_labels=self.train_split.labels,
                artifacts=artifacts,
            )
        except InputError:
            raise
        except Exception as error:
            self._fail(run, error)
            return None
        files.begin(active, self.info)
        active.until = self.options.until
        return active

    # --- training -------------------------------------------------------------------------------------------

    def _train(self, runs: Sequence[Run]) -> None:
        """Train the runs epoch by epoch; those that are behind first."""
        first = runs[0]
        self.stream = Stream(
            self.train_split,
            mean=tuple(first.settings["normalise"]["mean"]),
            std=tuple(first.settings["normalise"]["std"]),
            sampler=first.spec.sampler,
            batch_size=first.recipe.batch_size,
            drop_last=first.recipe.drop_last,
            seed=first.seed,
            augment=first.recipe.augment,
        )
        self.teacher_cache = self._open_teacher_cache(runs)
        self.stepper = graphs.stepper_for(self.execution, self.reporter.note)
        active_runs = [active for run in runs if (active := self._open(run)) is not None]
        steps = self.stream.steps(MAIN, 1)
        total = sum(stage.epochs for active in active_runs for stage in active.stages)
        done = sum(active.epochs_done for active in active_runs)
        self.reporter.begin(runs, steps_total=total * steps, steps_done=done * steps)
        for active in active_runs:
            if active.finished:
                self._finish(active)
        while epochs := {epoch for active in active_runs if (epoch := active.next_epoch) is not None}:
            epoch = min(epochs)
            self._train_epoch(epoch, [active for active in active_runs if active.next_epoch == epoch])
        for active in active_runs:
            if active.stopped:
                reason = f"after epoch {active.epoch} of {active.stage.epochs}, as requested"
                self.outcomes[active.run.key] = Outcome(active.run, Status.STOPPED, reason)

    def _train_epoch(self, next_epoch: NextEpoch, active_runs: Sequence[ActiveRun]) -> None:
        """Train one epoch of runs that are all in the same stage and epoch."""
        began = time.perf_counter()
        for active in active_runs:
            self._isolated(active, active.begin_epoch)
        lockstep = Lockstep(active_runs, self.teacher, self.execution, self.teacher_cache)
        images = 0

        def on_failure(active: ActiveRun, error: Exception) -> None:
            self._fail(active.run, error)

        steps = self.stepper.steps(
            lockstep, self.stream, stage=next_epoch.stream, epoch=next_epoch.epoch, on_failure=on_failure
        )
        for number, (size, alive) in enumerate(steps):
            images += size
            self.reporter.step(active_runs[0].stage.name, next_epoch.epoch, steps=alive, images=size * alive)
            self._write_progress(active_runs, number + 1, images / (time.perf_counter() - began))
            if not alive:
                return
        wall = time.perf_counter() - began
        alive_runs = [active for active in active_runs if active.failure is None]
        for active in alive_runs:
            active.seconds += wall
            active.share_seconds += wall / len(alive_runs)
            self._close_epoch(active, wall, images)

    def _close_epoch(self, active: ActiveRun, wall: float, images: int) -> None:
        """Evaluate a run after an epoch of `wall` seconds, and write its files."""
        if not self.claims[active.run.key].mine():
            self._leave_to_new_holder(active)
            return
        files, main = self.files[active.run.key], active.stage.is_main
        row = active.end_epoch()
        row["seconds"] = round(wall, 3)
        if not math.isfinite(row["train_loss"]):
            active.diverged = True
        elif main and active.student is not None:
            began = time.perf_counter()
            result = self._isolated(active, lambda: self._evaluate(active))
            if result is None:
                return
            elapsed = time.perf_counter() - began
            active.seconds += elapsed
            active.share_seconds += elapsed
            row |= {"test_acc": result.top1, "test_acc_top5": result.top5, "test_loss": result.loss}
            if result.top1 > active.best.top1:  # the first of equal epochs, as in the papers' code
                active.best = Best(active.epoch, result.top1)
                files.save_weights(active, "best.pt", result)
        files.write_epoch(active, row)
        images_per_second = images / wall if wall else 0.0
        files.write_progress(active, len(active.curve), images_per_second, self.info.train_images)
        self.reporter.epoch(active.run, row)
        self.options.after_epoch(active)
        if active.finished:
            self._finish(active)

    def _evaluate(self, active: ActiveRun) -> Score:
        assert active.student is not None
        objective = active.objective
        objective.eval()
        predict = (lambda features: objective.predict(features.float32())) if objective.predictors else None
        return self._score(active.student, predict)

    def _score(self, net: Network, predict: Callable[[Features], Tensor] | None = None) -> Score:
        return evaluate(
            net,
            self.test_split,
            mean=self.mean,
            std=self.std,
            execution=self.execution,
            predict=predict,
        )

    def _evaluate_imported(self, run: Run) -> None:
        """Write the record of an imported checkpoint: its accuracy, overall and by class."""
        ref = run.evaluates
        assert ref is not None
        began = time.perf_counter()
        net = imported.load_teacher(ref, run.dataset, Path(ref.path))
        self.execution.to_device(net)
        # independent of this execution, so it is measured in the reference precision
        exact = replace(self.execution, precision="fp32")
        with exact.applied():
            z = logits(net, self.test_split, self.mean, self.std, exact)
        result = score(z, self.test_split.labels)
        classes = self.classes or tuple(map(str, range(z.shape[1])))
        by_class = dict(zip(classes, per_class(z, self.test_split.labels), strict=True))
        extra = imported.read_checkpoint(Path(ref.path), ref.network).extra
        self.files[run.key].write_imported(
            self.info,
            score=result,
            per_class={name: top1 for name, top1 in by_class.items() if math.isfinite(top1)},
            extra={k: v for k, v in extra.items() if isinstance(v, int | float | str | bool)},
            seconds=time.perf_counter() - began,
        )
        self._end(Outcome(run, Status.DONE))

    def _write_progress(self, active_runs: Sequence[ActiveRun], steps: int, images_per_second: float) -> None:
        """Update the progress files every few seconds, so that `status` is current within a long epoch."""
        if time.monotonic() - self._progress_written < PROGRESS_SECONDS:
            return
        self._progress_written = time.monotonic()
        part = steps / max(self.stream.steps(MAIN, 1), 1)
        for active in active_runs:
            if active.failure is None:
                files, train_images = self.files[active.run.key], self.info.train_images
                files.write_progress(active, active.epochs_done + part, images_per_second, train_images)

    # --- how runs end ---------------------------------------------------------------------------------------

    def _isolated(self, active: ActiveRun, call: Callable[[], T]) -> T | None:
        """Return `call()`, which may run a method's code; None after an error, which ends this run alone."""
        try:
            return call()
        except InputError:
            raise
        except Exception as error:
            active.failure = error
            self._fail(active.run, error)
            return None

    def _leave_to_new_holder(self, active: ActiveRun) -> None:
        """Drop a run that another process has taken over, without writing anything more to its folder.

        That happens when this process was halted for so long that its claim counted as abandoned:
        suspended, or waiting for a network file system.
        """
        holder = self.store.holder(active.run.key) or {}
        reason = (
            f"taken over by process {holder.get('pid')} on {holder.get('host')} while this process was halted"
        )
        active.failure = RuntimeError(reason)
        self._end(Outcome(active.run, Status.BUSY, reason))

    def _finish(self, active: ActiveRun) -> None:
        record = self.files[active.run.key].finish(
            active, self.info, keep_weights=self.options.keep != "none"
        )
        self._end(Outcome(active.run, Status(record["status"]), record["reason"] or ""))

    def _fail(self, run: Run, error: BaseException) -> None:
        self._end(Outcome(run, Status.FAILED, self.files[run.key].fail(error)))

    def _end(self, outcome: Outcome) -> None:
        self.outcomes[outcome.run.key] = outcome
        self.reporter.outcome(outcome.run, outcome)


def teacher_path(ref: TeacherRef, store: Store) -> Path:
    """Return the file of a teacher's weights."""
    return Path(ref.path) if ref.run is None else store.path(ref.run.key) / f"{ref.epoch}.pt"
