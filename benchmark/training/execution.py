"""How a pack is computed: device, precision, memory format, threads.

This is recorded with every result and is not part of a run's key. The reference is fp32 on the CPU: there,
with the same numbers of threads, the weights of a run are bit-equal in every pack and after any number of
interruptions.

On a CPU, the students of a pack are stepped side by side, each on `student_threads` threads: with batches
of 64 small images, most operators are too short to be shared by two threads (docs/speed.md has the
measurement). The number belongs to the execution and not to the pack, because it decides how sums are
split: a run alone in its pack is stepped on as many threads as one of twelve, and gets the same bits.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Each student of a pack has its own stream. With the driver's default of 8 queues, some streams would wait
# for others. The driver reads this variable when the GPU is first used.
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")

import torch
from torch import nn

import models
from benchmark import longwork
from benchmark.data.stream import Batch
from benchmark.errors import InputError
from benchmark.provenance import cpu_name
from benchmark.training import processes
from benchmark.training.processes import Team
from models import synced_norms
from models.layers import NormReLU

PRECISIONS = ("fp32", "tf32", "bf16")

BF16_GAIN = 1.15
"""On a CPU, `auto` takes bf16 if it is at least this many times faster than fp32, the reference."""


def has_gpu() -> bool:
    """Return whether PyTorch can use a GPU."""
    return torch.cuda.is_available()


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_has_bf16() -> bool:
    """Return whether the processor has bf16 instructions (AVX512-BF16 or AMX).

    Without them, bf16 is emulated and slower than fp32.
    """
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@functools.cache
def bf16_gain() -> float:
    """Measure how many times faster this CPU trains a few convolutions and norms in bf16 than in fp32.

    Takes about a second, once per process. The instructions alone do not decide this: they double the speed
    of some processors and slow others down (docs/speed.md). The fastest repetitions of both are compared,
    on one thread, since other work on the machine disturbs those least.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cases = []
        for channels, side in ((16, 32), (64, 16), (128, 8)):
            layers = [
                m for _ in range(2) for m in (nn.Conv2d(channels, channels, 3, padding=1), NormReLU(channels))
            ]
            net = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            x = torch.randn(16, channels, side, side).contiguous(memory_format=torch.channels_last)
            cases.append((net, x))
    best = {True: math.inf, False: math.inf}
    torch.set_num_threads(1)
    try:
        for _ in range(12):
            for bf16 in best:
                began = time.perf_counter()
                for net, x in cases:
                    with (
                        torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False),
                        models.kernels.using(bf16),
                    ):
                        out = net(x)
                    out.float().square().mean().backward()
                best[bf16] = min(best[bf16], time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return best[False] / best[True]


def device_kind(device: str) -> str:
    """Return `cpu` or `cuda` for a device as the user asks for it; "" if it is neither."""
    try:
        kind = torch.device(device if device != "auto" else "cuda" if has_gpu() else "cpu").type
    except RuntimeError:
        return ""
    return kind if kind in ("cpu", "cuda") else ""


@dataclass(frozen=True)
class ExecutionRequest:
    """How a pack is to be computed, as the user asks for it. `resolve` decides what `auto` means here."""

    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` ..., or `auto`: the GPU if there is one."""
    precision: str = "auto"
    """One of `PRECISIONS`, or `auto`: bf16 on a GPU, or on a CPU that gains `BF16_GAIN` by it; else fp32."""
    threads: int = 0
    """Threads of the CPU; 0 leaves the choice to PyTorch."""
    student_threads: int = 1
    """Threads of one student's step."""
    sync_norms: bool = False
    """See `Execution.sync_norms`."""

    def resolve(self) -> Execution:
        """Return the execution on this machine. It depends on the machine and the request, never on the runs.

        Raises `InputError` for an unknown device or precision, and for a GPU where there is none.
        """
        device = self.device if self.device != "auto" else "cuda" if has_gpu() else "cpu"
        kind = device_kind(device)
        if not kind:
            raise InputError(f"unknown device {device}; allowed: auto, cpu, cuda, cuda:0 ...")
        if kind == "cuda" and not has_gpu():
            raise InputError(f"device {device}: PyTorch finds no GPU on this machine; use cpu")
        precision = self.precision
        if precision == "auto":
            with longwork.task("measuring whether this processor gains by bf16"):
                fast = kind == "cuda" or (cpu_has_bf16() and bf16_gain() >= BF16_GAIN)
            precision = "bf16" if fast else "fp32"
        if precision not in PRECISIONS:
            raise InputError(f"unknown precision {precision}; allowed: auto, {', '.join(PRECISIONS)}")
        team = processes.current()
        if self.sync_norms and team.count == 1:
            raise InputError(
                "--sync-norms is for a pack on several processes, and this is one, whose batch norms see the "
                "whole batch already; leave the option away, or start the command with torchrun"
            )
        execution = Execution(
            device=device,
            precision=precision,
            threads=self.threads,
            student_threads=self.student_threads,
        )
        return execution if team.count == 1 else execution.shared_by(team, sync_norms=self.sync_norms)


@dataclass(frozen=True)
class Execution:
    """How a pack is computed."""

    device: str
    """`cpu`, `cuda` or `cuda:1` ..."""
    precision: str
    """One of `PRECISIONS`.

    `tf32`: matrix products in TF32, on a GPU. `bf16`: the networks under autocast, on a CPU the methods'
    networks too; losses and weights in fp32.
    """
    threads: int = 0
    """Threads of the CPU; 0 leaves the choice to PyTorch."""
    channels_last: bool = True
    """Whether networks and images are in channels_last memory format."""
    student_threads: int = 1
    """Threads of one student's step; `threads // student_threads` students are stepped at the same time."""
    graphs: bool = True
    """Whether steps on a GPU are replayed from CUDA graphs (benchmark/training/graphs.py)."""
    processes: int = 1
    """Number of processes that share every batch of the pack (benchmark/training/gathering.py)."""
    sync_norms: bool = False
    """Whether the batch norms of the networks use the statistics of the whole batch where processes share
    it; else of the rows of their process."""

    def shared_by(self, team: Team, sync_norms: bool) -> Execution:
        """Return the execution of a pack whose batches the processes of `team` share.

        Here is switched off what cannot be used then: CUDA graphs, since an exchange of words is no part of a
        graph. Students are stepped one after the other (see `lanes` in lockstep.py), so that all processes
        exchange their tensors in one order, and nothing reads the teacher cache (see `reads_cache`).
        """
        device = self.device
        if self.torch_device.type == "cuda":
            device = f"cuda:{team.local_number % torch.cuda.device_count()}"
        return replace(self, device=device, processes=team.count, sync_norms=sync_norms, graphs=False)

    @property
    def is_shared(self) -> bool:
        """Whether several processes share the batches."""
        return self.processes > 1

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def norms_of(self, batch: Batch) -> AbstractContextManager[Any]:
        """Return the context in which a network in train mode computes this batch, or a portion of it."""
        together = self.sync_norms and batch.portion is not None
        return synced_norms.using(processes.current() if together else None)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for a network's forward pass."""
        if self.precision != "bf16":
            return contextlib.nullcontext()
        # no cache of cast weights: each is read once in a forward pass, and all threads would share the cache
        return torch.autocast(self.torch_device.type, torch.bfloat16, cache_enabled=False)

    def autocast_methods(self) -> AbstractContextManager[Any]:
        """Return the context for the passes of the methods' networks. On a GPU they stay in TF32."""
        return self.autocast() if self.torch_device.type == "cpu" else contextlib.nullcontext()

    @property
    def wants_kernels(self) -> bool:
        """Whether batch norms should use kernels of ours: those of models/kernels.py in bf16 on a CPU, those
        of models/triton_norm.py in bf16 on a GPU, which are measured as parts of a replayed graph."""
        if self.precision != "bf16":
            return False
        if self.torch_device.type == "cuda":
            return self.graphs and self.channels_last
        return self.student_threads <= models.kernels.MOST_THREADS

    def _built_kernels(self) -> models.kernels.Kernels | models.gpu_norms.Built:
        with longwork.task("building the kernels of batch norms"):  # in the first call of a process
            if self.torch_device.type == "cuda":
                return models.gpu_norms.built(self.torch_device)
            return models.kernels.built()

    @property
    def kernels(self) -> bool:
        """Whether batch norms use them: they are wanted and could be built on this machine.

        On a GPU each shape of a map is tried when it is first met, and PyTorch's operators are used where
        they are faster.
        """
        return self.wants_kernels and not self.kernels_error

    @property
    def kernels_error(self) -> str:
        """Why the kernels cannot be built on this machine; "" if they can."""
        return self._built_kernels().error

    @contextlib.contextmanager
    def using_kernels(self, used: bool) -> Iterator[None]:
        """Choose within the block whether batch norms use the kernels, on this execution's kind of device."""
        on_gpu = self.torch_device.type == "cuda"
        norms = models.gpu_norms.built(self.torch_device).norms if on_gpu and used else None
        with models.kernels.using(used and not on_gpu), models.gpu_norms.using(norms):
            yield

    @property
    def casts_at_once(self) -> bool:
        """Whether a student's weights are cast all at once before its pass (casts.py): in bf16 on a GPU."""
        return self.precision == "bf16" and self.torch_device.type == "cuda"

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Set threads, precision of matrix products and kernels of batch norms within the block."""
        threads, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
        conv = torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.precision != "fp32"
        if self.threads:
            torch.set_num_threads(self.threads)
        try:
            with self.using_kernels(self.kernels):
                yield
        finally:
            torch.set_num_threads(threads)
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32, conv

    def to_device(self, net: nn.Module) -> None:
        """Move a network to the device, in the memory format of this execution."""
        net.to(self.torch_device)
        if self.channels_last:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def methods_to_device(self, methods: nn.Module) -> None:
        """`to_device` for the methods' networks, which are on the device already.

        Nothing is changed on a GPU, where the effect was not measured.
        """
        if self.torch_device.type == "cpu":
            self.to_device(methods)

    def teacher_to_device(self, net: nn.Module) -> None:
        """`to_device` for a frozen network in eval mode.

        On a GPU, work that each pass would repeat is done once here (`models.freeze`).
        """
        self.to_device(net)
        if self.torch_device.type == "cuda":
            models.freeze(net, torch.bfloat16 if self.precision == "bf16" else None)

    def describe(self) -> dict[str, Any]:
        """Return the execution as the fields of a record."""
        device = (
            torch.cuda.get_device_name(self.torch_device) if self.torch_device.type == "cuda" else cpu_name()
        )
        threads = self.threads or torch.get_num_threads()
        shared = {"processes": self.processes, "sync_norms": self.sync_norms} if self.is_shared else {}
        return {
            "device": self.torch_device.type,
            "device_name": device,
            "precision": self.precision,
            "channels_last": self.channels_last,
            "threads": threads,
            "student_threads": (threads if self.is_shared else self.student_threads)
            if self.torch_device.type == "cpu"
            else None,
            "kernels": self._built_kernels().name if self.kernels else None,
            "graphs": self.graphs if self.torch_device.type == "cuda" else None,
            **shared,
        }
