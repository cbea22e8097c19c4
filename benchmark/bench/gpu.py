"""`bench gpu`: all that is to be known about a kind of GPU, in parts (see `session`).

    norms           the trials of the batch-norm kernels, by shape
    drift: METHOD   losses of the first steps against fp32 on a CPU
    pack: PAIR      a table's full pack with and without the batch-norm kernels, in turns
    launches: PAIR  kernels that one step of the pack starts, by name

From the packs follow the hours that the tables take: the cost model's, times the ratio of the measured to the
modelled time.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import models
from benchmark.bench import cells, clock, drift, norm_trials
from benchmark.bench.ours import Ours, build_teacher, pair_runs, small_run
from benchmark.bench.session import Part
from benchmark.data.datasets import Split
from benchmark.spec import cost
from benchmark.spec.matrix import expand, load_table
from benchmark.spec.plan import DEFAULT_PACK, make_plan
from benchmark.training.execution import Execution

PAIRS = (
    ("crd-table1", "wrn_40_2:wrn_16_2"),
    ("crd-table1", "resnet56:resnet20"),
    ("crd-table1", "vgg13:vgg8"),
    ("crd-table2", "resnet32x4:ShuffleV2"),
    ("crd-table2", "vgg13:MobileNetV2"),
)
"""A pair for each kind of student in the tables."""

METHODS = ("kd", "at", "sp", "crd", "sskd", "dlkd", "vid", "ft", "ab")
"""Methods with every kind of view, memory bank, trained module and initialisation stage."""

TABLES = ("crd-table1", "crd-table2")
LISTED = 15
"""Kernels that are listed by name."""


class _Pack:
    """A pack that is stepped with or without the kernels, whatever the process uses."""

    def __init__(self, pack: Ours, execution: Execution, used: bool) -> None:
        self.pack, self.execution, self.used = pack, execution, used
        self.students = pack.students

    def step(self) -> int:
        with self.execution.using_kernels(self.used):
            return self.pack.step()


def measure_pack(
    table: str, pair: str, *, split: Split, execution: Execution, effort: cells.Effort
) -> dict[str, Any]:
    """Return the speed of a table's full pack with and without the kernels, which take turns.

    `modelled_ms` is what the cost model expects of a step, its share of the evaluations included.
    """
    runs = pair_runs(table, pair)
    with tempfile.TemporaryDirectory() as folder:
        teacher = build_teacher(runs[0], execution)
        variants = (True, False) if execution.kernels else (False,)
        packs = {}
        for used in variants:
            with execution.using_kernels(used):
                pack = Ours(runs, split, execution, folder=Path(folder) / str(used), teacher=teacher)
            packs["with" if used else "without"] = _Pack(pack, execution, used)
        speeds = cells.take_turns(packs, effort, execution.device)
    batch_size, kind = runs[0].recipe.batch_size, execution.torch_device.type
    rows = {
        name: {
            "images_per_second": statistics.median(by_turn),
            "step_ms": 1000 * len(runs) * batch_size / statistics.median(by_turn),
            "turns": [round(s, 1) for s in by_turn],
        }
        for name, by_turn in speeds.items()
    }
    return {
        "table": table,
        "pair": pair,
        "methods": [run.method for run in runs],
        "modelled_ms": 1000 * cost.pack_seconds(runs, kind) / cost.steps(runs[0]),
        **rows,
    }


def count_launches(table: str, pair: str, *, split: Split, execution: Execution) -> dict[str, Any]:
    """Return how many kernels one step of a table's full pack starts, by name, and their time.

    The step is not replayed from a graph: a replayed kernel has no name. On a CPU, operators are counted.
    """
    on_gpu = execution.torch_device.type == "cuda"
    plain = replace(execution, graphs=False)
    with tempfile.TemporaryDirectory() as folder:
        pack = Ours(pair_runs(table, pair), split, plain, folder=Path(folder))
        for _ in range(2):
            pack.step()
        activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
        with profile(activities=[activity]) as profiled:
            pack.step()
            clock.synchronise(execution.device)
    counts: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for event in profiled.events() or ():
        counts[event.name] += 1
        times[event.name] += event.device_time_total if on_gpu else event.self_cpu_time_total
    return {
        "table": table,
        "pair": pair,
        "students": pack.students,
        "launches": counts.total(),
        "microseconds": round(times.total(), 1),
        "by_name": [
            {"name": name, "launches": counts[name], "microseconds": round(t, 1)}
            for name, t in times.most_common(LISTED)
        ],
    }


def measure_norms(execution: Execution) -> dict[str, Any]:
    """Return the trials of the GPU's batch-norm kernels, or why they cannot be used."""
    if execution.torch_device.type != "cuda":
        return {"error": "the device is a CPU", "trials": []}
    built = models.gpu_norms.built(execution.torch_device)
    trials = [] if built.norms is None else norm_trials.measure(built.norms)
    return {"error": built.error, "trials": trials}


def measure_drift(method: str, reference: drift.Reference, execution: Execution) -> dict[str, Any]:
    """Return the rows of `bench drift` of a method's main stage."""
    student = "resnet14" if method == "ab" else "resnet8"
    run = small_run(method, student=student)
    return {"rows": [drift.measure(run, reference, variant) for variant in drift.variants(execution)]}


def parts(
    split: Split,
    execution: Execution,
    *,
    reference: drift.Reference,
    effort: cells.Effort,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    methods: Sequence[str] = METHODS,
) -> list[Part]:
    """Return the parts of a session, the most telling ones first."""

    return [
        Part("norms", partial(measure_norms, execution)),
        *(Part(f"drift: {m}", partial(measure_drift, m, reference, execution)) for m in methods),
        *(
            Part(
                f"pack: {pair}",
                partial(_freed, measure_pack, table, pair, split=split, execution=execution, effort=effort),
            )
            for table, pair in pairs
        ),
        *(
            Part(
                f"launches: {pair}",
                partial(_freed, count_launches, table, pair, split=split, execution=execution),
            )
            for table, pair in pairs
        ),
    ]


def _freed(measure: Callable[..., dict[str, Any]], *arguments: Any, **options: Any) -> dict[str, Any]:
    """Return `measure(...)`, and free its pack's memory: a loop and its CUDA graphs refer to each other."""
    try:
        return measure(*arguments, **options)
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def table_hours(packs: Sequence[Mapping[str, Any]], device: str) -> dict[str, dict[str, float]]:
    """Return the hours of the tables on this device: variant (`with`, `without`) -> table -> hours.

    packs: results of `measure_pack`. The cost model's hours of one seed are multiplied by the geometric mean
    of the packs' measured over their modelled time. A variant that was not measured is left out.
    """
    hours = {}
    for variant in ("with", "without"):
        ratios = [p[variant]["step_ms"] / p["modelled_ms"] for p in packs if variant in p]
        if ratios:
            factor = statistics.geometric_mean(ratios)
            hours[variant] = {"factor": factor} | {t: factor * _modelled_hours(t, device) for t in TABLES}
    return hours


def _modelled_hours(table: str, device: str) -> float:
    runs = expand(load_table(table), "paper", seeds=[0]).runs
    packs = make_plan(runs, None, max_pack=DEFAULT_PACK[device]).packs
    return cost.estimate([pack.runs for pack in packs], device).hours
