"""Batch norms that use the statistics of a batch which several processes compute together.

Each process has some rows of the batch. A synchronised norm normalises them by the mean and the variance of
all rows, as one process would, and its backward pass is that of the whole batch. With n values of a channel
in all processes, x^ = (x - mean) / sqrt(var + eps) and y = w x^ + b:

    dx = w / sqrt(var + eps) * (dy - sum(dy) / n - x^ sum(dy x^) / n)        sums over all processes
    dw = sum(dy x^),  db = sum(dy)                                           sums over this process's rows

dw and db are parts of the gradient, like those of all weights: the trainer adds them over the processes.
The sources are Ioffe and Szegedy 2015 (the norm) and Chan, Golub and LeVeque 1983 (joining variances).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Team(Protocol):
    """The processes that compute a batch together. All of them call these functions in the same order."""

    def gather(self, x: Tensor) -> Tensor:
        """Return the tensors of all processes, which have the same shape, as `[processes, *shape]`."""

    def sum_(self, x: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""


_in_use: Team | None = None


def in_use() -> Team | None:
    """Return the processes between which batch norms are synchronised in this block; None if they are not."""
    return _in_use


@contextlib.contextmanager
def using(team: Team | None) -> Iterator[None]:
    """Return a context in which batch norms in train mode are synchronised between the processes."""
    global _in_use
    before, _in_use = _in_use, team
    try:
        yield
    finally:
        _in_use = before


def norm(x: Tensor, layer: nn.BatchNorm2d, team: Team) -> Tensor:
    """Return `layer(x)` in train mode by the statistics of all processes, and update the running ones.

    x: this process's rows, `[b, C, H, W]`; b may differ between the processes.
    """
    out: Tensor
    out, mean, unbiased = _SyncedNorm.apply(x, layer.weight, layer.bias, layer.eps, team)
    assert layer.momentum is not None and layer.running_mean is not None and layer.running_var is not None
    with torch.no_grad():
        for running, new in ((layer.running_mean, mean), (layer.running_var, unbiased)):
            running.mul_(1 - layer.momentum).add_(new, alpha=layer.momentum)
    return out


_OVER = (0, 2, 3)
"""The dimensions that a statistic of a channel is taken over."""


class _SyncedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, team: Team
    ) -> tuple[Tensor, Tensor, Tensor]:
        values = _exact(x)
        mean = values.mean(_OVER)
        squares = (values - _channels(mean)).square().sum(_OVER)
        count = torch.full((1,), values.numel() // len(mean), dtype=torch.float64, device=x.device)
        parts = team.gather(torch.cat([count, mean.double(), squares.double()]))
        counts, means, squares = parts[:, :1], parts[:, 1 : 1 + len(mean)], parts[:, 1 + len(mean) :]
        n = counts.sum()
        mean_64 = (counts * means).sum(0) / n
        squares = (squares + counts * (means - mean_64).square()).sum(0)
        invstd = torch.rsqrt(squares / n + eps).to(values.dtype)
        mean = mean_64.to(values.dtype)
        out = (values - _channels(mean)) * _channels(invstd * weight) + _channels(bias)
        ctx.save_for_backward(x, weight, mean, invstd, n)
        ctx.team = team
        unbiased = (squares / (n - 1)).to(values.dtype)
        ctx.mark_non_differentiable(mean, unbiased)
        return out.to(x.dtype), mean, unbiased

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, invstd, n = ctx.saved_tensors
        dy, normed = _exact(grad), (_exact(x) - _channels(mean)) * _channels(invstd)
        d_bias, d_weight = dy.sum(_OVER), (dy * normed).sum(_OVER)
        sums = torch.cat([d_bias, d_weight]).double()
        ctx.team.sum_(sums)
        of_bias, of_weight = (sums / n).to(dy.dtype).chunk(2)
        dx = _channels(weight * invstd) * (dy - _channels(of_bias) - normed * _channels(of_weight))
        return dx.to(x.dtype), d_weight, d_bias, None, None


def _exact(x: Tensor) -> Tensor:
    """Return values in float32, or in float64 if they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _channels(values: Tensor) -> Tensor:
    """Return values of channels `[C]` in a shape that fits maps `[B, C, H, W]`."""
    return values.view(1, -1, 1, 1)
