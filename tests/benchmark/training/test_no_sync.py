"""No host synchronisation inside an epoch: what would stall a GPU, or cannot be captured in a CUDA graph, is counted and is zero."""

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
"""Operators that bring a value to the host."""
SHAPES = {
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "repeat_interleave",
    "bincount",
}
"""Operators whose result's shape is known to the device alone: a GPU must be waited for, and a graph cannot hold them."""


class Synchronisations(TorchDispatchMode):
    """Counts what would wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        boolean = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]
        )
        # in a backward pass each cast names its device, which is the one that the gradient is on
        moved = (
            name == "_to_copy"
            and kwargs.get("device") is not None
            and torch._C._current_graph_task_id() == -1
        )
        if name in READS | SHAPES or boolean or moved:
            self.found[name] += 1
        return func(*args, **kwargs)


@pytest.mark.parametrize("run", every_method(), ids=lambda r: r.method)
def test_an_epoch_of_every_method_reads_nothing_back(run: Run, tmp_path: Path) -> None:
    split = random_split(48, 10, seed=0)
    teacher, items = open_active_runs([run], split, FP32, tmp_path, at_main_stage=False)
    (item,) = items
    stream = Stream(split, (0.5,) * 3, (0.5,) * 3, run.spec.sampler, 16, False, seed=0)
    for stage in range(len(item.stages)):
        assert item.stage_index == stage
        unit = item.next_unit
        assert unit is not None
        item.begin_epoch()
        lockstep = Lockstep(items, teacher, FP32)
        batches = lockstep.batches(stream, unit[1], unit[2])
        first = next(batches)  # the epoch's draws are made here, once
        with Synchronisations() as counted:
            lockstep.step(first)
            for batch in batches:
                lockstep.step(batch)
        assert not counted.found, f"{run.method}, stage {item.stage.name}: {dict(counted.found)}"
        assert item.meter.images >= 48  # pairs and halves show images again
        item.epoch = item.stage.epochs - 1
        item.end_epoch()


def test_the_count_sees_what_it_should() -> None:
    x = torch.arange(4.0)
    with Synchronisations() as counted:
        x.sum().item()
        bool((x > 2).any())
        x[x > 1]
        x.nonzero()
        x.cpu()
        x.to("cpu", torch.float64)
    assert counted.found == {"_local_scalar_dense": 2, "index": 1, "nonzero": 1, "_to_copy": 1}
