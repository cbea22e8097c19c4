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
from benchmark.items import Item, select
from models import Features, Network


class Lockstep:
    """The items of a pack for one epoch (all in the same stage and epoch, `begin_epoch` done by the caller)."""

    def __init__(self, items: Sequence[Item], teacher: Network | None, execution: Execution) -> None:
        self.items, self.teacher, self.execution = items, teacher, execution
        self.views: dict[str, View] = {}
        live: dict[str, set[str]] = {}
        for needs in (i.stage.needs for i in items):
            for view in needs.passes:
                live.setdefault(view.name, set()).update(needs.teacher)
            for view in (*needs.views, *needs.passes):
                self.views[view.name] = view
        self._live = {name: frozenset(parts) for name, parts in live.items()}

    def batches(self, stream: Stream, stage: str, epoch: int) -> Iterator[Batch]:
        """The epoch's batches with the views that some item reads."""
        return stream.epoch(stage, epoch, self.views.values())

    def step(self, batch: Batch, failed: Callable[[Item, Exception], None] | None = None) -> int:
        """One step of every item that is alive. An item's error goes to `failed` and ends that item alone (without it, it is raised).
        Returns how many items are alive after it."""
        seen = {name: self._pass(batch.views[name], parts) for name, parts in self._live.items()}
        for item in self.items:
            if item.failure is None:
                try:
                    item.step(batch, seen)
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
