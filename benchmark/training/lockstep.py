"""One epoch of a pack: which views are made, what is read from the teacher, and how the students are stepped.

On a CPU, the teacher's pass uses all threads; then the students are stepped side by side in lanes of
`student_threads` threads each. A `Stepper` (stepper.py, graphs.py) drives the steps of an epoch. The
trainer and `bench` run the same code.

A method that changes what the runs share (see guard.py) makes the epoch `spoiled`: the trainer then drops it,
and goes on from the last checkpoints. If the culprit is not known, it trains the epoch again with `careful`,
one student at a time, to find it.

Nothing here waits for the device: between the first and the last batch of an epoch, no value is read on the
host (tests/benchmark/training/test_no_sync.py counts such reads).
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch

from benchmark import torch_settings
from benchmark.data.portions import portion
from benchmark.data.stream import Batch, BatchDraw, Stream
from benchmark.data.views import NORMAL, View
from benchmark.methods import IN_TRAIN, Leak
from benchmark.seeds import global_states
from benchmark.training import processes
from benchmark.training.active_run import ActiveRun
from benchmark.training.execution import Execution
from benchmark.training.features import features_of
from benchmark.training.gathering import gathered_features
from benchmark.training.guard import Originals, Sample, past_the_counters, tensors_of
from benchmark.training.teacher_cache import TeacherCache
from models import Features, Network, batch_statistics

OnFailure = Callable[[ActiveRun, Exception], None]
"""Called with a run and the error that ended it."""


@dataclass(frozen=True)
class TeacherFeatures:
    """The teacher's features of one batch, by view."""

    live: Mapping[str, Features]
    """Computed by a pass."""
    cached: Mapping[str, Features]
    """Read from the teacher cache."""
    in_train: Mapping[str, Features]
    """Computed by the pass in train mode, if some run reads it; under `IN_TRAIN`."""


class Lockstep:
    """The runs of a pack for one epoch. All are in the same stage and epoch, and have begun the epoch."""

    def __init__(
        self,
        active_runs: Sequence[ActiveRun],
        teacher: Network | None,
        execution: Execution,
        teacher_cache: TeacherCache | None = None,
        careful: Originals | None = None,
    ) -> None:
        """teacher_cache: read by every run that finds all it needs there. The others get a teacher pass.

        careful: the tensors that the runs share for longer than a step. They and the batch are compared after
        each student's step.
        """
        self.active_runs, self.teacher, self.execution = active_runs, teacher, execution
        self.teacher_cache = teacher_cache
        self.spoiled = False
        """Whether a method has changed what other runs of this epoch read."""
        self.culprit_unknown = False
        """Whether it is not known which method has."""
        self._careful = careful
        self._step_number = 0
        self._sample: Sample | None = None
        self._batch_originals: Originals | None = None
        self._changed: torch.Tensor | None = None  # whether a sample has changed so far: a bool on the device
        self.views: dict[str, View] = {}
        """The views of the batch that are made."""
        self._cached_views: dict[str, View] = {}
        self._reads_cache = [
            teacher_cache is not None and teacher_cache.serves(a.stage.needs) for a in active_runs
        ]
        live: dict[str, set[str]] = {}
        in_train: set[str] = set()
        for active, reads_cache in zip(active_runs, self._reads_cache, strict=True):
            needs = active.stage.needs
            if active.stage.is_main:
                active.note_teacher_cache("on" if reads_cache else "off")
            self.views |= {view.name: view for view in (*needs.views, *needs.images)}
            for view in needs.passes:
                if reads_cache:
                    self._cached_views[view.name] = view
                else:
                    self.views[view.name] = view
                    live.setdefault(view.name, set()).update(needs.teacher)
            if needs.teacher_in_train:
                self.views[NORMAL.name] = NORMAL
                in_train |= needs.teacher_in_train
        self._live_parts = {name: frozenset(parts) for name, parts in live.items()}
        self._parts_in_train = frozenset(in_train)
        self._lanes = lanes(execution)
        self._longest_first = sorted(
            range(len(active_runs)), key=lambda i: -len(active_runs[i].stage.needs.views)
        )

    @property
    def signature(self) -> tuple[Any, ...]:
        """What the batch and the teacher's passes consist of. Their CUDA graph is valid while it is equal."""
        live = tuple(sorted((name, tuple(sorted(parts))) for name, parts in self._live_parts.items()))
        return tuple(self.views), tuple(self._cached_views), live, tuple(sorted(self._parts_in_train))

    # --- the batch and the teacher --------------------------------------------------------------------------

    def draws(self, stream: Stream, stage: str, epoch: int) -> Iterator[BatchDraw]:
        """Return the random draws of the epoch's batches, from which `make_batch` makes the batches."""
        return stream.draws(stage, epoch, self.views.values(), self._cached_views.values())

    def make_batch(self, stream: Stream, draw: BatchDraw) -> Batch:
        """Make a batch with the views that some run reads; of this process's portion if several share it."""
        views, team = self.views.values(), processes.current()
        if self.execution.is_shared:
            rows, first = draw.shape
            mine = portion(rows, first, process=team.number, processes=team.count)
            if mine is not None:
                return stream.portion(draw, views, mine)
        return stream.batch(draw, views)

    def batches(self, stream: Stream, stage: str, epoch: int) -> Iterator[Batch]:
        """Yield the epoch's batches with the views that some run reads."""
        for draw in self.draws(stream, stage, epoch):
            yield self.make_batch(stream, draw)

    def teacher_features(self, batch: Batch) -> TeacherFeatures:
        """Run the teacher once for each view that needs a pass, and read the other views from the cache."""
        live = {
            name: self._of_all(batch, name, self.teacher_pass(batch.views[name], parts))
            for name, parts in self._live_parts.items()
        }
        cached: dict[str, Features] = {}
        if self.teacher_cache is not None:
            cached = {
                name: self.teacher_cache.features(batch.indices, batch.draws[name])
                for name in self._cached_views
            }
        in_train: dict[str, Features] = {}
        if self._parts_in_train:
            assert self.teacher is not None
            with batch_statistics(self.teacher), self.execution.norms_of(batch):
                features = self.teacher_pass(batch.views[NORMAL.name], self._parts_in_train)
            in_train[IN_TRAIN] = self._of_all(batch, NORMAL.name, features)
        return TeacherFeatures(live, cached, in_train)

    def _of_all(self, batch: Batch, view: str, features: Features) -> Features:
        """Return the features of the whole batch, of which this process may have computed a portion."""
        if batch.portion is None:
            return features
        copies = self.views[view].copies
        return gathered_features(features, batch.portion, copies, processes.current())

    def features_for(self, i: int, features: TeacherFeatures) -> Mapping[str, Features]:
        """Return the teacher's features that run number i reads, by view."""
        in_eval = features.cached if self._reads_cache[i] else features.live
        return {**in_eval, **features.in_train} if features.in_train else in_eval

    @torch.no_grad()
    def teacher_pass(self, x: torch.Tensor, parts: frozenset[str]) -> Features:
        """Run the teacher on images `[B, 3, H, W]` and return the named parts."""
        assert self.teacher is not None
        with self.execution.autocast():
            return features_of(self.teacher, x, parts)

    # --- the students ---------------------------------------------------------------------------------------

    def step(self, batch: Batch, on_failure: OnFailure | None = None) -> int:
        """Step every run that has not failed. Returns how many have not failed after it.

        An error of a run ends that run alone and is passed to `on_failure`; without it, the error is raised.
        """
        features = self.teacher_features(batch)
        self.watch_batch(batch, features)

        def step_run(i: int) -> None:
            self.active_runs[i].begin_step()
            self.active_runs[i].step(batch, self.features_for(i, features))

        return self.step_runs(step_run, len(batch.labels), on_failure)

    def watch_batch(self, batch: Batch, features: TeacherFeatures) -> None:
        """Note the values of a batch that is stepped next, so that a change of them is noticed."""
        tensors = tensors_of(batch, {**{f"live {k}": f for k, f in features.live.items()}, **features.cached})
        if self._careful is None:
            self._sample = Sample(tensors)
        else:
            self._batch_originals = Originals({f"tensor {i}": t for i, t in enumerate(tensors)})

    def step_runs(
        self,
        step_run: Callable[[int], None],
        images: int,
        on_failure: OnFailure | None = None,
        longest_first: bool = False,
    ) -> int:
        """Step every run that has not failed on a batch of `images`; `step_run(i)` steps run number i.

        See `step` for errors and the result. longest_first: outside of lanes, begin with the runs that have
        the most views, and not in the given order.
        """
        self._step_number += 1
        for active in self.active_runs:
            active.step_number = self._step_number
        errors = self._call_each(step_run, longest_first)
        self._compare_sample(now=any(error is not None for error in errors))
        for active, error in zip(self.active_runs, errors, strict=True):
            if error is not None:
                if on_failure is None:
                    raise error
                if self.spoiled and not isinstance(error, Leak):
                    continue  # perhaps caused by what was spoiled; else it will come again
                active.failure = error
                on_failure(active, error)
            else:
                active.meter.images += images
        return sum(active.failure is None for active in self.active_runs)

    def values_changed(self) -> bool:
        """Return whether a method changed a batch past the counters of writes. Waits for the device."""
        return self._changed is not None and bool(self._changed)

    def _compare_sample(self, now: bool) -> None:
        """Compare the batch with its sample. now: wait for the answer, and mark the epoch as spoiled."""
        if self._sample is not None:
            changed, self._sample = self._sample.changed(), None
            self._changed = changed if self._changed is None else self._changed | changed
        if now and not self.spoiled and self.values_changed():
            self._spoil()

    def _spoil(self, culprit_unknown: bool = True) -> None:
        self.spoiled = True
        self.culprit_unknown |= culprit_unknown

    def _call_each(self, step_run: Callable[[int], None], longest_first: bool) -> list[Exception | None]:
        """Call `step_run` for the runs that have not failed, in turn or in lanes. Returns their errors.

        No run reads what another one writes. Stops after a run that changed what the others read.
        """
        errors: list[Exception | None] = [None] * len(self.active_runs)

        def timed_step(i: int) -> None:
            began = time.perf_counter()
            try:
                with processes.current().together(self.active_runs[i].run.key):
                    step_run(i)
            except Exception as error:
                errors[i] = error
            self.active_runs[i].step_seconds = time.perf_counter() - began

        alive = [i for i in self._longest_first if self.active_runs[i].failure is None]
        if self._lanes is None:
            in_turn = alive if longest_first else sorted(alive)
        else:
            # a long step that began last would keep one lane busy while the others are idle
            alive.sort(key=lambda i: -self.active_runs[i].step_seconds)
            side_by_side = [i for i in alive if not self.active_runs[i].draws_globally]
            if self._careful is not None or len(side_by_side) == 1:
                side_by_side = []
            self._call_side_by_side(timed_step, side_by_side, errors)
            in_turn = [i for i in alive if i not in side_by_side]
        for i in in_turn:
            if self.spoiled:
                break
            self._call_alone(timed_step, i, errors)
        return errors

    def _call_side_by_side(
        self, timed_step: Callable[[int], None], runs: Sequence[int], errors: Sequence[Exception | None]
    ) -> None:
        """Call `timed_step` for these runs in lanes.

        Meanwhile any of them may change the settings of the process or draw from the global generators, and
        it is not known which one did. That spoils the epoch; a careful one then shows it.
        """
        if not runs:
            return
        assert self._lanes is not None
        settings, states = torch_settings.read_settings(torch_settings.OF_PROCESS), global_states()
        for i in runs:
            self.active_runs[i].guard.side_by_side = True
        futures: list[Future[None]] = [self._lanes.submit(timed_step, i) for i in runs]
        try:
            for future in futures:
                future.result()
        finally:
            wait(futures)  # after an interrupt, no step may still run during the clean-up
            for i in runs:
                self.active_runs[i].guard.side_by_side = False
        if any(isinstance(errors[i], Leak) for i in runs):
            self._spoil(culprit_unknown=False)
        if torch_settings.put_back(torch_settings.OF_PROCESS, settings) or global_states() != states:
            self._spoil()

    def _call_alone(self, timed_step: Callable[[int], None], i: int, errors: list[Exception | None]) -> None:
        """Call `timed_step` for one run while no other run is stepped."""
        active = self.active_runs[i]
        if self._lanes is None:
            timed_step(i)
        else:
            future = self._lanes.submit(timed_step, i)
            try:
                future.result()
            finally:
                wait([future])
        if self._careful is None:
            if isinstance(errors[i], Leak):
                self._spoil(culprit_unknown=False)
            return
        if errors[i] is None:
            active.draws_globally |= active.drew_globally()
        changed = [*self._careful.changed()]
        if self._batch_originals is not None and self._batch_originals.changed():
            changed.append("the batch")
        if changed and not isinstance(errors[i], Leak):
            errors[i] = Leak(active.run.method, "its step", past_the_counters(changed))
        if isinstance(errors[i], Leak):
            self._spoil(culprit_unknown=False)


def lanes(execution: Execution) -> ThreadPoolExecutor | None:
    """Return the pool in which students are stepped side by side.

    None where the calling thread steps them: on a GPU, if one student uses all threads, and where several
    processes share the batches. Must be called by the thread whose number of threads the execution has set.
    """
    total = execution.threads or torch.get_num_threads()
    each = execution.student_threads
    if execution.torch_device.type != "cpu" or each >= total or execution.is_shared:
        return None
    return _lanes(total // each, each)


@functools.cache
def _lanes(number: int, each: int) -> ThreadPoolExecutor:
    """Return a pool of `number` threads, each of which computes with `each` threads.

    torch keeps the number of threads separately for every calling thread.
    """
    before = torch.get_num_threads()
    started = threading.Barrier(number + 1)

    def begin() -> None:
        # the first call in a thread takes over the process's number, so it must come before the number is set
        torch.get_num_threads()
        torch.set_num_threads(each)
        started.wait()

    pool = ThreadPoolExecutor(number, "lane", initializer=begin)
    for _ in range(number):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(before)  # the number with which later threads start
    return pool
