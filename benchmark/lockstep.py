"""The step of a pack: one batch, one teacher pass a view, every student stepped. The trainer and `bench` both run this very code.

Nothing here waits for the device: no value is looked at on the host between the first batch of an epoch and its last (a test counts).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
        for item, reads in zip(self.items, self._reads, strict=True):
            if item.failure is None:
                try:
                    item.step(batch, read if reads else seen)
                except Exception as error:
                    if failed is None:
                        raise
                    item.failure = error
                    failed(item, error)
        return sum(i.failure is None for i in self.items)

    @torch.no_grad()
    def _pass(self, x: torch.Tensor, parts: frozenset[str]) -> Features:
        assert self.teacher is not None
        with self.execution.autocast():
            if parts == {"logits"}:
                empty: Any = None
                return Features(empty, (), (), empty, self.teacher(x).float())
            return select(self.teacher.features(x), parts)
