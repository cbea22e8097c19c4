"""An epoch never waits for the device: operators that would stall a GPU or cannot be captured are counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_kit import FP32, every_method

from benchmark.bench.ours import open_active_runs, random_split
from benchmark.data.stream import Stream
from benchmark.spec.runs import Run
from benchmark.training.lockstep import Lockstep

READS = {"_local_scalar_dense", "is_nonzero", "equal", "item"}
"""Operators that read a value on the host."""
SHAPES = {
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "repeat_interleave",
    "bincount",
}
"""Operators whose result has a shape that depends on the data: the host waits for it."""


class Synchronisations(TorchDispatchMode):
    """Counts the operators that would wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        boolean = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]
        )
        # in a backward pass, every cast names its device, and it is the device of the gradient
        moved = (
            name == "_to_copy"
            and kwargs.get("device") is not None
            and torch._C._current_graph_task_id() == -1
        )
        if name in READS | SHAPES or boolean or moved:
            self.counts[name] += 1
        return func(*args, **kwargs)


@pytest.mark.parametrize("run", every_method(), ids=lambda r: r.method)
def test_an_epoch_of_every_method_never_waits_for_the_device(run: Run, tmp_path: Path) -> None:
    split = random_split(48, 10, seed=0)
    teacher, active_runs = open_active_runs([run], split, FP32, tmp_path, at_main_stage=False)
    (active,) = active_runs
    stream = Stream(
        split,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        sampler=run.spec.sampler,
        batch_size=16,
        drop_last=False,
        seed=0,
    )
    for stage in range(len(active.stages)):
        assert active.stage_index == stage
        next_epoch = active.next_epoch
        assert next_epoch is not None
        active.begin_epoch()
        lockstep = Lockstep(active_runs, teacher, FP32)
        batches = lockstep.batches(stream, next_epoch.stream, next_epoch.epoch)
        first = next(batches)  # makes all draws of the epoch
        with Synchronisations() as counted:
            lockstep.step(first)
            for batch in batches:
                lockstep.step(batch)
        assert not counted.counts, f"{run.method}, stage {active.stage.name}: {dict(counted.counts)}"
        assert active.meter.images >= 48  # some samplers use images twice
        active.epoch = active.stage.epochs - 1
        active.end_epoch()


def test_the_counter_counts() -> None:
    x = torch.arange(4.0)
    with Synchronisations() as counted:
        x.sum().item()
        bool((x > 2).any())
        x[x > 1]
        x.nonzero()
        x.cpu()
        x.to("cpu", torch.float64)
    assert counted.counts == {"_local_scalar_dense": 2, "index": 1, "nonzero": 1, "_to_copy": 1}
