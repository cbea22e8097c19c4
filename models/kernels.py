"""Batch norm with the sum and the ReLU after it in fewer passes over memory: bf16 maps in channels_last on a CPU.

`norm.c` is compiled for this machine where it is first needed (`cc`, or what the variable CC names; a second) and kept under the user's cache
directory. Without a compiler, or should what it built not agree with PyTorch, PyTorch's own operators are taken: the same values but for the
rounding in bf16, two to five times as slow (docs/speed.md). fp32, the reference, is never computed here.
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

SOURCE = Path(__file__).with_name("norm.c")
MOST_THREADS = 2
"""The kernels have one; PyTorch's operators on two take 1.0 to 3.4 times as long (docs/speed.md), on more they catch up."""

FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC")


class Kernels(NamedTuple):
    """library: the built functions, or None and `why` not. name: of the source, for records: another source may round in another way."""

    library: ctypes.CDLL | None
    why: str
    name: str


@functools.cache
def built() -> Kernels:
    """The kernels of this process, built or found at the first call. Never raises: what goes wrong is in `why`."""
    source = SOURCE.read_bytes()
    name = f"norm-{hashlib.sha256(source).hexdigest()[:8]}"
    compiler = (
        shlex.split(os.environ.get("CC", ""))
        or [found for found in ("cc", "gcc", "clang") if shutil.which(found)][:1]
    )
    if not compiler:
        return Kernels(None, "no C compiler: none of cc, gcc, clang is to be found", name)
    told = shlex.join(compiler)
    try:
        library = _library(compiler, source, name)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines()
        return Kernels(
            None,
            f"{told} does not compile {SOURCE.name}: {said[0] if said else f'exit code {error.returncode}'}",
            name,
        )
    except (OSError, subprocess.TimeoutExpired, AttributeError) as error:
        return Kernels(None, f"{told} does not build {SOURCE.name}: {error}", name)
    if not _agrees(library):
        return Kernels(None, f"what {told} built does not give PyTorch's values", name)
    return Kernels(library, "", name)


def _library(compiler: list[str], source: bytes, name: str) -> ctypes.CDLL:
    """Built or found, under a name of all that decides what is in it: a home directory may be shared by machines of other kinds."""
    command = [*compiler, *FLAGS]
    version = subprocess.run(
        [*compiler, "--version"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    told = "\0".join([source.decode(), *command, version, platform.machine(), _processor()])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kd-tables"
    kept = cache / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}.so"
    with contextlib.suppress(OSError):  # not there, broken, or a home from which nothing may be run
        return _load(kept)
    with tempfile.TemporaryDirectory(prefix="kd-tables-") as there:
        fresh = Path(there, kept.name)
        subprocess.run(
            [*command, str(SOURCE), "-o", str(fresh), "-lm"],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        library = _load(fresh)  # stays in the process when its file is gone
        with contextlib.suppress(OSError):  # a home that cannot be written: the next process builds again
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache, prefix=".") as beside:
                shutil.copy(fresh, beside)
                Path(beside, kept.name).replace(kept)
    return library


def _processor() -> str:
    """What `-march=native` looks at."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.partition("\t")[0].rstrip() in wanted}))


_P, _D, _N, _I = ctypes.c_void_p, ctypes.c_double, ctypes.c_int64, ctypes.c_int


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.norm_train.argtypes = [*[_P] * 9, _D, _D, _N, _N, _I]
    library.norm_eval.argtypes = [*[_P] * 7, _D, _N, _N, _I]
    library.norm_backward.argtypes = [*[_P] * 11, _N, _N, _I]
    return library


_in_use: ctypes.CDLL | None = None
"""Of the process, as the number of threads is: students are stepped in threads of their own."""


def using(wanted: bool) -> AbstractContextManager[None]:
    """Whether batch norms take the kernels where they fit, in all threads; without kernels nothing changes."""
    return _with(built().library if wanted else None)


@contextlib.contextmanager
def _with(library: ctypes.CDLL | None) -> Iterator[None]:
    global _in_use
    was, _in_use = _in_use, library
    try:
        yield
    finally:
        _in_use = was


def fits(x: Tensor, shortcut: Tensor | None, norm: torch.nn.BatchNorm2d) -> bool:
    """Whether the kernels are in use and made for these maps."""
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
        shortcut.dtype != x.dtype or shortcut.shape != x.shape or not _rows(shortcut)
    ):
        return False
    return _rows(x) and x.numel() > x.shape[1]


def _rows(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def evaluate(x: Tensor, shortcut: Tensor | None, norm: torch.nn.BatchNorm2d, relu: bool) -> Tensor:
    """`relu(norm(x) + shortcut)` with the running statistics, without a gradient. Maps `[B, C, H, W]`."""
    assert _in_use is not None
    out = torch.empty_like(x)
    given = (x, shortcut, out, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    _checked(_in_use.norm_eval(*map(_address, given), norm.eps, x.numel() // x.shape[1], x.shape[1], relu))
    return out


def train(x: Tensor, shortcut: Tensor | None, norm: torch.nn.BatchNorm2d, relu: bool) -> Tensor:
    """`relu(norm(x) + shortcut)` with the batch's statistics, which move the running ones. Maps `[B, C, H, W]`."""
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
        ctx: Any, x: Tensor, shortcut: Tensor | None, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float,
        eps: float, relu: bool,
    ) -> Tensor:  # fmt: skip
        ctx.library = _in_use
        ctx.shape = (x.numel() // x.shape[1], x.shape[1], relu)
        out, mean, invstd = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        given = (x, shortcut, out, weight, bias, running_mean, running_var, mean, invstd)
        _checked(ctx.library.norm_train(*map(_address, given), momentum, eps, *ctx.shape))
        ctx.save_for_backward(x, out if relu and shortcut is not None else None, weight, bias, mean, invstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, bias, mean, invstd = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        of_x, of_weight, of_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        of_shortcut = None
        if ctx.needs_input_grad[1]:
            of_shortcut = grad if y is None else torch.empty_like(grad)
        masked = None if y is None else of_shortcut
        given = (grad, x, y, weight, bias, mean, invstd, of_x, masked, of_weight, of_bias)
        _checked(ctx.library.norm_backward(*map(_address, given), *ctx.shape))
        return of_x, of_shortcut, of_weight, of_bias, None, None, None, None, None


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _checked(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for a batch norm's sums")


def _agrees(library: ctypes.CDLL) -> bool:
    """Whether norm, sum and ReLU of a small map, and their gradients, are those of PyTorch in fp32, to the rounding of bf16."""
    numbers = torch.arange(3 * 24 * 5 * 7, dtype=torch.float64)
    x, shortcut, grad = (
        torch.sin(numbers * step).bfloat16().view(3, 5, 7, 24).permute(0, 3, 1, 2).requires_grad_(step < 3)
        for step in (1.7, 2.3, 3.1)
    )
    norm = torch.nn.BatchNorm2d(24)
    with _with(library):
        got = train(x, shortcut, norm, True)
        found = [
            got,
            *torch.autograd.grad(got, (x, shortcut, norm.weight, norm.bias), grad),
            evaluate(x.detach(), None, norm, False),
        ]
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    moved = (mean.clone(), var.clone())
    norm.reset_running_stats()
    x32, shortcut32 = x.detach().float().requires_grad_(), shortcut.detach().float().requires_grad_()
    plain = F.relu(norm(x32) + shortcut32)
    # the mask is that of the rounded output: where that is 0 and the plain one is not, so little is let through that rounding covers it
    expected = [plain, *torch.autograd.grad(plain, (x32, shortcut32, norm.weight, norm.bias), grad.float())]
    expected.append(F.batch_norm(x32, *moved, norm.weight, norm.bias, False, 0.0, norm.eps))
    same = all(
        torch.allclose(a.float(), b.float(), rtol=0.02, atol=0.02)
        for a, b in zip(found, expected, strict=True)
    )
    return same and all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(moved, (mean, var), strict=True)
    )
