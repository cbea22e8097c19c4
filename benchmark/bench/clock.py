"""Time, peak memory, and the conditions that a measurement is worth nothing without."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmark.provenance import git_state, versions
from benchmark.training import graphs
from benchmark.training.execution import Execution, cores


def synchronise(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], Any], device: str, times: int = 1) -> float:
    """Wall-clock seconds of `times` calls, each call's share."""
    synchronise(device)
    began = time.perf_counter()
    for _ in range(times):
        call()
    synchronise(device)
    return (time.perf_counter() - began) / times


def warm_up(device: str) -> int:
    """Steps of a loop before it is timed: on a GPU until all its graphs are captured (benchmark/training/graphs.py)."""
    return graphs.WARM_UP_STEPS + 2 * graphs.BATCH_SLOTS if torch.device(device).type == "cuda" else 1


def settled(call: Callable[[], Any], device: str, budget: float, least: int = 3) -> float:
    """Median seconds of a call: one warm-up, then as many as the budget allows, `least` at the least."""
    call()
    found: list[float] = []
    end = time.perf_counter() + budget
    while len(found) < least or (time.perf_counter() < end and len(found) < 200):
        found.append(seconds(call, device))
    return statistics.median(found)


def start_peak(device: str) -> None:
    """Begins a new peak of memory."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM


def peak_bytes(device: str) -> int | None:
    """The peak since `start_peak`: of the GPU, or of this process's resident memory (all that it holds, not the cell's alone)."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def conditions(execution: Execution) -> dict[str, Any]:
    """Machine, cores, threads, precision, versions, load at the start."""
    return {
        **execution.describe(),
        "cores_of_machine": os.cpu_count(),
        "cores_allowed": cores(),
        "load": round(os.getloadavg()[0], 2),
        "versions": versions(),
        "git": git_state(),
    }
