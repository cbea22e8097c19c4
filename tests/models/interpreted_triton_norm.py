"""The kernels of models/triton_norm.py in Triton's interpreter, against the formulas in float64.

Run by test_triton_norm.py in a process of its own, because Triton reads TRITON_INTERPRET when it is imported.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from models import gpu_norms, triton_norm
from models.layers import BatchNorm2d, batch_statistics

SHAPES = [(2, 1, 3, 5), (1, 5, 3, 1), (2, 16, 2, 4), (3, 35, 3, 3), (13, 20, 1, 1)]
"""With channels that fill no block or several, rows that fill no tile, one tile, or several chunks."""
FORMS = list(itertools.product((False, True), (False, True)))
CASES = [
    *((shape, torch.float32, 17, shortcut, True) for shape in SHAPES for shortcut in (False, True)),
    *(((2, 5, 3, 3), torch.float32, 17, shortcut, False) for shortcut in (False, True)),
    *(((2, 5, 3, 3), torch.bfloat16, 6, shortcut, True) for shortcut in (False, True)),
]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 4 rows and blocks of 16 channels, so that small maps have many of both."""
    monkeypatch.setattr(triton_norm, "TILE", 64)
    monkeypatch.setattr(triton_norm, "MOST_TILE_CHANNELS", 16)
    monkeypatch.setattr(triton_norm, "MOST_CHUNKS", 3)
    monkeypatch.setattr(triton_norm, "STEP", 2)


def a_map(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a map in channels_last, the channels of different means and scales."""
    generator = torch.Generator().manual_seed(seed)
    scale, mean = (torch.rand(shape[1], 1, 1, generator=generator) + 0.5 for _ in range(2))
    x = torch.randn(*shape, generator=generator) * scale + 3 * (mean - 1)
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def norm_of(channels: int) -> BatchNorm2d:
    generator = torch.Generator().manual_seed(100)
    norm = BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(channels, generator=generator) * 2 - 0.5)  # some negative
        norm.bias.copy_(torch.randn(channels, generator=generator))
        norm.running_mean.copy_(torch.randn(channels, generator=generator))
        norm.running_var.copy_(torch.rand(channels, generator=generator) + 0.5)
    return norm


def of_channels(v: Tensor) -> Tensor:
    return v.detach().double()[:, None, None]


def normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return x^ and 1 / std, in float64, by the batch's statistics."""
    x = x.detach().double()
    invstd = 1 / torch.sqrt(x.var((0, 2, 3), unbiased=False, keepdim=True) + eps)
    return (x - x.mean((0, 2, 3), keepdim=True)) * invstd, invstd


def close(got: Tensor, exact: Tensor, bits: int) -> None:
    """Assert that the largest difference is below 2^-bits of max(number, largest number / 16)."""
    exact = exact.double()
    unit = exact.abs().clamp_min(float(exact.abs().max()) / 16 + 1e-9)
    assert float(((got.detach().double() - exact).abs() / unit).max()) < 2.0**-bits


@pytest.mark.parametrize(("shape", "dtype", "bits", "shortcut", "relu"), CASES)
def test_values_and_gradients(
    shape: tuple[int, ...], dtype: torch.dtype, bits: int, shortcut: bool, relu: bool
) -> None:
    """The gradients are those that Ioffe & Szegedy derive (ICML 2015, section 3)."""
    norm = norm_of(shape[1])
    x, grad = a_map(*shape, dtype=dtype).requires_grad_(), a_map(*shape, seed=1, dtype=dtype)
    beside = a_map(*shape, seed=2, dtype=dtype).requires_grad_() if shortcut else None
    out = triton_norm.train(x, beside, norm, relu)
    assert out.dtype == dtype and out.is_contiguous(memory_format=torch.channels_last)
    standard, invstd = normalised(x, norm.eps)
    exact = standard * of_channels(norm.weight) + of_channels(norm.bias)
    exact = exact if beside is None else exact + beside.detach().double()
    close(out, exact.clamp_min(0) if relu else exact, bits)

    inputs = [x, norm.weight, norm.bias, *([] if beside is None else [beside])]
    got = torch.autograd.grad(out, inputs, grad)
    g = grad.double() * (exact > 0) if relu else grad.double()
    mean_g, mean_gx = g.mean((0, 2, 3), keepdim=True), (g * standard).mean((0, 2, 3), keepdim=True)
    close(got[0], of_channels(norm.weight) * invstd * (g - mean_g - standard * mean_gx), bits)
    close(got[1], (g * standard).sum((0, 2, 3)), 15)
    close(got[2], g.sum((0, 2, 3)), 15)
    if beside is not None:
        assert torch.equal(got[3].double(), g)


@pytest.mark.parametrize("momentum", [0.1, 0.19])
def test_running_statistics_move_in_place(momentum: float) -> None:
    norm, shape = norm_of(20), (2, 20, 3, 3)
    norm.momentum = momentum
    where = norm.running_mean.data_ptr(), norm.running_var.data_ptr()
    mean, var = norm.running_mean.double(), norm.running_var.double()
    for seed in range(2):
        x = a_map(*shape, seed=seed)
        triton_norm.train(x, None, norm, True)
        mean = (1 - momentum) * mean + momentum * x.double().mean((0, 2, 3))
        var = (1 - momentum) * var + momentum * x.double().var((0, 2, 3), unbiased=True)
    close(norm.running_mean, mean, 18)
    close(norm.running_var, var, 18)
    assert where == (norm.running_mean.data_ptr(), norm.running_var.data_ptr())


@pytest.mark.parametrize(("shortcut", "relu"), FORMS)
def test_evaluation(shortcut: bool, relu: bool) -> None:
    norm, shape = norm_of(20).eval(), (2, 20, 3, 3)
    x, beside = a_map(*shape), a_map(*shape, seed=2) if shortcut else None
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    out = triton_norm.evaluate(x, beside, norm, relu)
    scale = of_channels(norm.weight) / torch.sqrt(of_channels(norm.running_var) + norm.eps)
    exact = (x.double() - of_channels(norm.running_mean)) * scale + of_channels(norm.bias)
    exact = exact if beside is None else exact + beside.double()
    close(out, exact.clamp_min(0) if relu else exact, 18)
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())


def test_a_mean_far_from_zero() -> None:
    """The variance is not lost beside the square of the mean."""
    x, norm = 1000 + a_map(3, 8, 4, 4), norm_of(8)
    exact = normalised(x, norm.eps)[0] * of_channels(norm.weight) + of_channels(norm.bias)
    close(triton_norm.train(x, None, norm, False), exact, 11)


@pytest.mark.parametrize("shortcut", [False, True])
def test_not_a_number_is_not_hidden(shortcut: bool) -> None:
    """A diverged training is seen: PyTorch's ReLU lets NaN pass too."""
    x, beside = a_map(3, 16, 3, 3), a_map(3, 16, 3, 3, seed=2) if shortcut else None
    x[1, 3, 2, 2] = float("nan")
    if beside is not None:
        beside[0, 5, 0, 0] = float("nan")
    norm = norm_of(16)
    out = triton_norm.train(x.requires_grad_(), beside, norm, True)
    assert bool(out[:, 3].isnan().all()) and int(out[:, 5].isnan().sum()) == int(shortcut)
    assert int(out.isnan().sum()) == 27 + int(shortcut)
    (of_x,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert bool(of_x[:, 3].isnan().all()) and not bool(of_x[:, 4].isnan().any())
    assert int(norm.running_mean.isnan().sum()) == int(norm.running_var.isnan().sum()) == 1
    seen = triton_norm.evaluate(a_map(1, 16, 3, 3), None, norm.eval(), True)
    assert bool(seen[:, 3].isnan().all()) and int(seen.isnan().sum()) == 9


def test_the_same_bits_again() -> None:
    x, norm = a_map(2, 5, 3, 5).requires_grad_(), norm_of(5)
    out = [triton_norm.train(x, None, norm, True) for _ in range(2)]
    assert torch.equal(*out)
    assert torch.equal(*(torch.autograd.grad(o.sum(), x)[0] for o in out))


@pytest.fixture
def in_use(monkeypatch: pytest.MonkeyPatch) -> Iterator[gpu_norms.Norms]:
    """The kernels for maps of the CPU, in large tiles; they take half of PyTorch's time."""
    monkeypatch.setattr(triton_norm, "TILE", 2048)
    monkeypatch.setattr(triton_norm, "MOST_TILE_CHANNELS", 64)
    times = itertools.cycle([2.0, 1.0])
    norms = gpu_norms.Norms(
        triton_norm,
        torch.device("cpu"),
        milliseconds=lambda call, device: (call(), next(times))[1],
        capturing=lambda: False,
    )
    with gpu_norms.using(norms):
        yield norms


def test_the_trial_accepts_them_and_a_norm_uses_them(in_use: gpu_norms.Norms) -> None:
    """In train mode, in eval mode, and in eval mode with the batch's statistics."""
    assert gpu_norms.probe(in_use) == ""
    norm = norm_of(20)
    x, beside = (a_map(3, 20, 3, 3, seed=s, dtype=torch.bfloat16) for s in (0, 1))
    assert type(norm(x, beside, True).grad_fn).__name__ == "_NormBackward"
    norm.eval()
    before = [norm.running_mean.clone(), norm.running_var.clone()]
    with torch.no_grad():
        norm(x, None, True)
    with batch_statistics(norm):
        assert type(norm(x).grad_fn).__name__ == "_NormBackward"
    assert torch.equal(before[0], norm.running_mean) and torch.equal(before[1], norm.running_var)
    assert [(t.shape, t.used) for t in in_use.trials.values()] == [
        (gpu_norms.Shape(27, 20, True, True, True), True),
        (gpu_norms.Shape(27, 20, False, True, False), True),
        (gpu_norms.Shape(27, 20, False, False, True), True),
    ]
