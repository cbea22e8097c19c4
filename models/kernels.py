"""CPU kernels that compute batch norm, shortcut sum and ReLU at once, for bf16 maps in channels_last.

They read and write memory fewer times than PyTorch's operators. `norm.c` is compiled when it is first
needed, by `cc` or the compiler that the environment variable CC names; this takes about a second. The
library is kept in the user's cache directory (models/kernel_cache.py). Without a compiler, or if the library
does not agree with PyTorch, PyTorch's operators are used: they give the same values up to rounding in bf16
and take two to five times as long (docs/speed.md). Runs in fp32, the reference, never use these kernels.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models import kernel_cache

SOURCE = Path(__file__).with_name("norm.c")
MOST_THREADS = 2
"""The kernels are used with at most this many threads.

They run on one thread. PyTorch's operators take 1.0 to 3.4 times as long on two threads (docs/speed.md); on
more they catch up.
"""

FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC")


class Kernels(NamedTuple):
    """The outcome of building the kernels."""

    library: ctypes.CDLL | None
    """The functions of norm.c, or None if they cannot be used."""

    error: str
    """Why `library` is None, in one line; "" otherwise."""

    name: str
    """Name with a hash of the source, for records: another version of the source may round differently."""


@functools.cache
def built() -> Kernels:
    """Return the kernels; the first call in a process builds them or loads them from the cache.

    Never raises.
    """
    source = SOURCE.read_bytes()
    name = f"norm-{hashlib.sha256(source).hexdigest()[:8]}"
    try:
        compiler = (
            shlex.split(os.environ.get("CC", ""))
            or [command for command in ("cc", "gcc", "clang") if shutil.which(command)][:1]
        )
    except ValueError as error:
        return Kernels(None, f"CC={os.environ['CC']}: {error}", name)
    if not compiler:
        return Kernels(None, "there is no C compiler: install one of cc, gcc, clang, or name one in CC", name)
    command = shlex.join(compiler)
    try:
        library = _library(compiler, source, name)
    except subprocess.CalledProcessError as error:
        messages = (error.stderr or "").strip().splitlines()
        reason = messages[0] if messages else f"exit code {error.returncode}"
        return Kernels(None, f"{command} cannot compile {SOURCE.name}: {reason}", name)
    except Exception as error:  # an unusual machine must not stop a run that can do without the kernels
        return Kernels(None, f"{command} cannot build {SOURCE.name}: {error}", name)
    if not _agrees(library):
        return Kernels(None, f"the library that {command} built does not give PyTorch's values", name)
    return Kernels(library, "", name)


def _library(compiler: list[str], source: bytes, name: str) -> ctypes.CDLL:
    """Load the library from the cache, or build it.

    The name of its file has a hash of the source, the compiler and the processor, because machines of
    different kinds may share a home directory.
    """
    command = [*compiler, *FLAGS]
    version = _run([*compiler, "--version"], timeout=60)
    identity = "\0".join([source.decode(), *command, version, platform.machine(), _processor()])
    file_name = f"{name}-{hashlib.sha256(identity.encode(errors='replace')).hexdigest()[:16]}"
    cache = None
    with contextlib.suppress(kernel_cache.UnsafeFolder):  # without a folder, every process builds
        cache = kernel_cache.folder()
    if cache is not None and (cached := kernel_cache.usable(cache, file_name)):
        with contextlib.suppress(OSError):  # on a home directory mounted `noexec`
            return _load(cached)
    with tempfile.TemporaryDirectory(prefix="kd-tables-") as folder:
        fresh = Path(folder, f"{file_name}.so")
        _run([*command, str(SOURCE), "-o", str(fresh), "-lm"], timeout=300)
        library = _load(fresh)  # stays loaded after its file is deleted
        if cache is not None:
            with contextlib.suppress(
                OSError
            ):  # the home directory is read-only: the next process builds again
                kernel_cache.keep(cache, file_name, fresh)
    return library


def _run(command: list[str], timeout: float) -> str:
    """Run a command and return its output. A compiler may print in any encoding."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=True,
        timeout=timeout,
    )
    return done.stdout


def _processor() -> str:
    """Return the properties of the processor that `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.partition("\t")[0].rstrip() in fields}))


_P, _D, _N, _I = ctypes.c_void_p, ctypes.c_double, ctypes.c_int64, ctypes.c_int


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.norm_train.argtypes = [*[_P] * 9, _D, _D, _N, _N, _I]
    library.norm_eval.argtypes = [*[_P] * 7, _D, _N, _N, _I]
    library.norm_backward.argtypes = [*[_P] * 11, _N, _N, _I]
    return library


_in_use: ctypes.CDLL | None = None
"""The kernels in use, by all threads of the process: a pack steps its students in several threads."""


def using(wanted: bool) -> AbstractContextManager[None]:
    """Return a context in which the batch norms of all threads use the kernels, if `wanted`, or do not.

    If the kernels cannot be built, or do not fit a map, PyTorch's operators are used.
    """
    return _with(built().library if wanted else None)


@contextlib.contextmanager
def _with(library: ctypes.CDLL | None) -> Iterator[None]:
    global _in_use
    previous, _in_use = _in_use, library
    try:
        yield
    finally:
        _in_use = previous


def fits(x: Tensor, shortcut: Tensor | None, norm: torch.nn.BatchNorm2d) -> bool:
    """Return whether the kernels are in use and can compute this norm."""
    if (
        _in_use is None
        or x.dtype != torch.bfloat16
        or x.is_cuda
        or x.dim() != 4
        or torch.compiler.is_compiling()
    ):
        return False
    if norm.weight.dtype != torch.float32 or torch.get_num_threads() > MOST_THREADS:
        return False
    if shortcut is not None and (
        shortcut.dtype != x.dtype or shortcut.shape != x.shape or not _is_channels_last(shortcut)
    ):
        return False
    return _is_channels_last(x) and x.numel() > x.shape[1]


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def evaluate(x: Tensor, shortcut: Tensor | None, norm: torch.nn.BatchNorm2d, relu: bool) -> Tensor:
    """Return `relu(norm(x) + shortcut)` with the running statistics, without gradient.

    Maps are `[B, C, H, W]`.
    """
    assert _in_use is not None
    out = torch.empty_like(x)
    tensors = (x, shortcut, out, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    _check(_in_use.norm_eval(*map(_address, tensors), norm.eps, x.numel() // x.shape[1], x.shape[1], relu))
    return out


def train(x: Tensor, shortcut: Tensor | None, norm: torch.nn.BatchNorm2d, relu: bool) -> Tensor:
    """Return `relu(norm(x) + shortcut)` with the batch's statistics, and update the running ones.

    Maps are `[B, C, H, W]`.
    """
    out: Tensor = _Norm.apply(
        x,
        shortcut,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        norm.momentum,
        norm.eps,
        relu,
    )
    return out


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shortcut: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
        relu: bool,
    ) -> Tensor:
        ctx.library = _in_use
        ctx.shape = (x.numel() // x.shape[1], x.shape[1], relu)
        out, mean, invstd = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        tensors = (x, shortcut, out, weight, bias, running_mean, running_var, mean, invstd)
        _check(ctx.library.norm_train(*map(_address, tensors), momentum, eps, *ctx.shape))
        ctx.save_for_backward(x, out if relu and shortcut is not None else None, weight, bias, mean, invstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, bias, mean, invstd = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        dshortcut = None
        if ctx.needs_input_grad[1]:
            dshortcut = grad if y is None else torch.empty_like(grad)
        masked = None if y is None else dshortcut
        tensors = (grad, x, y, weight, bias, mean, invstd, dx, masked, dweight, dbias)
        _check(ctx.library.norm_backward(*map(_address, tensors), *ctx.shape))
        return dx, dshortcut, dweight, dbias, None, None, None, None, None


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("there is no memory left for the sums of a batch norm")


def _agrees(library: ctypes.CDLL) -> bool:
    """Return whether the library agrees with PyTorch in fp32, up to rounding in bf16.

    Norm, sum and ReLU of a small map, and their gradients, are compared.
    """
    numbers = torch.arange(3 * 24 * 5 * 7, dtype=torch.float64)
    x, shortcut, grad = (
        torch.sin(numbers * step).bfloat16().view(3, 5, 7, 24).permute(0, 3, 1, 2).requires_grad_(step < 3)
        for step in (1.7, 2.3, 3.1)
    )
    norm = torch.nn.BatchNorm2d(24)
    with _with(library):
        out = train(x, shortcut, norm, True)
        ours = [
            out,
            *torch.autograd.grad(out, (x, shortcut, norm.weight, norm.bias), grad),
            evaluate(x.detach(), None, norm, False),
        ]
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    moved = (mean.clone(), var.clone())
    norm.reset_running_stats()
    x32, shortcut32 = x.detach().float().requires_grad_(), shortcut.detach().float().requires_grad_()
    plain = F.relu(norm(x32) + shortcut32)
    # The kernels take the ReLU's mask from the rounded output. Where that is 0 and the exact output is not,
    # the difference is within the tolerance.
    expected = [plain, *torch.autograd.grad(plain, (x32, shortcut32, norm.weight, norm.bias), grad.float())]
    expected.append(F.batch_norm(x32, *moved, norm.weight, norm.bias, False, 0.0, norm.eps))
    same = all(
        torch.allclose(a.float(), b.float(), rtol=0.02, atol=0.02)
        for a, b in zip(ours, expected, strict=True)
    )
    return same and all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(moved, (mean, var), strict=True)
    )
