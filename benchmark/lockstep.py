"""The step of a pack: one batch, one teacher pass a view, every student stepped. The trainer and `bench` both run this very code.

On a CPU the teacher's pass is shared by all threads, then the students are stepped side by side in lanes of `student_threads`.

Nothing here waits for the device: no value is looked at on the host between the first batch of an epoch and its last (a test counts).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch

from benchmark.data.stream import Batch, Stream
from benchmark.data.views import View
from benchmark.execution import Execution
from benchmark.items import MAIN, Item, select
from benchmark.teacher_table import TeacherTable
from models import Features, Network


class Lockstep:
    """The items of a pack for one epoch (all in the same stage and epoch, `begin_epoch` done by the caller)."""

    def __init__(
        self, items: Sequence[Item], teacher: Network | None, execution: Execution, table: TeacherTable | None = None
    ) -> None:
        """table: read instead of a pass by every item that it serves, whatever the others of the pack need."""
        self.items, self.teacher, self.execution, self.table = items, teacher, execution, table
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
        self._order = sorted(range(len(items)), key=lambda i: -len(items[i].stage.needs.views))  # the long ones first

    def batches(self, stream: Stream, stage: str, epoch: int) -> Iterator[Batch]:
        """The epoch's batches with the views that some item reads."""
        return stream.epoch(stage, epoch, self.views.values(), self._read.values())

    def step(self, batch: Batch, failed: Callable[[Item, Exception], None] | None = None) -> int:
        """One step of every item that is alive. An item's error goes to `failed` and ends that item alone (without it, it is raised).
        Returns how many items are alive after it."""
        seen = {name: self._pass(batch.views[name], parts) for name, parts in self._live.items()}
        read: dict[str, Features] = {}
        if self.table is not None:
            read = {name: self.table.features(batch.indices, batch.draws[name]) for name in self._read}
        errors = self._students(batch, [read if reads else seen for reads in self._reads])
        for item, error in zip(self.items, errors, strict=True):
            if error is not None:
                if failed is None:
                    raise error
                item.failure = error
                failed(item, error)
        return sum(i.failure is None for i in self.items)

    def _students(self, batch: Batch, teachers: Sequence[Mapping[str, Features]]) -> list[Exception | None]:
        """Steps the items that are alive, one after the other or in lanes; no item reads what another writes. Returns their errors."""
        errors: list[Exception | None] = [None] * len(self.items)

        def one(i: int) -> None:
            try:
                self.items[i].step(batch, teachers[i])
            except Exception as error:
                errors[i] = error

        alive = [i for i in self._order if self.items[i].failure is None]
        if self._pool is None:
            for i in sorted(alive):
                one(i)
            return errors
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
            if parts == {"logits"}:
                empty: Any = None
                return Features(empty, (), (), empty, self.teacher(x).float())
            return select(self.teacher.features(x), parts)


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
