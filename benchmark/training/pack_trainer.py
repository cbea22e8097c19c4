"""The trainer: one pack, one teacher pass, many students.

Each step draws one batch, runs the teacher once for every view that some run of the pack needs, and steps
every student. The runs do not influence each other: in fp32 on the CPU, the weights of a run are bit-equal
whether it is trained alone or in any pack. Every run has its own checkpoint, written after each epoch. Runs
of a pack may have done different numbers of epochs (after a crash between two checkpoints, or if the packs
were formed differently before); those that are behind catch up first.

If several processes share the batches (processes.py), each of them has a trainer of the same pack. The one of
process 0 decides what depends on files and on time, and writes all files.

An error in a method or network ends its run alone, and so does a path in a run's folder that cannot be used
(`pack_runs.ends_the_pack`). A method that changes what other runs use (guard.py) ends its run too; what it
changed is put back, and the other runs of the epoch go back to their last checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import models
from benchmark import data
from benchmark.data.datasets import Split
from benchmark.errors import InputError
from benchmark.methods import Leak
from benchmark.seeds import global_generators_kept
from benchmark.spec.runs import Run
from benchmark.text import plural
from benchmark.training import checkpoint, graphs, kept_weights, processes
from benchmark.training.active_run import ActiveRun
from benchmark.training.evaluate import Score
from benchmark.training.guard import Originals, named_tensors, past_the_counters
from benchmark.training.lockstep import Lockstep
from benchmark.training.pack_data import PackData
from benchmark.training.pack_measuring import evaluate_runs, measure_runs
from benchmark.training.pack_runs import PackRuns, ends_the_pack
from benchmark.training.pack_teacher import PackTeacher
from benchmark.training.reporter import Outcome, Status
from benchmark.training.run_files import PackInfo
from benchmark.training.stages import MAIN, Best, NextEpoch
from benchmark.training.stepper import EagerStepper, Stepper
from benchmark.user_code import RunCodeError
from models import Network
from results.claims import ClaimLost

T = TypeVar("T")

PROGRESS_SECONDS = 5.0
"""Seconds between two updates of the progress files within an epoch."""


class PackTrainer(PackRuns):
    """Trains the runs of one pack, which this process has claimed. Use it through `train_pack`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.active_runs: list[ActiveRun] = []
        self.careful = False
        """Whether the next epoch is trained one student at a time, to find a method that spoils it."""
        self._progress_written = 0.0

    def train(self) -> dict[str, Outcome]:
        """Train all runs whose needs are met. Returns the outcome of every run, by key."""
        ready = self.ready()
        if ready:
            with self.execution.applied(), global_generators_kept(self.execution.torch_device):
                if ready[0].measure is not None:
                    if self.team.leads:
                        measure_runs(self, ready)
                    return self.outcomes
                with self.team.leader_first():
                    self._load_data(ready[0])
                if ready[0].evaluates is not None:
                    if self.team.leads:
                        evaluate_runs(self, ready, self.images, self.info)
                elif self._load_teacher(ready):
                    self._train(ready)
        return self.outcomes

    # --- before the first epoch -----------------------------------------------------------------------------

    def _load_data(self, run: Run) -> None:
        """Load what all runs of the pack have in common with this one."""
        self.images = PackData.load(run, self.options.data_folder, self.execution)
        self.shared = Originals({"context.train_labels": self.images.train.labels})
        self.info = PackInfo(
            execution=self.execution,
            size=len(self.runs),
            train_images=len(self.images.train.labels),
            test_images=len(self.images.test.labels),
            images=self.images.train.source,
        )

    def _load_teacher(self, runs: Sequence[Run]) -> bool:
        """Load the teacher of the pack, if it has one. Returns False if its file is damaged, or it fails.

        The runs of the pack have failed then: the teacher was trained here, and other packs have other
        teachers. A damaged checkpoint that the user imported raises `InputError`: no run that uses it can be
        trained.
        """
        self.teacher: PackTeacher | None = None
        ref = runs[0].teacher_ref
        if ref is None:
            return True
        try:
            self.teacher = PackTeacher.load(ref, runs[0], self.images, self.store, self.options)
        except (checkpoint.Damaged, RunCodeError) as error:
            for run in runs:
                self.fail(run, error)
            return False
        named = {f"the teacher's {name}": tensor for name, tensor in named_tensors(self.teacher.net)}
        self.shared = Originals({**self.shared.tensors, **named})
        self.info = replace(self.info, teacher=self.teacher.info)
        return True

    @property
    def _teacher_net(self) -> Network | None:
        return None if self.teacher is None else self.teacher.net

    def _open(self, run: Run) -> ActiveRun | None:
        """Build the run, or read it from its checkpoint. None if that fails; the failure is then stored."""
        active = self._open_here(run)
        epochs = self.team.agree(-1 if active is None else active.epochs_done)
        if active is not None and epochs >= 0 and active.epochs_done != epochs:
            raise processes.ProcessLost(
                f"{run.key}: process {self.team.number} reads another checkpoint than process 0; put the "
                "results into a folder that all processes see"
            )
        if active is None and epochs >= 0:
            raise processes.ProcessLost(f"process {self.team.number} alone could not open {run.key}")
        return active if epochs >= 0 else None

    def _open_here(self, run: Run) -> ActiveRun | None:
        files = self.files[run.key]
        files.folder.mkdir(parents=True, exist_ok=True)
        device = self.execution.torch_device
        try:
            artifacts = {head.method: kept_weights.load_head(head, self.store, device) for head in run.heads}
            active = ActiveRun.open(
                run,
                files.folder,
                execution=self.execution,
                teacher=self._teacher_net,
                train_labels=self.images.train.labels,
                artifacts=artifacts,
            )
            if changed := self.shared.changed():
                raise Leak(run.method, "__init__", past_the_counters(changed))
        except InputError:
            raise
        except Exception as error:
            if isinstance(error, Leak):
                self._put_back(error)
            self.fail(run, error)
            return None
        try:
            files.begin(active, self.info)
        except ClaimLost:  # halted while the data were loaded
            self._leave_to_new_holder(active)
            return None
        except OSError as error:
            if ends_the_pack(error):
                raise
            self.fail(run, error)
            return None
        active.until = self.options.until
        return active

    # --- training -------------------------------------------------------------------------------------------

    def _train(self, runs: Sequence[Run]) -> None:
        """Train the runs epoch by epoch; those that are behind first."""
        first = runs[0]
        self.stream = data.open_stream(
            self.images.train,
            mean=tuple(first.settings["normalise"]["mean"]),
            std=tuple(first.settings["normalise"]["std"]),
            sampler=first.spec.sampler,
            batch_size=first.recipe.batch_size,
            drop_last=first.recipe.drop_last,
            seed=first.seed,
            augment=first.recipe.augment,
            mixup=first.recipe.mixup,
        )
        self.teacher_cache = (
            self.teacher.open_cache(runs, self.images, self.store, self.options) if self.teacher else None
        )
        self.stepper = self._new_stepper()
        self.active_runs = [active for run in runs if (active := self._open(run)) is not None]
        steps = self.stream.steps(MAIN, 1)
        total = sum(active.epochs_to_do for active in self.active_runs)
        done = sum(active.epochs_done for active in self.active_runs)
        self.reporter.begin(runs, steps_total=total * steps, steps_done=done * steps)
        for active in self.active_runs:
            if active.finished:
                try:
                    self._isolated(active, "finish", partial(self._finish, active))
                except ClaimLost:
                    self._leave_to_new_holder(active)
        self._agree_on_ended()
        while epochs := {epoch for active in self.active_runs if (epoch := active.next_epoch) is not None}:
            epoch = min(epochs)
            self._train_epoch(epoch, [active for active in self.active_runs if active.next_epoch == epoch])
        for active in self.active_runs:
            if active.stopped:
                reason = f"after epoch {active.epoch} of {active.stage.epochs}, as requested"
                self.outcomes[active.run.key] = Outcome(active.run, Status.STOPPED, reason)

    def _new_stepper(self) -> Stepper:
        """Return the pack's stepper.

        With a network of the user's there are no CUDA graphs: its passes may wait for the device.
        """
        networks = {run.student for run in self.runs} | ({self.teacher.net.name} if self.teacher else set())
        stepper = graphs.stepper_for(self.execution, self.reporter.note)
        users = sorted(networks & models.user_networks().keys())
        if self.execution.sync_norms and users:
            raise InputError(
                f"--sync-norms does not reach the batch norms of networks of your own ({', '.join(users)}); "
                "leave it out, or train these networks in one process"
            )
        if users and not isinstance(stepper, EagerStepper):
            self.reporter.note(
                f"no CUDA graphs for this pack, because of networks of your own: {', '.join(users)}"
            )
            return EagerStepper()
        return stepper

    def _train_epoch(self, next_epoch: NextEpoch, active_runs: Sequence[ActiveRun]) -> None:
        """Train one epoch of runs that are all in the same stage and epoch."""
        began = time.perf_counter()
        steps_in_epoch = self.stream.steps(next_epoch.stream, next_epoch.epoch)
        for active in active_runs:
            self._isolated(active, "begin_epoch", partial(active.begin_epoch, steps_in_epoch))
        careful, self.careful = self.careful, False
        lockstep = Lockstep(
            active_runs,
            self._teacher_net,
            self.execution,
            self.teacher_cache,
            careful=self.shared if careful else None,
        )
        images = 0

        def on_failure(active: ActiveRun, error: Exception) -> None:
            self.fail(active.run, error)
            if isinstance(error, Leak):
                self._put_back(error)

        stepper = EagerStepper() if careful else self.stepper
        steps = stepper.steps(
            lockstep, self.stream, stage=next_epoch.stream, epoch=next_epoch.epoch, on_failure=on_failure
        )
        for number, (size, alive) in enumerate(steps):
            images += size
            self.reporter.step(active_runs[0].stage.name, next_epoch.epoch, steps=alive, images=size * alive)
            self._write_progress(active_runs, number + 1, images / (time.perf_counter() - began))
            if lockstep.spoiled or not alive:
                break
        self.stepper.synchronise()
        if not lockstep.spoiled and (lockstep.values_changed() or self.shared.changed()):
            lockstep.spoiled = lockstep.culprit_unknown = True
        spoiled = lockstep.spoiled, lockstep.culprit_unknown
        lockstep.spoiled, lockstep.culprit_unknown = self.team.agree(spoiled)
        if lockstep.spoiled:
            if careful and lockstep.culprit_unknown:
                raise InputError(
                    "something changes what all runs of the pack read, and it is none of their methods' "
                    "functions; look for a thread that a method of your own has started"
                )
            self._go_back(active_runs, careful=lockstep.culprit_unknown)
            return
        wall = time.perf_counter() - began
        alive_runs = [active for active in active_runs if active.failure is None]
        for active in alive_runs:
            active.seconds += wall
            active.share_seconds += wall / len(alive_runs)
            try:
                self._isolated(active, "end of the epoch", partial(self._close_epoch, active, wall, images))
                if active.failure is None:
                    self.options.after_epoch(active)
                    if active.finished:
                        self._isolated(active, "finish", partial(self._finish, active))
            except ClaimLost:  # since the check at its beginning
                self._leave_to_new_holder(active)
        self._agree_on_ended()

    def _agree_on_ended(self) -> None:
        """Drop the runs that process 0 has dropped, for example those that another command has taken over."""
        ended = self.team.agree([a.run.key for a in self.active_runs if a.failure is not None])
        for active in self.active_runs:
            if active.failure is not None and active.run.key not in ended:
                raise processes.ProcessLost(
                    f"process {self.team.number} alone has ended {active.run.key}: {active.failure}"
                )
            if active.failure is None and active.run.key in ended:
                active.failure = RuntimeError("process 0 has ended it")

    def _go_back(self, active_runs: Sequence[ActiveRun], careful: bool) -> None:
        """Take the runs back to their last checkpoints, because an epoch was spoiled.

        careful: train it again one student at a time, to find the method that spoils it.
        """
        self.shared.put_back()
        self.stepper = self._new_stepper()
        self.careful = careful
        alive = [active for active in active_runs if active.failure is None]
        if alive:
            why = "to find the method that changes what they share" if careful else "without that method"
            self.reporter.note(
                f"the pack goes on from the last epoch with {plural(len(alive), 'run')}, {why}"
            )
        fresh = {id(active): self._open(active.run) for active in alive}
        self.active_runs = [
            active for old in self.active_runs if (active := fresh.get(id(old), old)) is not None
        ]

    def _close_epoch(self, active: ActiveRun, wall: float, images: int) -> None:
        """Evaluate a run after an epoch of `wall` seconds, and write its files."""
        if not self.team.agree(self.team.leads and self.claims[active.run.key].mine()):
            self._leave_to_new_holder(active)
            return
        files, main = self.files[active.run.key], active.stage.is_main
        row = active.end_epoch()
        row["seconds"] = round(wall, 3)
        row = self.team.agree(row)
        if not math.isfinite(row["train_loss"]):
            active.diverged = True
        elif main and active.student is not None:
            began = time.perf_counter()
            with self.team.together(f"evaluation of {active.run.key}"):
                result = self._evaluate(active, self.images.test)
                if self.images.held_out is not None:
                    row["held_out_acc"] = self._evaluate(active, self.images.held_out).top1
            elapsed = time.perf_counter() - began
            active.seconds += elapsed
            active.share_seconds += elapsed
            row |= {"test_acc": result.top1, "test_acc_top5": result.top5, "test_loss": result.loss}
            if result.top1 > active.best.top1:  # the first of equal epochs, as in the papers' code
                active.best = Best(active.epoch, result.top1)
        files.write_epoch(active, row)
        images_per_second = images / wall if wall else 0.0
        files.write_progress(active, len(active.curve), images_per_second, self.info.train_images)
        self.reporter.epoch(active.run, row)

    def _evaluate(self, active: ActiveRun, split: Split) -> Score:
        assert active.student is not None
        objective = active.objective
        active.seed_globals("predict")
        objective.set_mode(training=False)
        predict = objective.predict if objective.predictors else None
        return self.images.score(active.student, split, predict)

    def _write_progress(self, active_runs: Sequence[ActiveRun], steps: int, images_per_second: float) -> None:
        """Update the progress files every few seconds, so that `status` is current within a long epoch."""
        if time.monotonic() - self._progress_written < PROGRESS_SECONDS:
            return
        self._progress_written = time.monotonic()
        part = steps / max(self.stream.steps(MAIN, 1), 1)
        for active in active_runs:
            if active.failure is None:
                files, train_images = self.files[active.run.key], self.info.train_images
                try:
                    files.write_progress(active, active.epochs_done + part, images_per_second, train_images)
                except OSError as error:
                    # what concerns this run alone is noticed again at the end of the epoch
                    if not isinstance(error, ClaimLost) and ends_the_pack(error):
                        raise

    # --- how runs end ---------------------------------------------------------------------------------------

    def _isolated(self, active: ActiveRun, hook: str, call: Callable[[], T]) -> T | None:
        """Return `call()`, which may run a method's code; None after an error that ends this run alone.

        hook: what is called, for the message. Other errors are passed on (`ends_the_pack`).
        """
        try:
            result = call()
            if changed := self.shared.changed():
                raise Leak(active.run.method, hook, past_the_counters(changed))
        except Exception as error:
            if ends_the_pack(error):
                raise
            active.failure = error
            self.fail(active.run, error)
            if isinstance(error, Leak):
                self._put_back(error)
            return None
        return result

    def _put_back(self, leak: Leak) -> None:
        """Give the tensors that the runs share their values back.

        Raises `InputError` if something else could not be put back.
        """
        self.shared.put_back()
        if not leak.restored:
            raise InputError(f"{leak}; it cannot be put back in this process, so start the command again")

    def _leave_to_new_holder(self, active: ActiveRun) -> None:
        """Drop a run that another process has taken over."""
        outcome = self.end_taken_over(active.run)
        active.failure = RuntimeError(outcome.reason)

    def _finish(self, active: ActiveRun) -> None:
        record = self.files[active.run.key].finish(
            active, self.info, keep_weights=self.options.keep != "none"
        )
        self.end(Outcome(active.run, Status(record["status"]), record["reason"] or ""))
