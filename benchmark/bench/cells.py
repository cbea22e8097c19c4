"""`bench cells`: each pair in the naive loop, alone in ours, and as the full pack of a table's methods."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmark import data, longwork
from benchmark.bench import clock
from benchmark.bench.naive import Naive, NaiveData
from benchmark.bench.ours import Ours, build_teacher, pair_runs
from benchmark.data.datasets import Split
from benchmark.training.execution import Execution

SETTLE_SECONDS = 0.5
"""Pause before each turn, in which the naive loop's workers fill their queue (16 batches ahead)."""


class Loop(Protocol):
    """A training loop that is stepped one batch at a time."""

    students: int

    def step(self) -> int:
        """Train on one batch. Returns the number of student-images."""
        ...


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    repeats: int
    """Turns of each loop."""
    budget: float
    """Seconds for all turns of one loop; a turn has at least one step."""


def take_turns(
    loops: Mapping[str, Loop], effort: Effort, device: str, settle: float = 0.0
) -> dict[str, list[float]]:
    """Return the student-images per second of each loop, one number for each turn.

    The loops take turns, so that a slow minute of the machine affects all of them. The first step of a turn
    is not counted: it finds the caches and the memory as another loop left them, unlike a step in training.
    settle: seconds to wait before each turn.
    """
    steps = {}
    for name, loop in loops.items():
        for _ in range(clock.warm_up_steps(device)):
            loop.step()
        step_seconds = clock.seconds(loop.step, device)
        steps[name] = max(1, round(effort.budget / effort.repeats / step_seconds))
    speeds: dict[str, list[float]] = {name: [] for name in loops}
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
            speeds[name].append(images / (time.perf_counter() - began))
    return speeds


def summary(speeds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Return for each loop the median speed and the ratio to the naive loop.

    `ratio` is the median of the ratios within one turn. `quiet_ratio` compares the fastest turns of both
    loops; it is more reliable when other work on the machine slows some turns down.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, by_turn in speeds.items():
        rows[name] = {
            "images_per_second": statistics.median(by_turn),
            "turns": [round(s, 2) for s in by_turn],
        }
        if name != "naive":
            ratios = [ours / naive for ours, naive in zip(by_turn, speeds["naive"], strict=True)]
            rows[name] |= {
                "ratio": statistics.median(ratios),
                "turn_ratios": [round(r, 3) for r in ratios],
                "quiet_ratio": max(by_turn) / max(speeds["naive"]),
            }
    return rows


@contextmanager
def naive_data(
    split: Split, mean: tuple[float, ...], std: tuple[float, ...], *, batch_size: int
) -> Iterator[NaiveData]:
    """Yield the naive loop's batches. Their worker processes end with the block."""
    batches = NaiveData(split, mean, std, batch_size=batch_size)
    try:
        yield batches
    finally:
        batches.close()


def measure_pair(
    table: str, pair: str, *, split: Split, batches: NaiveData, execution: Execution, effort: Effort
) -> dict[str, Any]:
    """Return one row: all three loops of one pair."""
    device = execution.device
    runs = pair_runs(table, pair)
    kd = next(r for r in runs if "kd" in r.method.split("+"))
    num_classes = data.info(kd.dataset).num_classes
    with tempfile.TemporaryDirectory() as folder:
        teacher = build_teacher(kd, execution)
        loops: dict[str, Loop] = {
            "naive": Naive(teacher, kd.student, num_classes, batches=batches, device=device),
            "alone": Ours([kd], split, execution, folder=Path(folder) / "alone", teacher=teacher),
            "pack": Ours(runs, split, execution, folder=Path(folder) / "pack", teacher=teacher),
        }
        rows = summary(take_turns(loops, effort, device, settle=SETTLE_SECONDS))
        for name, loop in loops.items():
            clock.start_peak(device)
            loop.step()
            rows[name]["peak_bytes"] = clock.peak_bytes(device)
            rows[name]["students"] = loop.students
    return {"table": table, "pair": pair, "methods": [r.method for r in runs], **rows}


def measure(
    pairs: Sequence[tuple[str, str]],
    split: Split,
    execution: Execution,
    *,
    effort: Effort,
    on_row: Callable[[str, list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    """Return one row for each `(table, pair)`.

    on_row: called after each row, with a line of text and all rows so far.
    """
    rows: list[dict[str, Any]] = []
    first = pair_runs(*pairs[0])[0]
    normalise = first.settings["normalise"]
    batch_size = first.recipe.batch_size
    with naive_data(split, normalise["mean"], normalise["std"], batch_size=batch_size) as batches:
        for table, pair in longwork.each(pairs, "measuring", "pairs", bar=False):
            began = time.perf_counter()
            row = measure_pair(table, pair, split=split, batches=batches, execution=execution, effort=effort)
            rows.append(row)
            on_row(f"{table} {pair}: {time.perf_counter() - began:.0f} s", rows)
            # A pack's loop and its CUDA graphs refer to each other; without this their memory is not freed
            # for the next pair.
            gc.collect()
            if execution.torch_device.type == "cuda":
                torch.cuda.empty_cache()
    return rows


def geometric_means(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the geometric means of the ratios to the naive loop: table -> `alone_ratio`, `pack_ratio` ..."""
    return {
        table: {
            f"{loop}_{ratio}": statistics.geometric_mean(r[loop][ratio] for r in rows if r["table"] == table)
            for loop in ("alone", "pack")
            for ratio in ("ratio", "quiet_ratio")
        }
        for table in dict.fromkeys(r["table"] for r in rows)
    }
