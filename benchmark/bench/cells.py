"""The cells of the bench: a pair in the naive loop, alone in ours, and as the full pack of a table's methods; turn by turn."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmark import data
from benchmark.bench import clock
from benchmark.bench.naive import Naive, NaiveData
from benchmark.bench.ours import Ours, build_teacher, pair_runs
from benchmark.data.datasets import Split
from benchmark.training.execution import Execution

MODES = ("naive", "alone", "pack")


class Loop(Protocol):
    def step(self) -> int: ...


@dataclass(frozen=True)
class Effort:
    """repeats: turns of each mode; budget: seconds of measuring for one mode of one pair (a turn has one step at the least)."""

    repeats: int
    budget: float


def turns(loops: dict[str, Loop], effort: Effort, device: str, settle: float = 0.0) -> dict[str, list[float]]:
    """Student-images/s of each loop, one number a turn; the loops take turns, so that a slow minute of the machine hits all alike.

    settle: seconds to wait before each turn, in which the naive loop's workers fill their queue (16 batches ahead, as ever). A turn's first step is
    not counted: it pays for the loop before it, with memory and caches that a training has at hand.
    """
    steps = {}
    for name, loop in loops.items():
        for _ in range(clock.warm_up(device)):
            loop.step()
        once = clock.seconds(loop.step, device)
        steps[name] = max(1, round(effort.budget / effort.repeats / once))
    found: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(effort.repeats):
        for name, loop in loops.items():
            time.sleep(settle)
            loop.step()
            images = 0
            clock.synchronise(device)
            began = time.perf_counter()
            for _ in range(steps[name]):
                images += loop.step()
            clock.synchronise(device)
            found[name].append(images / (time.perf_counter() - began))
    return found


def summary(found: dict[str, list[float]]) -> dict[str, Any]:
    """Medians. ratio: median of the ratios of one turn's numbers. quiet_ratio: of the fastest turns of both, which says more where other
    work on the machine takes turns away."""
    rows: dict[str, Any] = {}
    for name, speeds in found.items():
        rows[name] = {"images_per_second": statistics.median(speeds), "turns": [round(s, 2) for s in speeds]}
        if name != "naive":
            ratios = [s / n for s, n in zip(speeds, found["naive"], strict=True)]
            quiet = max(speeds) / max(found["naive"])
            rows[name] |= {
                "ratio": statistics.median(ratios),
                "turn_ratios": [round(r, 3) for r in ratios],
                "quiet_ratio": quiet,
            }
    return rows


@contextmanager
def naive_data(split: Split, mean: Any, std: Any, batch_size: int) -> Iterator[NaiveData]:
    batches = NaiveData(split, mean, std, batch_size)
    try:
        yield batches
    finally:
        batches.close()


def measure_pair(
    table: str, pair: str, split: Split, batches: NaiveData, execution: Execution, effort: Effort
) -> dict[str, Any]:
    """One row of the bench: all modes of one pair."""
    device = execution.device
    runs = pair_runs(table, pair)
    kd = next(r for r in runs if "kd" in r.method.split("+"))
    classes = data.info(kd.dataset).num_classes
    with tempfile.TemporaryDirectory() as folder:
        teacher = build_teacher(kd, execution)
        loops: dict[str, Loop] = {"naive": Naive(teacher, kd.student, classes, batches, device)}
        loops["alone"] = Ours([kd], split, execution, Path(folder) / "alone", teacher)
        loops["pack"] = Ours(runs, split, execution, Path(folder) / "pack", teacher)
        found = summary(turns(loops, effort, device, settle=0.5))
        for name, loop in loops.items():
            clock.start_peak(device)
            loop.step()
            found[name]["peak_bytes"] = clock.peak_bytes(device)
            found[name]["students"] = getattr(loop, "students", 1)
    return {"table": table, "pair": pair, "methods": [r.method for r in runs], **found}


def measure(
    cells: Sequence[tuple[str, str]],
    split: Split,
    execution: Execution,
    effort: Effort,
    told: Callable[[str, list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    """Rows for `(table, pair)`s. told: called after each with a line and all rows so far."""
    rows: list[dict[str, Any]] = []
    first = pair_runs(*cells[0])[0]
    normalise = first.settings["normalise"]
    with naive_data(split, normalise["mean"], normalise["std"], first.recipe.batch_size) as batches:
        for table, pair in cells:
            began = time.perf_counter()
            rows.append(measure_pair(table, pair, split, batches, execution, effort))
            told(f"{table} {pair}: {time.perf_counter() - began:.0f} s", rows)
            gc.collect()  # a pack's loop and its graphs hold each other, and on a GPU their memory is not shared with the next pair's
            if execution.torch_device.type == "cuda":
                torch.cuda.empty_cache()
    return rows


def geometric_means(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of the ratios to the naive loop, by table, then mode and kind of ratio."""
    tables = dict.fromkeys(r["table"] for r in rows)
    return {
        t: {
            f"{mode}_{kind}": statistics.geometric_mean(r[mode][kind] for r in rows if r["table"] == t)
            for mode in ("alone", "pack")
            for kind in ("ratio", "quiet_ratio")
        }
        for t in tables
    }
