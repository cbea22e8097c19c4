"""Time, peak memory, and the conditions of a measurement."""

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

MOST_CALLS = 200
"""Most calls of one measurement."""


def synchronise(device: str) -> None:
    """Wait until the GPU has finished its work; nothing on a CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], Any], device: str, times: int = 1) -> float:
    """Return the wall-clock seconds of one call, the mean over `times` calls."""
    synchronise(device)
    began = time.perf_counter()
    for _ in range(times):
        call()
    synchronise(device)
    return (time.perf_counter() - began) / times


def warm_up_steps(device: str) -> int:
    """Return the steps before timing: on a GPU until all graphs are captured (training/graphs.py)."""
    return graphs.WARM_UP_STEPS + 2 * graphs.BATCH_SLOTS if torch.device(device).type == "cuda" else 1


def median_seconds(call: Callable[[], Any], device: str, budget: float, least: int = 3) -> float:
    """Return the median seconds of a call.

    After one call to warm up, it is called for `budget` seconds, but at least `least` and at most
    `MOST_CALLS` times.
    """
    call()
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < least or (time.perf_counter() < end and len(times) < MOST_CALLS):
        times.append(seconds(call, device))
    return statistics.median(times)


def start_peak(device: str) -> None:
    """Reset the memory peak."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM


def peak_bytes(device: str) -> int | None:
    """Return the memory peak since `start_peak`, None if it cannot be read.

    On a GPU it is the allocated memory, on a CPU the resident memory of the whole process.
    """
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
    """Return machine, cores, threads, precision, versions, commit and load."""
    return {
        **execution.describe(),
        "cores_of_machine": os.cpu_count(),
        "cores_allowed": cores(),
        "load": round(os.getloadavg()[0], 2),
        "versions": versions(),
        "git": git_state(),
    }
