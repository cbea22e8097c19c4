"""`bench parts` and `bench compile`: the time of each part of a training step."""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmark import data, longwork
from benchmark.bench import clock, plain
from benchmark.bench.cells import naive_data
from benchmark.bench.ours import Ours, build_teacher, open_active_runs, pair_runs
from benchmark.data.datasets import Split
from benchmark.data.stream import Batch
from benchmark.data.views import NORMAL, ROTATED, VARIANTS
from benchmark.methods import PLAIN, Step
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import NONE, Request, Run
from benchmark.training.active_run import ActiveRun
from benchmark.training.evaluate import evaluate
from benchmark.training.execution import Execution
from benchmark.training.lockstep import Lockstep
from benchmark.training.teacher_cache import TeacherCache
from models import PARTS, Features, Network, kernels
from models.layers import NormReLU

CACHED_IMAGES = 16
"""Images whose teacher cache is built to measure it."""

PREFETCHED = 24
"""Batches of the naive loop that are skipped: its workers fetched them before the measurement."""

LOGITS = frozenset({"logits"})


def plain_run(run: Run) -> Run:
    """Return the plain training of a run's student."""
    return Resolver().run(Request(run.dataset, run.protocol, run.profile, NONE, run.student, PLAIN), 0)


# --- parts of a step --------------------------------------------------------------------------------------


def measure_parts(
    table: str, pair: str, *, split: Split, execution: Execution, budget: float
) -> list[dict[str, Any]]:
    """Return rows with the milliseconds of each part, for one batch; of the evaluation, for 1,000 images."""
    device, rows = execution.device, []

    def add_row(part: str, seconds: float, note: str = "") -> None:
        rows.append({"table": table, "pair": pair, "part": part, "ms": 1000 * seconds, "note": note})

    def measure(part: str, call: Callable[[], Any], note: str = "") -> None:
        add_row(part, clock.median_seconds(call, device, budget), note)

    runs = pair_runs(table, pair)
    statistics, batch_size = runs[0].settings["normalise"], runs[0].recipe.batch_size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with naive_data(split, statistics["mean"], statistics["std"], batch_size=batch_size) as naive:
            for _ in range(PREFETCHED):
                next(naive)
            seconds = clock.seconds(lambda: next(naive), device, 48)
            add_row("data, naive", seconds, "PIL in 8 workers, with nothing else running")
        teacher = build_teacher(runs[0], execution)
        alone = Ours([plain_run(runs[0])], split, execution, folder=folder / "plain", teacher=teacher)
        batches = alone.batches()
        measure("data, ours", lambda: next(batches), "crop and flip of one batch, with their random draws")
        batch = next(alone.stream.epoch("main", 1, [NORMAL, ROTATED]))
        active = alone.active_runs[0]
        lockstep = Lockstep([], teacher, execution)
        x = batch.views[NORMAL.name]
        measure("teacher pass, logits", lambda: lockstep.teacher_pass(x, LOGITS))
        cached_images = split.take(CACHED_IMAGES)
        normalise = alone.stream.mean, alone.stream.std
        began = time.perf_counter()
        cache = TeacherCache.open(folder / "cache", teacher, cached_images, normalise, execution, LOGITS)
        clock.synchronise(device)
        passes = len(batch.labels) / (VARIANTS * CACHED_IMAGES)
        seconds = (time.perf_counter() - began) * passes
        add_row("teacher cache, built", seconds, f"passes of one batch; {VARIANTS} for each image, once")
        indices, draws = batch.indices % CACHED_IMAGES, batch.draws[NORMAL.name]
        measure("teacher cache, read", lambda: cache.features(indices, draws), "the logits of one batch")
        measure("teacher pass, all parts", lambda: lockstep.teacher_pass(x, frozenset(PARTS)))
        measure("student step", lambda: active.step(batch, {}), "forward, backward, SGD; cross-entropy")
        add_row("evaluation", _evaluation(alone, split.take(1000), execution, budget), "1,000 test images")
        for run in runs:
            _, (active,) = open_active_runs([run], split, execution, folder / run.method, teacher=teacher)
            active.begin_epoch()
            with torch.no_grad(), execution.autocast():
                views = (NORMAL.name, ROTATED.name)
                teacher_features = {v: teacher.features(batch.views[v]).float32() for v in views}
            call = _loss_call(active, batch, teacher_features)
            measure(f"loss {run.method}", call, "with its gradient to the features")
    return rows


def _loss_call(active: ActiveRun, batch: Batch, teacher_features: dict[str, Features]) -> Callable[[], Any]:
    """Return a function that computes the run's loss and its gradient with respect to the student's features.

    The features are computed once, so that no network runs when the function is called.
    """
    with torch.no_grad():
        student_features = active.student_features(batch, active.stage.needs)
    parameters = [p for p in active.objective.parameters() if p.requires_grad]

    def call() -> None:
        students = {
            n: f.map(lambda tensor: tensor.detach().requires_grad_(True)) for n, f in student_features.items()
        }
        steps = {
            name: Step(batch.labels, batch.indices, batch.views, students, teacher_features, generator)
            for name, generator in active.generators.items()
        }
        total, _ = active.objective(steps)
        leaves = [t for f in students.values() for t in f.tensors()]
        torch.autograd.grad(total, [*leaves, *parameters], allow_unused=True)
        active.objective.after_step()

    return call


def _evaluation(alone: Ours, test: Split, execution: Execution, budget: float) -> float:
    student = alone.active_runs[0].student
    assert student is not None
    call = functools.partial(evaluate, student, test, alone.stream.mean, alone.stream.std, execution)
    return clock.median_seconds(call, execution.device, budget, least=1)


# --- fast forms against plain ones ------------------------------------------------------------------------


def measure_forms(budget: float) -> list[dict[str, Any]]:
    """Compare each fast loss with its plain form: value, gradient and milliseconds, in fp32 on the CPU."""
    rows = []
    for forms in plain.loss_forms():
        torch.manual_seed(0)
        student, teacher = forms.inputs()
        (v1, g1), (v2, g2) = (
            plain.value_and_gradient(f, student, teacher) for f in (forms.ours, forms.plain)
        )
        times = {}
        for name, form in (("ours", forms.ours), ("plain", forms.plain)):
            call = functools.partial(plain.value_and_gradient, form, student, teacher)
            times[name] = clock.median_seconds(call, "cpu", budget)
        rows.append(
            {
                "loss": forms.name,
                "ours_ms": 1000 * times["ours"],
                "plain_ms": 1000 * times["plain"],
                "ratio": times["plain"] / times["ours"],
                "value_difference": float((v1 - v2).abs() / v2.abs()),
                "gradient_difference": float((g1 - g2).abs().max() / g2.abs().max()),
            }
        )
    return rows


NORMS = ((16, 32), (32, 16), (64, 8), (58, 16), (240, 16), (512, 4))
"""Channels and side of feature maps in the tables' networks."""


def measure_norms(budget: float) -> list[dict[str, Any]]:
    """Compare our kernels (models/kernels.py) with PyTorch's operators: batch norm with ReLU, forward and
    backward, with and without a shortcut, in bf16 and on the current number of threads."""
    rows = []
    for (channels, side), shortcut in itertools.product(NORMS, (False, True)):
        torch.manual_seed(0)
        x, grad, added = (
            torch.randn(64, channels, side, side).bfloat16().contiguous(memory_format=torch.channels_last)
            for _ in range(3)
        )
        norm = NormReLU(channels)
        inputs = [x.requires_grad_(), norm.weight, norm.bias]
        if shortcut:
            inputs.append(added.requires_grad_())

        def step(
            norm: NormReLU = norm, inputs: list[torch.Tensor] = inputs, grad: torch.Tensor = grad
        ) -> Any:
            return torch.autograd.grad(norm(inputs[0], *inputs[3:]), inputs, grad)

        ms = {}
        for with_kernels in (True, False):
            with kernels.using(with_kernels):
                ms[with_kernels] = 1000 * clock.median_seconds(step, "cpu", budget)
        rows.append(
            {
                "channels": channels,
                "side": side,
                "shortcut": shortcut,
                "own_ms": ms[True],
                "pytorch_ms": ms[False],
                "ratio": ms[False] / ms[True],
            }
        )
    return rows


# --- torch.compile ----------------------------------------------------------------------------------------


def measure_compile(
    pairs: Sequence[tuple[str, str]], *, split: Split, execution: Execution, budget: float
) -> list[dict[str, Any]]:
    """Measure `torch.compile` of the teacher's pass and of the student's step, for each `(table, pair)`.

    A row has the milliseconds before and after, the seconds of warm-up, and the number of epochs after which
    the warm-up is paid back (None: never).
    """
    rows = []
    for table, pair in longwork.each(pairs, "measuring", "pairs", bar=False):
        run = next(r for r in pair_runs(table, pair) if r.method == "kd")
        steps = data.info(run.dataset).train_images // run.recipe.batch_size
        with tempfile.TemporaryDirectory() as name:
            ours = Ours([plain_run(run)], split, execution, Path(name), teacher=build_teacher(run, execution))
            active, batch = ours.active_runs[0], next(ours.batches())
            assert active.student is not None
            teacher = build_teacher(run, execution)
            lockstep = Lockstep([], teacher, execution)
            x = batch.views[NORMAL.name]
            calls: tuple[tuple[str, Network, Callable[[], Any]], ...] = (
                ("teacher", teacher, functools.partial(lockstep.teacher_pass, x, LOGITS)),
                ("student", active.student, functools.partial(active.step, batch, {})),
            )
            for what, net, call in calls:
                times = _compiled(net, call, device=execution.device, budget=budget, steps=steps)
                rows.append({"pair": pair, "network": net.name, "what": what, **times})
    return rows


def _compiled(
    net: Network, call: Callable[[], Any], *, device: str, budget: float, steps: int
) -> dict[str, Any]:
    """Time `call`, which runs the network, before and after compiling it. steps: those of an epoch."""
    before = clock.median_seconds(call, device, budget)
    began = time.perf_counter()
    try:
        net.compile()
        call()
    except Exception as error:
        return {"eager_ms": 1000 * before, "error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    warm_up = time.perf_counter() - began
    after = clock.median_seconds(call, device, budget)
    saved = (before - after) * steps
    return {
        "eager_ms": 1000 * before,
        "compiled_ms": 1000 * after,
        "warm_up_seconds": warm_up,
        "epochs_to_pay_back": warm_up / saved if saved > 0 else None,
    }
