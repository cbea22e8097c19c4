"""The step of a pack: one batch, one teacher pass a view, every student stepped. The trainer and `bench` both run this very code.

On a CPU the teacher's pass is shared by all threads, then the students are stepped side by side in lanes of `student_threads`. On a GPU
the steps are replayed from graphs (benchmark/training/graphs.py).

Nothing here waits for the device: no value is looked at on the host between the first batch of an epoch and its last (a test counts).
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch

from benchmark.data.stream import Batch, BatchDraw, Stream
from benchmark.data.views import View
from benchmark.training.active_run import MAIN, ActiveRun, seen_of
from benchmark.training.execution import Execution
from benchmark.training.graphs import Graphs
from benchmark.training.teacher_cache import TeacherCache
from models import Features, Network

Seen = tuple[Mapping[str, Features], Mapping[str, Features]]
"""The teacher's features by view: of the passes, and of the table."""


class Lockstep:
    """The items of a pack for one epoch (all in the same stage and epoch, `begin_epoch` done by the caller)."""

    def __init__(
        self,
        items: Sequence[ActiveRun],
        teacher: Network | None,
        execution: Execution,
        table: TeacherCache | None = None,
        graphs: Graphs | None = None,
    ) -> None:
        """table: read instead of a pass by every item that it serves, whatever the others of the pack need. graphs: those of the pack,
        which outlive the epoch; None steps eagerly."""
        self.items, self.teacher, self.execution, self.table, self.graphs = (
            items,
            teacher,
            execution,
            table,
            graphs,
        )
        self.views: dict[str, View] = {}
        self._read: dict[str, View] = {}
        self._reads = [table is not None and table.serves(i.stage.needs) for i in items]
        live: dict[str, set[str]] = {}
        for item, reads in zip(items, self._reads, strict=True):
            needs = item.stage.needs
            if item.stage.name == MAIN:
                item.note_teacher_cache("on" if reads else "off")
            self.views |= {view.name: view for view in needs.views}
            for view in needs.passes:
                if reads:
                    self._read[view.name] = view
                else:
                    self.views[view.name] = view
                    live.setdefault(view.name, set()).update(needs.teacher)
        self._live = {name: frozenset(parts) for name, parts in live.items()}
        self._pool = lanes(execution)
        self._order = sorted(
            range(len(items)), key=lambda i: -len(items[i].stage.needs.views)
        )  # the long ones first

    def batches(self, stream: Stream, stage: str, epoch: int) -> Iterator[Batch]:
        """The epoch's batches with the views that some item reads."""
        return stream.epoch(stage, epoch, self.views.values(), self._read.values())

    def steps(
        self,
        stream: Stream,
        stage: str,
        epoch: int,
        failed: Callable[[ActiveRun, Exception], None] | None = None,
    ) -> Iterator[tuple[int, int]]:
        """The epoch, a step each time it is asked: `(images of the batch, items alive after it)`. `failed`: see `step`."""
        every = stream.draws(stage, epoch, self.views.values(), self._read.values())
        if self.graphs is None:
            for rows in every:
                yield len(rows.indices), self.step(self.make(stream, rows), failed)
        else:
            yield from self.graphs.steps(self, stream, every, failed)

    @property
    def signature(self) -> tuple[Any, ...]:
        """What the batch and the teacher's passes are made of: as long as it stays, so does their graph."""
        live = tuple(sorted((name, tuple(sorted(parts))) for name, parts in self._live.items()))
        return tuple(self.views), tuple(self._read), live

    def make(self, stream: Stream, rows: BatchDraw) -> Batch:
        """The batch of these rows, with the views that some item reads."""
        return stream.batch(rows, self.views.values())

    def step(self, batch: Batch, failed: Callable[[ActiveRun, Exception], None] | None = None) -> int:
        """One step of every item that is alive. An item's error goes to `failed` and ends that item alone (without it, it is raised).
        Returns how many items are alive after it."""
        seen = self.see(batch)

        def one(i: int) -> None:
            with contextlib.nullcontext() if self.graphs is None else self.graphs.beside(self.items[i]):
                self.items[i].step(batch, self.seen_by(i, seen))

        return self.students(one, len(batch.labels), failed)

    def see(self, batch: Batch) -> Seen:
        """What is to be seen of the teacher, by view: by one pass a view for all, and in the table's rows."""
        seen = {name: self._pass(batch.views[name], parts) for name, parts in self._live.items()}
        read: dict[str, Features] = {}
        if self.table is not None:
            read = {name: self.table.features(batch.indices, batch.draws[name]) for name in self._read}
        return seen, read

    def seen_by(self, i: int, seen: Seen) -> Mapping[str, Features]:
        """ActiveRun number i's part of it."""
        return seen[1] if self._reads[i] else seen[0]

    def students(
        self,
        one: Callable[[int], None],
        images: int,
        failed: Callable[[ActiveRun, Exception], None] | None = None,
    ) -> int:
        """Steps the items that are alive on a batch of so many images, item number i by `one(i)`; see `step`."""
        errors = self._each(one)
        for item, error in zip(self.items, errors, strict=True):
            if error is not None:
                if failed is None:
                    raise error
                item.failure = error
                failed(item, error)
            else:
                item.meter.images += images
        return sum(i.failure is None for i in self.items)

    def _each(self, step: Callable[[int], None]) -> list[Exception | None]:
        """Calls `step` for the items that are alive, one after the other or in lanes; no item reads what another writes. Their errors."""
        errors: list[Exception | None] = [None] * len(self.items)

        def one(i: int) -> None:
            began = time.perf_counter()
            try:
                step(i)
            except Exception as error:
                errors[i] = error
            self.items[i].step_seconds = time.perf_counter() - began

        alive = [i for i in self._order if self.items[i].failure is None]
        if self._pool is None:
            for i in alive if self.graphs is not None else sorted(alive):
                one(i)
            return errors
        alive.sort(
            key=lambda i: -self.items[i].step_seconds
        )  # a long one that began last would keep one lane at work and the others idle
        futures: list[Future[None]] = [self._pool.submit(one, i) for i in alive]
        try:
            for future in futures:
                future.result()
        finally:
            wait(futures)  # an interrupt must not leave a step at work behind the clean-up
        return errors

    @torch.no_grad()
    def _pass(self, x: torch.Tensor, parts: frozenset[str]) -> Features:
        assert self.teacher is not None
        with self.execution.autocast():
            return seen_of(self.teacher, x, parts)


def lanes(execution: Execution) -> ThreadPoolExecutor | None:
    """Where students are stepped side by side, or None where they are stepped by the calling thread: on a GPU, and where one student has
    all the threads. Called by the thread whose number of threads the execution has set."""
    total = execution.threads or torch.get_num_threads()
    each = execution.student_threads
    if execution.torch_device.type != "cpu" or each >= total:
        return None
    return _lanes(total // each, each)


@functools.cache
def _lanes(number: int, each: int) -> ThreadPoolExecutor:
    """A pool whose threads each have `each` threads of arithmetic: torch keeps that number by calling thread."""
    mine = torch.get_num_threads()
    met = threading.Barrier(number + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread's first look takes over the process's number: it must come before, not after, its own is set
        torch.set_num_threads(each)
        met.wait()

    pool = ThreadPoolExecutor(number, "lane", initializer=begin)
    for _ in range(number):
        pool.submit(int)
    met.wait()
    torch.set_num_threads(mine)  # what threads begun later start with
    return pool
