"""How the arithmetic is done: device, precision, memory format, threads. Recorded with every result, in no key.

The reference is fp32 on the CPU: there, at the same numbers of threads, a run's weights are the same bit for bit whatever it was packed
with and however often it was interrupted.

On a CPU the students of a pack are stepped side by side, each on `student_threads` threads: in batches of 64 small images most operators
are too short to be shared by two threads (docs/speed.md has the measurement). The number belongs to the execution and not to the pack,
since sums are split by it: a run alone in its pack is stepped on as many threads as one of twelve, and gets the same bits.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# a stream for each student of a pack: with the driver's 8 queues some would wait for others; read when the GPU is first used
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")

import torch
from torch import nn

import models
from benchmark.errors import InputError
from benchmark.provenance import cpu_name
from models.layers import NormReLU

PRECISIONS = ("fp32", "tf32", "bf16")


def has_gpu() -> bool:
    return torch.cuda.is_available()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 natively (AVX512-BF16 or AMX); elsewhere bf16 is emulated and slower than fp32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


BF16_GAIN = 1.15
"""So many times faster bf16 has to be than fp32, the reference, to be taken by `auto` on a CPU."""


@functools.cache
def bf16_gain() -> float:
    """How many times faster this CPU trains a few convolutions with their norms in bf16 than in fp32; about a second, measured once a process.

    That a processor has the instructions does not decide it: they double the speed of one kind and slow another down (docs/speed.md). Compared
    are the fastest turns of each, on one thread, as other work on the machine weighs least there.
    """
    was = torch.get_num_threads()
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
        torch.set_num_threads(was)
    return best[False] / best[True]


@dataclass(frozen=True)
class Execution:
    """device: `cpu` or `cuda[:n]`. precision: `fp32`; `tf32` (GPU: matrix products in TF32); `bf16` (networks under autocast, on a CPU the
    methods' own too; losses and weights in fp32). threads: of the CPU, 0 leaves torch's own choice. student_threads: those of one student's
    step; `threads // student_threads` students are stepped at the same time. graphs: on a GPU, whether steps are replayed from CUDA graphs, the
    students of a pack side by side (benchmark/training/graphs.py)."""

    device: str
    precision: str
    threads: int = 0
    channels_last: bool = True
    student_threads: int = 1
    graphs: bool = True

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for a network's forward pass."""
        if self.precision != "bf16":
            return contextlib.nullcontext()
        # no cache of cast weights: each is read once in a forward pass, and the cache is one for all threads
        return torch.autocast(self.torch_device.type, torch.bfloat16, cache_enabled=False)

    def autocast_methods(self) -> AbstractContextManager[Any]:
        """The context for the passes of the methods' own networks. On a GPU they are left in TF32."""
        return self.autocast() if self.torch_device.type == "cpu" else contextlib.nullcontext()

    @property
    def wants_kernels(self) -> bool:
        """Whether kernels of our own are meant for students' batch norms (models/kernels.py): in bf16 on a CPU."""
        return (
            self.precision == "bf16"
            and self.torch_device.type == "cpu"
            and self.student_threads <= models.kernels.MOST_THREADS
        )

    @property
    def kernels(self) -> bool:
        """Whether they are meant, and could be built here."""
        return self.wants_kernels and models.kernels.built().library is not None

    @property
    def casts_at_once(self) -> bool:
        """Whether a student's weights are cast in one go before its pass (benchmark/training/casts.py): where each small kernel costs."""
        return self.precision == "bf16" and self.torch_device.type == "cuda"

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Sets threads, matrix-product precision and the kernels of batch norms, and puts them back."""
        threads, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
        conv = torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.precision != "fp32"
        if self.threads:
            torch.set_num_threads(self.threads)
        try:
            with models.kernels.using(self.kernels):
                yield
        finally:
            torch.set_num_threads(threads)
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32, conv

    def to_device(self, net: nn.Module) -> None:
        """Moves a network to the device, in the memory format that its convolutions like."""
        net.to(self.torch_device)
        if self.channels_last:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def methods_to_device(self, methods: nn.Module) -> None:
        """`to_device` for the methods' own networks, which are on the device already. On a GPU it was not measured, and they stay as they are."""
        if self.torch_device.type == "cpu":
            self.to_device(methods)

    def teacher_to_device(self, net: nn.Module) -> None:
        """`to_device` for a frozen network in eval mode that is only ever passed through; on a GPU what each pass would do again is done once."""
        self.to_device(net)
        if self.torch_device.type == "cuda":
            models.freeze(net, torch.bfloat16 if self.precision == "bf16" else None)

    def describe(self) -> dict[str, Any]:
        device = (
            torch.cuda.get_device_name(self.torch_device) if self.torch_device.type == "cuda" else cpu_name()
        )
        return {
            "device": self.torch_device.type,
            "device_name": device,
            "precision": self.precision,
            "channels_last": self.channels_last,
            "threads": self.threads or torch.get_num_threads(),
            "student_threads": self.student_threads if self.torch_device.type == "cpu" else None,
            "kernels": models.kernels.built().name if self.kernels else None,
            "graphs": self.graphs if self.torch_device.type == "cuda" else None,
        }


def choose(
    device: str = "auto", precision: str = "auto", threads: int = 0, student_threads: int = 1
) -> Execution:
    """The execution of a plan, by rule and not by what is in it.

    device auto: the GPU if there is one. precision auto: bf16 on a GPU, and on a CPU that has it and is `BF16_GAIN` times faster by it, as
    measured here and now; else fp32, which is the reference.
    """
    if device == "auto":
        device = "cuda" if has_gpu() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise InputError(f"device {device}; allowed: auto, cpu, cuda, cuda:0 ...")
    if kind == "cuda" and not has_gpu():
        raise InputError(f"device {device}: no GPU is to be seen; allowed: cpu")
    if precision == "auto":
        fast = kind == "cuda" or (cpu_has_bf16() and bf16_gain() >= BF16_GAIN)
        precision = "bf16" if fast else "fp32"
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision}; allowed: auto, {', '.join(PRECISIONS)}")
    return Execution(device, precision, threads, student_threads=student_threads)
