"""Which batch norms on a GPU are computed by the kernels of models/triton_norm.py: those that gain by it.

The kernels are tried on each device before they are used: once against PyTorch's operators for values, and
then for each shape of a map, when it is first met, for values and time. They are used for a shape if they are
right and at least `GAIN` times as fast. Without Triton, on a GPU older than compute capability 8.0, after an
error, or if the environment variable KD_GPU_NORMS is `off`, PyTorch's operators are used, and the reason is
kept: nothing fails because of the kernels. They are for bf16 maps in channels_last.

A shape is never tried while a CUDA graph is captured. Steps that are captured later run a few times before
(benchmark/training/graphs.py), so their shapes have been tried by then.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SOURCE = Path(__file__).with_name("triton_norm.py")
GAIN = 1.05
"""How many times as fast the kernels must be; less could be the noise of the measurement."""
OLDEST = (8, 0)
"""The first compute capability with bf16."""
LARGEST = 2**31
"""The kernels count the numbers of a map in 32 bits."""

Kernels = Any
"""The module models.triton_norm, or what has its functions `train` and `evaluate`."""


class Shape(NamedTuple):
    """What the time of a batch norm depends on."""

    rows: int
    """B H W."""
    channels: int
    shortcut: bool
    relu: bool
    training: bool


class Trial(NamedTuple):
    """The outcome of trying the kernels on a shape."""

    shape: Shape
    right: bool
    """Whether they agree with PyTorch."""
    pytorch_ms: float | None
    """Milliseconds of PyTorch's operators; in training, forward and backward. None if it was not measured."""
    kernel_ms: float | None
    error: str
    """Why it could not be tried; "" otherwise."""

    @property
    def used(self) -> bool:
        """Whether the kernels are used for this shape."""
        if not self.right or self.pytorch_ms is None or self.kernel_ms is None:
            return False
        return self.kernel_ms * GAIN <= self.pytorch_ms


@dataclass
class Norms:
    """The kernels on one device, and the shapes that they were tried on."""

    kernels: Kernels
    device: torch.device
    milliseconds: Callable[[Callable[[], Any], torch.device], float] = field(
        default=lambda call, device: gpu_milliseconds(call, device)
    )
    """Measures one call."""
    capturing: Callable[[], bool] = torch.cuda.is_current_stream_capturing
    trials: dict[Shape, Trial] = field(default_factory=dict)

    def accept(self, shape: Shape) -> bool:
        """Return whether the kernels are used for this shape; try it if it is new. Never raises."""
        trial = self.trials.get(shape)
        if trial is None:
            if self.capturing():
                return False
            trial = self.trials[shape] = self.attempt(shape)
        return trial.used

    def attempt(self, shape: Shape) -> Trial:
        """Try the kernels on a shape. Never raises.

        Random maps of a generator of its own are used, because the global one belongs to the runs. Several
        calls read the same maps, which then lie in the cache: in a pack, where maps of other students replace
        them, reading a map fewer times gains more than is measured here.
        """
        try:
            with torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
                case = _Case(shape, self.device)
                if not case.agrees(self.kernels):
                    return Trial(shape, False, None, None, "")
                ms = [
                    self.milliseconds(functools.partial(case.call, form), self.device)
                    for form in (None, self.kernels)
                ]
                return Trial(shape, True, ms[0], ms[1], "")
        except Exception as error:  # compilers and drivers raise errors of many kinds
            return Trial(shape, False, None, None, _one_line(error))


class _Case:
    """A batch norm of one shape with random maps and gradient, to be computed by PyTorch and by kernels."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.shape = shape
        generator = torch.Generator(device).manual_seed(0)

        def numbers(*size: int) -> Tensor:
            return torch.randn(*size, device=device, generator=generator)

        def a_map() -> Tensor:
            return numbers(shape.rows, 1, 1, shape.channels).bfloat16().permute(0, 3, 1, 2)

        self.norm = nn.BatchNorm2d(shape.channels, device=device).train(shape.training)
        with torch.no_grad():
            for parameter in self.norm.parameters():
                parameter.copy_(numbers(shape.channels))
        self.invstd = torch.rsqrt(_of(self.norm.running_var) + self.norm.eps)
        self.x, self.grad = a_map().requires_grad_(shape.training), a_map()
        self.shortcut = a_map().requires_grad_(shape.training) if shape.shortcut else None
        self.inputs = [t for t in (self.x, self.shortcut, *self.norm.parameters()) if t is not None]

    def output(self, kernels: Kernels | None) -> Tensor:
        """Return the output, by PyTorch's fastest operators if `kernels` is None."""
        norm, x, shortcut = self.norm, self.x, self.shortcut
        if kernels is not None:
            form = kernels.train if norm.training else kernels.evaluate
            return form(x, shortcut, norm, self.shape.relu)
        if norm.training or not x.is_cuda:
            out = self._plain(x, shortcut)
        else:  # of a frozen teacher (models/layers.py)
            mean = _of(norm.running_mean)
            out = torch.batch_norm_elemt(x, norm.weight, norm.bias, mean, self.invstd, norm.eps)
            out = out if shortcut is None else out + shortcut
        return F.relu(out, inplace=True) if self.shape.relu else out

    def _plain(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        """Return the norm with the shortcut, without ReLU, by PyTorch's operators."""
        norm = self.norm
        out = F.batch_norm(
            x,
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
            norm.training,
            0.1,
            norm.eps,
        )
        return out if shortcut is None else out + shortcut

    def call(self, kernels: Kernels | None) -> None:
        """Do what is timed: forward and backward in training, else forward."""
        if self.shape.training:
            torch.autograd.grad(self.output(kernels), self.inputs, self.grad)
            return
        with torch.no_grad():
            self.output(kernels)

    def agrees(self, kernels: Kernels) -> bool:
        """Return whether the kernels agree with PyTorch in float32, up to rounding in bf16.

        Output, running statistics and gradients are compared. Where the ReLU's input is almost 0, either
        side of it is right, so gradients are not compared there.
        """
        norm, shape = self.norm, self.shape
        norm.reset_running_stats()
        with torch.set_grad_enabled(shape.training):
            out = self.output(kernels)
        ours = torch.autograd.grad(out, self.inputs, self.grad) if shape.training else ()
        moved = [_of(norm.running_mean).clone(), _of(norm.running_var).clone()]
        norm.reset_running_stats()
        x, shortcut = (
            None if t is None else t.detach().float().requires_grad_() for t in (self.x, self.shortcut)
        )
        assert x is not None
        before = self._plain(x, shortcut)
        same = _close(out, F.relu(before) if shape.relu else before)
        for a, b in zip(moved, (_of(norm.running_mean), _of(norm.running_var)), strict=True):
            same &= torch.allclose(a, b, rtol=1e-3, atol=1e-4)
        if not shape.training:
            return same
        leaves = [t for t in (x, shortcut, *norm.parameters()) if t is not None]
        opened = self.grad.float() * (before > 0) if shape.relu else self.grad.float()
        compared = (before.abs() > 1e-2) if shape.relu else torch.ones_like(before, dtype=torch.bool)
        for a, b in zip(ours, torch.autograd.grad(before, leaves, opened), strict=True):
            whole = a.dim() == 1
            same &= _close(a, b) if whole else _close(a[compared], b[compared])
        return same


def _of(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def _close(a: Tensor, b: Tensor) -> bool:
    """Return whether the difference is below 1% of b as a whole, and nowhere above 2% of b's largest number.

    Rounding in bf16 is 0.4% at most. A term that is missing in a gradient shows in the whole.
    """
    if b.numel() == 0:
        return True
    b = b.detach()
    apart = a.detach().float() - b
    whole = float(apart.norm()) <= 0.01 * float(b.norm())  # False for NaN
    return whole and float(apart.abs().max()) <= 0.02 * max(1.0, float(b.abs().max()))


def gpu_milliseconds(call: Callable[[], Any], device: torch.device, rounds: int = 5, calls: int = 8) -> float:
    """Return the GPU's milliseconds for one call, the median of `rounds`.

    The GPU is kept busy while the host submits the calls, so that the time of Python is not measured: a
    replayed graph does not need it.
    """
    with torch.cuda.device(device):
        call()
        torch.cuda.synchronize()
        times = []
        for _ in range(rounds):
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(20_000_000)  # cycles, about 12 ms
            began.record()
            for _ in range(calls):
                call()
            ended.record()
            ended.synchronize()
            times.append(began.elapsed_time(ended) / calls)
    return statistics.median(times)


class Built(NamedTuple):
    """The outcome of preparing the kernels for a device."""

    norms: Norms | None
    """None if the kernels cannot be used."""
    error: str
    """Why `norms` is None, in one line; "" otherwise."""
    name: str
    """Name with a hash of the source, for records: another version of the source may round differently."""


PROBES = (Shape(105, 24, True, True, True), Shape(105, 24, False, True, False))
"""Small shapes on which the kernels must agree with PyTorch before they are used on a device at all."""


def built(device: torch.device) -> Built:
    """Return the kernels for a GPU. The first call in a process compiles and tries them. Never raises."""
    if device.index is None and torch.cuda.is_available():
        device = torch.device(device.type, torch.cuda.current_device())
    return _built(device)


@functools.cache
def _built(device: torch.device) -> Built:
    name = f"triton-norm-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:8]}"
    norms, error = None, ""
    try:
        error = _refusal(device)
        if not error:
            norms = Norms(importlib.import_module("models.triton_norm"), device)
            error = probe(norms)
    except Exception as reason:  # an unusual machine must not stop a run that can do without the kernels
        error = _one_line(reason)
    return Built(None if error else norms, error, name)


def _refusal(device: torch.device) -> str:
    """Return why the kernels cannot be tried on a device; "" if they can."""
    if os.environ.get("KD_GPU_NORMS", "").lower() == "off":
        return "KD_GPU_NORMS is off"
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        return f"compute capability {'.'.join(map(str, capability))} is below {'.'.join(map(str, OLDEST))}"
    return ""


def probe(norms: Norms) -> str:
    """Try the kernels on `PROBES`. Returns why they cannot be used; "" if they can."""
    for shape in PROBES:
        trial = norms.attempt(shape)
        if trial.error:
            return f"the Triton kernels cannot be used: {trial.error}"
        if not trial.right:
            return "the Triton kernels do not give PyTorch's values"
    return ""


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]


_in_use: Norms | None = None
"""The kernels in use, by all threads of the process."""


@contextlib.contextmanager
def using(norms: Norms | None) -> Iterator[None]:
    """Return a context in which batch norms on a GPU use the kernels for the shapes that gain by them.

    With None, they use PyTorch's operators.
    """
    global _in_use
    previous, _in_use = _in_use, norms
    try:
        yield
    finally:
        _in_use = previous


def used_for(x: Tensor, shortcut: Tensor | None, norm: nn.BatchNorm2d, relu: bool) -> Kernels | None:
    """Return the kernels that compute this norm; None if PyTorch's operators do."""
    norms = _in_use
    if norms is None or x.device != norms.device:
        return None
    if torch.compiler.is_compiling() or not _is_fit(x) or norm.weight.dtype != torch.float32:
        return None
    if shortcut is not None and (shortcut.shape != x.shape or not _is_fit(shortcut)):
        return None
    if not norm.training and torch.is_grad_enabled():
        return None
    channels = x.shape[1]
    shape = Shape(x.numel() // channels, channels, shortcut is not None, relu, norm.training)
    return norms.kernels if norms.accept(shape) else None


def _is_fit(x: Tensor) -> bool:
    """Return whether the kernels can read a map. They are compiled for addresses that divide by 16."""
    return (
        x.dtype == torch.bfloat16
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.shape[1] < x.numel() < LARGEST
        and x.data_ptr() % 16 == 0
    )
