"""How far bf16 goes from fp32: the losses of the first steps of every method, same start and same batches in both.

`first` is the difference of the first step's loss: rounding alone. `gap` is the mean over the steps of |loss in bf16 - loss in fp32| as a part
of the mean fp32 loss, `bias` the difference of the mean losses. Training is chaotic, so a gap must be held against what a change of bf16's
size does by itself: `floor` is the gap between fp32 and fp32 from weights moved by 2^-9 of themselves (half of bf16's last bit).
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmark import data
from benchmark.bench.ours import open_items
from benchmark.data.stream import Stream
from benchmark.execution import Execution
from benchmark.items import MAIN, Item, Meter
from benchmark.lockstep import Lockstep
from benchmark.runs import Request, Resolver, Run
from models import Network

FIRST, GAP, FLOORS = 0.02, 0.10, 2.0
"""The stated bounds: first step within 2%; gap at most 10% and twice the floor."""
NUDGE = 2.0**-9


def drift_run(method: str, student: str = "resnet8") -> Run:
    """A method on digits with the smallest networks: real images, a loss that falls."""
    pair = ("none", student) if method == "plain" else ("resnet14", student)
    return Resolver().run(Request("digits", "crd", "quick", *pair, method), 0)


@functools.cache
def taught(name: str) -> Network:
    """A teacher of 96 steps on digits in fp32: an untrained one maps all images to nearly one vector, whose relations are rounding alone."""
    run = drift_run("plain", name)
    with tempfile.TemporaryDirectory() as folder:
        _, (item,) = _open(run, "fp32", folder, None)
        _steps(run, item, "fp32", None, 96)
    assert item.student is not None
    return item.student.eval().requires_grad_(False)


def losses(run: Run, precision: str, steps: int, nudge: float = 0.0, init: bool = False) -> list[float]:
    """The first losses on the CPU: of the main stage (an initialisation stage counts as one that learnt nothing), or with `init` of
    the first stage. The teacher is `taught`."""
    teacher = taught(run.teacher) if run.teacher_ref is not None else None
    with tempfile.TemporaryDirectory() as folder:
        _, (item,) = _open(run, precision, folder, teacher, main=not init)
        if nudge:
            assert item.student is not None
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for p in (*item.student.parameters(), *item.objective.parameters()):
                    p.mul_(1 + nudge * torch.randn(p.shape, generator=generator))
        return _steps(run, item, precision, teacher, steps)


def _execution(precision: str) -> Execution:
    return Execution("cpu", precision, torch.get_num_threads())


def _split(run: Run) -> data.Split:
    return data.load(run.dataset).train.take(run.recipe.train_images)


def _open(
    run: Run, precision: str, folder: str, teacher: Network | None, main: bool = True
) -> tuple[Network | None, list[Item]]:
    return open_items([run], _split(run), _execution(precision), Path(folder), teacher, main)


def _steps(run: Run, item: Item, precision: str, teacher: Network | None, steps: int) -> list[float]:
    mean, std = (tuple(run.settings["normalise"][k]) for k in ("mean", "std"))
    stream = Stream(_split(run), mean, std, run.spec.sampler, run.recipe.batch_size, True, run.seed)
    found: list[float] = []
    while True:
        item.begin_epoch()
        lockstep = Lockstep([item], teacher, _execution(precision))
        name = MAIN if item.stage.name == MAIN else f"init{item.stage_index}"
        for batch in lockstep.batches(stream, name, item.epoch + 1):
            item.meter = Meter()
            lockstep.step(batch)
            found.append(item.meter.read()["train_loss"])
            if len(found) == steps:
                return found
        item.epoch += 1


def compare(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    """`gap` and `bias` of a row of losses against the reference `b`."""
    x, y = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    scale = y.mean().abs()
    return {"gap": float((x - y).abs().mean() / scale), "bias": float((x.mean() - y.mean()) / scale)}


def measure(run: Run, steps: int, init: bool = False) -> dict[str, Any]:
    """One row of `bench --drift`; init: of the method's initialisation stage."""
    reference = losses(run, "fp32", steps, init=init)
    other = losses(run, "bf16", steps, init=init)
    found = compare(other, reference)
    floor = compare(losses(run, "fp32", steps, NUDGE, init), reference)["gap"]
    first = abs(other[0] - reference[0]) / abs(reference[0])
    within = first <= FIRST and found["gap"] <= GAP + FLOORS * floor
    return {
        "method": f"{run.method}, initialisation" if init else run.method,
        "loss_first": reference[0],
        "loss_last": reference[-1],
        "first": first,
        **found,
        "floor": floor,
        "within": within,
    }
