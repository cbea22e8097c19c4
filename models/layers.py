"""Faster forms of PyTorch's layers.

They compute the same values, up to the order of a sum and its rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from models import gpu_norms, kernels, synced_norms


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that can add a shortcut and apply a ReLU, and that does not count its batches.

    The momentum is fixed, so nothing reads the number of batches. Counting them would cost one small kernel
    for each norm in each step on a GPU. `num_batches_tracked` keeps the value that a checkpoint gave it.
    """

    invstd: Tensor | None
    """1 / sqrt(running_var + eps), stored by `freeze`. If it is None, each pass in eval mode on a GPU
    computes it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("invstd", None, persistent=False)

    def forward(self, x: Tensor, shortcut: Tensor | None = None, relu: bool = False) -> Tensor:
        """Return `norm(x) + shortcut`, after a ReLU if `relu`.

        x, shortcut: `[B, C, H, W]`. In bf16 all of it is one kernel on a CPU (models/kernels.py); on a GPU
        one or two, for maps that gain by them (models/gpu_norms.py). Where several processes compute a batch
        together, its statistics may be those of all (models/synced_norms.py).
        """
        if self.training and (team := synced_norms.in_use()) is not None:
            return self._finished(synced_norms.norm(x, self, team), shortcut, relu)
        if kernels.fits(x, shortcut, self):
            if self.training:
                return kernels.train(x, shortcut, self, relu)
            if not torch.is_grad_enabled():
                return kernels.evaluate(x, shortcut, self, relu)
        if (on_gpu := gpu_norms.used_for(x, shortcut, self, relu)) is not None:
            form = on_gpu.train if self.training else on_gpu.evaluate
            fused: Tensor = form(x, shortcut, self, relu)
            return fused
        return self._finished(self._norm(x), shortcut, relu)

    @staticmethod
    def _finished(out: Tensor, shortcut: Tensor | None, relu: bool) -> Tensor:
        if shortcut is not None:
            out = out + shortcut
        return F.relu(out, inplace=True) if relu else out

    def _norm(self, x: Tensor) -> Tensor:
        if (
            self.invstd is not None
            and x.is_cuda
            and not self.training
            and not (torch.is_grad_enabled() and x.requires_grad)
        ):
            mean = self.running_mean
            assert mean is not None
            out: Tensor = torch.batch_norm_elemt(x, self.weight, self.bias, mean, self.invstd, self.eps)
            return out
        assert self.momentum is not None
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)

    def train(self, mode: bool = True) -> BatchNorm2d:
        if mode:
            self.invstd = None
        super().train(mode)
        return self

    def freeze(self) -> None:
        """Compute `invstd` once, for a norm whose statistics will not change. `train()` undoes it."""
        assert self.running_var is not None
        self.invstd = torch.rsqrt(self.running_var + self.eps)


class NormReLU(BatchNorm2d):
    """A batch norm followed by a ReLU; a shortcut, if there is one, is added before the ReLU."""

    def forward(self, x: Tensor, shortcut: Tensor | None = None, relu: bool = True) -> Tensor:
        return super().forward(x, shortcut, relu)


def run_layers(
    layers: nn.Sequential, x: Tensor, shortcut: Tensor | None = None, relu: bool = False
) -> Tensor:
    """Run layers that end in a `BatchNorm2d`; `shortcut` and `relu` are passed to that norm."""
    *before, norm = layers
    for layer in before:
        x = layer(x)
    out: Tensor = norm(x, shortcut, relu)
    return out


class Pointwise(nn.Conv2d):
    """A 1x1 convolution without bias. On a GPU it is a (batched) matrix product if that is faster.

    It is faster if the convolution has groups, or if its numbers of channels are not multiples of 8: cuDNN's
    kernels need whole groups of 8 channels, so it splits, pads and transposes such maps, forward and backward
    (docs/speed.md). On a CPU the convolution is as fast.
    """

    def __init__(self, inputs: int, outputs: int, groups: int = 1) -> None:
        super().__init__(inputs, outputs, 1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, outputs, H, W]`."""
        aligned = self.groups == 1 and self.in_channels % 8 == self.out_channels % 8 == 0
        return super().forward(x) if aligned or not x.is_cuda else self.matmul(x)

    def matmul(self, x: Tensor) -> Tensor:
        """Return the convolution as a matrix product, in channels_last.

        Input in that format is not copied.
        """
        batch, _, height, width = x.shape
        x_PGI = x.permute(0, 2, 3, 1).reshape(batch * height * width, self.groups, -1)
        w_GOI = self.weight.view(self.groups, self.out_channels // self.groups, -1)
        if self.groups == 1:
            y_PGO = F.linear(x_PGI[:, 0], w_GOI[0])
        else:
            y_PGO = torch.bmm(x_PGI.transpose(0, 1), w_GOI.transpose(1, 2)).transpose(0, 1)
        return y_PGO.reshape(batch, height, width, self.out_channels).permute(0, 3, 1, 2)


class Depthwise(nn.Conv2d):
    """A depthwise 3x3 convolution with padding 1, without bias.

    In bf16 on a CPU its backward pass avoids two of oneDNN's reference kernels, which take ten to a hundred
    times as long as its other kernels (docs/speed.md): the gradient of the input with a stride, and the
    gradient of the weights for maps smaller than 3x3.
    """

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__(channels, channels, 3, stride, 1, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, channels, H, W]` to `[B, channels, ceil(H / stride), ceil(W / stride)]`."""
        if x.is_cuda or not torch.is_grad_enabled() or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        dtype = torch.get_autocast_dtype("cpu")
        out: Tensor = _Depthwise.apply(x.to(dtype), self.weight.to(dtype), self.stride[0])
        return out


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, 1, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, weight), (needs_dx, needs_dw, _) = ctx.saved_tensors, ctx.needs_input_grad
        dx = dw = None
        if needs_dx and ctx.stride > 1:
            # The transposed convolution as a convolution of stride 1 over the gradient, with zeros put
            # between its elements. The sums are the same.
            spread = torch.zeros_like(x)
            spread[:, :, :: ctx.stride, :: ctx.stride] = grad
            dx = F.conv2d(spread, weight.flip(2, 3), None, 1, 1, 1, len(weight))
            needs_dx = False
        if needs_dw and ctx.stride == 1 and max(x.shape[2:]) < 3:
            dw = _window_products(x.float(), grad.float()).to(weight.dtype)
            needs_dw = False
        if needs_dx or needs_dw:
            step, mask = [ctx.stride] * 2, [needs_dx, needs_dw, False]
            gradients = torch.ops.aten.convolution_backward(
                grad, x, weight, None, step, [1, 1], [1, 1], False, [0, 0], len(weight), mask
            )
            dx, dw = (gradients[0] if needs_dx else dx), (gradients[1] if needs_dw else dw)
        return dx, dw, None


def _window_products(x_BCHW: Tensor, grad_BCHW: Tensor) -> Tensor:
    """Return the gradient `[C, 1, 3, 3]` of a depthwise convolution's weights, computed tap by tap."""
    products = x_BCHW.new_zeros(x_BCHW.shape[1], 1, 3, 3)
    for i, j, target, source in _taps(*x_BCHW.shape[2:]):
        read, written = x_BCHW[:, :, source[0], source[1]], grad_BCHW[:, :, target[0], target[1]]
        products[:, 0, i, j] = (read * written).sum((0, 2, 3))
    return products


LARGEST_TAPPED, FEWEST_TAPPED = 4, 128
"""`Conv3x3` is faster tap by tap for maps of at most this side and at least this many channels
(docs/speed.md)."""


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution of stride 1 with padding 1.

    For small maps with many channels in bf16 on a CPU, it is computed tap by tap: one matrix product for
    each of the nine taps, over the positions for which the tap does not read padding. At 4x4, a third of
    the products of an ordinary convolution are with padding.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, 1, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, outputs, H, W]`."""
        small = (
            max(x.shape[2:]) <= LARGEST_TAPPED and min(self.in_channels, self.out_channels) >= FEWEST_TAPPED
        )
        if x.is_cuda or not small or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        dtype = torch.get_autocast_dtype("cpu")
        w_KKOI = self.weight.permute(2, 3, 0, 1).to(dtype)
        if w_KKOI.stride(3) != 1:  # the weights are not in channels_last
            w_KKOI = w_KKOI.contiguous()
        bias = None if self.bias is None else self.bias.to(dtype)
        out: Tensor = _ByTaps.apply(x.to(dtype, memory_format=torch.channels_last), w_KKOI, bias)
        return out


Region = tuple[slice, slice]
"""Rows and columns of a map."""


def _taps(height: int, width: int) -> list[tuple[int, int, Region, Region]]:
    """Return the taps of a 3x3 convolution that read some position inside the map.

    Each is (row and column of the tap, rows and columns of the output, rows and columns of the input read
    for them).
    """

    def inside(k: int, size: int) -> tuple[slice, slice]:
        low, high = max(0, 1 - k), min(size, size + 1 - k)
        return slice(low, high), slice(low + k - 1, high + k - 1)

    taps = []
    for i in range(3):
        for j in range(3):
            (y_out, y_in), (x_out, x_in) = inside(i, height), inside(j, width)
            if y_out.start < y_out.stop and x_out.start < x_out.stop:
                taps.append((i, j, (y_out, x_out), (y_in, x_in)))
    return taps


class _ByTaps(torch.autograd.Function):
    """The 3x3 convolution tap by tap. x is in channels_last, weights are `[3, 3, O, I]`.

    The product of each tap is in the precision of x, the sum over the taps in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_KKOI: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w_KKOI)
        x_BHWI = x.permute(0, 2, 3, 1)
        batch, height, width, _ = x_BHWI.shape
        out = torch.zeros(batch, height, width, w_KKOI.shape[2], device=x.device)
        for i, j, target, source in _taps(height, width):
            part = out[:, target[0], target[1]]
            part += (x_BHWI[:, source[0], source[1]].flatten(0, 2) @ w_KKOI[i, j].t()).view(part.shape)
        if bias is not None:
            out += bias
        return out.to(x.dtype).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, w_KKOI = ctx.saved_tensors
        needs_dx, needs_dw, needs_db = ctx.needs_input_grad
        g_BHWO, x_BHWI = (
            grad.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1),
            x.permute(0, 2, 3, 1),
        )
        dx = torch.zeros(x_BHWI.shape, device=x.device) if needs_dx else None
        dw = torch.zeros_like(w_KKOI) if needs_dw else None
        for i, j, target, source in _taps(*x.shape[2:]):
            g = g_BHWO[:, target[0], target[1]].flatten(0, 2)
            if dx is not None:
                part = dx[:, source[0], source[1]]
                part += (g @ w_KKOI[i, j]).view(part.shape)
            if dw is not None:
                torch.mm(g.t(), x_BHWI[:, source[0], source[1]].flatten(0, 2), out=dw[i, j])
        return (
            None if dx is None else dx.to(x.dtype).permute(0, 3, 1, 2),
            dw,
            grad.sum((0, 2, 3)) if needs_db else None,
        )


def concat_channels(*parts: Tensor) -> Tensor:
    """Concatenate maps: `[B, C1, H, W]`, `[B, C2, H, W]` and so on to `[B, C1 + C2 + ..., H, W]`.

    On a CPU in channels_last, the gradients of the parts are returned as contiguous maps, not as slices:
    batch norm takes ten times as long over a slice of a map.
    """
    first = parts[0]
    if (
        first.is_cuda
        or not torch.is_grad_enabled()
        or not parts[-1].is_contiguous(memory_format=torch.channels_last)
    ):
        return torch.cat(parts, 1)
    out: Tensor = _ConcatChannels.apply(*parts)
    return out


class _ConcatChannels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.channels = [p.shape[1] for p in parts]
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(g.contiguous(memory_format=torch.channels_last) for g in grad.split(ctx.channels, 1))


@contextlib.contextmanager
def batch_statistics(net: nn.Module) -> Iterator[None]:
    """Return a context in which a network in eval mode normalises by the statistics of the batch.

    Its passes are those of train mode, except that the running statistics stay as they are.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.training, norm.momentum, norm.track_running_stats) for norm in norms]
    for norm in norms:
        norm.training, norm.momentum = True, 0.0  # not `norm.train()`, which would undo `freeze`
        if not isinstance(norm, BatchNorm2d):  # PyTorch's, in a network of the user's, count their batches
            norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, values in zip(norms, before, strict=True):
            norm.training, norm.momentum, norm.track_running_stats = values


def freeze(net: nn.Module, precision: torch.dtype | None = None) -> None:
    """Prepare a network in eval mode that will not be trained any more, so that its passes take less time.

    The constants of its batch norms are computed once. With `precision`, that of autocast, the weights of its
    convolutions are cast once. Under autocast its outputs stay the same.
    """
    for module in net.modules():
        if isinstance(module, BatchNorm2d):
            module.freeze()
        elif isinstance(module, nn.Conv2d) and precision is not None:
            module.to(precision)
