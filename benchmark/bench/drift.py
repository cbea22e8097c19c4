"""How far bf16 goes from fp32: the losses of the first steps of every method, same start and same batches in both.

The bound is on the mean over the steps of |loss in bf16 - loss in fp32|, as a part of the mean fp32 loss (`gap`), and on the difference of
the mean losses (`bias`). A step's own difference grows with the steps, because training is chaotic: two fp32 runs that
differ by one rounding part in the same way (`floor`: the gap between fp32 and fp32 from weights moved by 1e-6 of themselves).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmark import data
from benchmark.bench.ours import open_items
from benchmark.data.stream import Stream
from benchmark.execution import Execution
from benchmark.items import MAIN, Meter
from benchmark.lockstep import Lockstep
from benchmark.runs import Request, Resolver, Run

GAP, BIAS = 0.10, 0.03
"""The stated bounds, for 200 steps."""


def drift_run(method: str, student: str = "resnet8") -> Run:
    """A method on digits with the smallest networks: real images, a loss that falls."""
    pair = ("none", student) if method == "plain" else ("resnet14", student)
    return Resolver().run(Request("digits", "crd", "quick", *pair, method), 0)


def losses(run: Run, precision: str, steps: int, nudge: float = 0.0) -> list[float]:
    """The first losses of the main stage on the CPU (an initialisation stage counts as one that learnt nothing). The teacher is untrained."""
    execution = Execution("cpu", precision, torch.get_num_threads())
    split = data.load(run.dataset).train.take(run.recipe.train_images)
    found: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        teacher, items = open_items([run], split, execution, Path(folder))
        (item,) = items
        if nudge:
            assert item.student is not None
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for p in item.student.parameters():
                    p.mul_(1 + nudge * torch.randn(p.shape, generator=generator))
        mean, std = (tuple(run.settings["normalise"][k]) for k in ("mean", "std"))
        stream = Stream(split, mean, std, run.spec.sampler, run.recipe.batch_size, True, run.seed)
        while len(found) < steps:
            item.begin_epoch()
            lockstep = Lockstep(items, teacher, execution)
            for batch in lockstep.batches(stream, MAIN, item.epoch + 1):
                item.meter = Meter()
                lockstep.step(batch)
                found.append(item.meter.read()["train_loss"])
                if len(found) == steps:
                    break
            item.epoch += 1
    return found


def compare(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    """`gap` and `bias` of a row of losses against the reference `b`."""
    x, y = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    scale = y.mean().abs()
    return {"gap": float((x - y).abs().mean() / scale), "bias": float((x.mean() - y.mean()) / scale)}


def measure(run: Run, steps: int) -> dict[str, Any]:
    """One row of `bench --drift`."""
    reference = losses(run, "fp32", steps)
    found = compare(losses(run, "bf16", steps), reference)
    floor = compare(losses(run, "fp32", steps, nudge=1e-6), reference)["gap"]
    within = found["gap"] <= GAP and abs(found["bias"]) <= BIAS
    return {
        "method": run.method,
        "first": reference[0],
        "last": reference[-1],
        **found,
        "floor": floor,
        "within": within,
    }
