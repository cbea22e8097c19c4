"""The parts of a step, one by one: data, teacher pass, student's step, each method's loss, evaluation; the fast losses against plain forms;
compiled networks against eager ones, warm-up included."""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmark import data
from benchmark.bench import clock, plain
from benchmark.bench.cells import naive_data
from benchmark.bench.ours import Ours, build_teacher, open_items, pair_runs
from benchmark.data.datasets import Split
from benchmark.data.stream import Batch
from benchmark.data.views import NORMAL, ROTATED, VARIANTS
from benchmark.methods import Step
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run
from benchmark.training.active_run import ActiveRun
from benchmark.training.evaluate import evaluate
from benchmark.training.execution import Execution
from benchmark.training.lockstep import Lockstep
from benchmark.training.teacher_cache import TeacherCache
from models import PARTS, Features, Network, kernels
from models.layers import NormReLU


def _loss_call(item: ActiveRun, batch: Batch, seen: dict[str, Features]) -> Callable[[], Any]:
    """The item's whole loss and its gradient back to the student's features, on features that stay: no network runs."""
    with torch.no_grad():
        passed = item.student_features(batch, item.stage.needs)
    parameters = [p for p in item.objective.parameters() if p.requires_grad]

    def call() -> None:
        students = {n: f.map(lambda t: t.detach().requires_grad_(True)) for n, f in passed.items()}
        steps = {
            name: Step(batch.labels, batch.indices, batch.views, students, seen, generator)
            for name, generator in item.generators.items()
        }
        total, _ = item.objective(steps)
        leaves = [t for f in students.values() for t in f.tensors()]
        torch.autograd.grad(total, [*leaves, *parameters], allow_unused=True)
        item.objective.after_step()

    return call


def plain_run(run: Run) -> Run:
    """The student of a run, trained alone."""
    return Resolver().run(Request(run.dataset, run.protocol, run.profile, "none", run.student, "plain"), 0)


def measure_parts(
    table: str, pair: str, split: Split, execution: Execution, budget: float
) -> list[dict[str, Any]]:
    """Rows `part, ms`: all of one batch, the evaluation of 1,000 images."""
    device, rows = execution.device, []

    def row(part: str, seconds: float, what: str = "") -> None:
        rows.append({"table": table, "pair": pair, "part": part, "ms": 1000 * seconds, "note": what})

    runs = pair_runs(table, pair)
    recipe, normalise = runs[0].recipe, runs[0].settings["normalise"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with naive_data(split, normalise["mean"], normalise["std"], recipe.batch_size) as batches:
            for _ in range(24):
                next(batches)  # what was fetched ahead
            row(
                "data, naive",
                clock.seconds(lambda: next(batches), device, 48),
                "PIL in 8 workers, nothing else running",
            )
        teacher = build_teacher(runs[0], execution)
        alone = Ours([plain_run(runs[0])], split, execution, folder / "plain", teacher)
        made = alone.batches()
        row(
            "data, ours",
            clock.settled(lambda: next(made), device, budget),
            "crop and flip of one batch, draws included",
        )
        batch = next(alone.stream.epoch("main", 1, [NORMAL, ROTATED]))
        item = alone.items[0]
        lock = Lockstep([], teacher, execution)
        x = batch.views[NORMAL.name]
        row(
            "teacher pass, logits",
            clock.settled(lambda: lock.teacher_pass(x, frozenset({"logits"})), device, budget),
        )
        for what, seconds, note in _table(alone, teacher, split, execution, batch, folder, budget):
            row(what, seconds, note)
        row(
            "teacher pass, all parts",
            clock.settled(lambda: lock.teacher_pass(x, frozenset(PARTS)), device, budget),
        )
        row(
            "student step",
            clock.settled(lambda: item.step(batch, {}), device, budget),
            "forward, backward, SGD; cross-entropy",
        )
        row("evaluation", _evaluation(alone, split.take(1000), execution, budget), "1,000 test images")
        for run in runs:
            _, (one,) = open_items([run], split, execution, folder / run.method, teacher)
            one.begin_epoch()
            with torch.no_grad(), execution.autocast():
                seen = {v: teacher.features(batch.views[v]).float32() for v in (NORMAL.name, ROTATED.name)}
            row(
                f"loss {run.method}",
                clock.settled(_loss_call(one, batch, seen), device, budget),
                "and its gradient to the features",
            )
    return rows


TABLE_IMAGES = 16


def _table(
    ours: Ours,
    teacher: Network,
    split: Split,
    execution: Execution,
    batch: Batch,
    folder: Path,
    budget: float,
) -> list[tuple[str, float, str]]:
    """The exact teacher cache in place of the pass: what a batch's worth of its passes takes while it is built, and a batch's rows read."""
    few = split.take(TABLE_IMAGES)
    normalise, size = (ours.stream.mean, ours.stream.std), len(batch.labels)
    began = time.perf_counter()
    table = TeacherCache.open(folder / "table", teacher, few, normalise, execution, frozenset({"logits"}))
    clock.synchronise(execution.device)
    built = (time.perf_counter() - began) * size / (VARIANTS * len(few.labels))
    indices, draws = batch.indices % len(few.labels), batch.draws[NORMAL.name]
    read = clock.settled(lambda: table.features(indices, draws), execution.device, budget)
    return [
        (
            "teacher table, built",
            built,
            f"as many passes as a batch has images; {VARIANTS} an image are made once",
        ),
        ("teacher table, read", read, "the logits of one batch"),
    ]


def _evaluation(alone: Ours, test: Split, execution: Execution, budget: float) -> float:
    student = alone.items[0].student
    assert student is not None
    mean, std = alone.stream.mean, alone.stream.std
    return clock.settled(
        lambda: evaluate(student, test, mean, std, execution), execution.device, budget, least=1
    )


def measure_forms(budget: float) -> list[dict[str, Any]]:
    """Each fast loss against its plain form: value, gradient, milliseconds of both (fp32, on the CPU)."""
    rows = []
    for pair in plain.pairs():
        torch.manual_seed(0)
        student, teacher = pair.inputs()
        (v1, g1), (v2, g2) = (plain.value_and_gradient(f, student, teacher) for f in (pair.ours, pair.plain))
        times = {}
        for name, form in (("ours", pair.ours), ("plain", pair.plain)):
            call = functools.partial(plain.value_and_gradient, form, student, teacher)
            times[name] = clock.settled(call, "cpu", budget)
        rows.append(
            {
                "loss": pair.name,
                "ours_ms": 1000 * times["ours"],
                "plain_ms": 1000 * times["plain"],
                "ratio": times["plain"] / times["ours"],
                "value_difference": float((v1 - v2).abs() / v2.abs()),
                "gradient_difference": float((g1 - g2).abs().max() / g2.abs().max()),
            }
        )
    return rows


NORMS = ((16, 32), (32, 16), (64, 8), (58, 16), (240, 16), (512, 4))
"""Channels and side of maps of the tables' networks."""


def measure_norms(budget: float) -> list[dict[str, Any]]:
    """Batch norm with ReLU, without and with a shortcut, forward and backward: milliseconds of the kernels (models/kernels.py) and of PyTorch's
    operators, both in bf16 on this thread's number of threads."""
    rows = []
    for (channels, side), summed in itertools.product(NORMS, (False, True)):
        torch.manual_seed(0)
        x, grad, beside = (
            torch.randn(64, channels, side, side).bfloat16().contiguous(memory_format=torch.channels_last)
            for _ in range(3)
        )
        norm = NormReLU(channels)
        inputs = [x.requires_grad_(), norm.weight, norm.bias, *([beside.requires_grad_()] if summed else [])]

        def step(
            norm: NormReLU = norm, inputs: list[torch.Tensor] = inputs, grad: torch.Tensor = grad
        ) -> Any:
            return torch.autograd.grad(norm(inputs[0], *inputs[3:]), inputs, grad)

        ms = {}
        for own in (True, False):
            with kernels.using(own):
                ms[own] = 1000 * clock.settled(step, "cpu", budget)
        rows.append(
            {
                "channels": channels,
                "side": side,
                "shortcut": summed,
                "own_ms": ms[True],
                "pytorch_ms": ms[False],
                "ratio": ms[False] / ms[True],
            }
        )
    return rows


def measure_compile(
    pairs: Sequence[tuple[str, str]], split: Split, execution: Execution, budget: float
) -> list[dict[str, Any]]:
    """`torch.compile` of the teacher's pass and of the student's network, in the real step: seconds of warm-up, milliseconds before and
    after, and after how many epochs the warm-up is paid back (None: never)."""
    rows = []
    for table, pair in pairs:
        run = next(r for r in pair_runs(table, pair) if r.method == "kd")
        steps = data.info(run.dataset).train_images // run.recipe.batch_size
        with tempfile.TemporaryDirectory() as name:
            ours = Ours([plain_run(run)], split, execution, Path(name), build_teacher(run, execution))
            item, batch = ours.items[0], next(ours.batches())
            assert item.student is not None
            teacher = build_teacher(run, execution)
            for what, net in (("teacher", teacher), ("student", item.student)):
                rows.append(
                    {
                        "pair": pair,
                        "network": net.name,
                        "what": what,
                        **_compiled(what, net, item, batch, execution, budget, steps),
                    }
                )
    return rows


def _compiled(
    what: str, net: Network, item: ActiveRun, batch: Batch, execution: Execution, budget: float, steps: int
) -> dict[str, Any]:
    if what == "teacher":
        lock = Lockstep([], net, execution)

        def call() -> Any:
            return lock.teacher_pass(batch.views[NORMAL.name], frozenset({"logits"}))
    else:

        def call() -> Any:
            return item.step(batch, {})

    before = clock.settled(call, execution.device, budget)
    began = time.perf_counter()
    try:
        net.compile()
        call()
    except Exception as error:
        return {"eager_ms": 1000 * before, "error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    warm_up = time.perf_counter() - began
    after = clock.settled(call, execution.device, budget)
    saved = (before - after) * steps
    return {
        "eager_ms": 1000 * before,
        "compiled_ms": 1000 * after,
        "warm_up_seconds": warm_up,
        "epochs_to_pay_back": warm_up / saved if saved > 0 else None,
    }
