"""Layers with the values of PyTorch's own and less work around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models import kernels


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with a fixed momentum, which does not count its batches: nothing reads the count where the momentum is not None, and
    on a GPU it is one small kernel more for every norm of every step. `num_batches_tracked` stays what a checkpoint made it.

    `freeze` keeps 1 / sqrt(var + eps) in the place where it is computed at each pass of a norm in eval mode on a GPU.
    """

    invstd: Tensor | None

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("invstd", None, persistent=False)

    def forward(self, x: Tensor, shortcut: Tensor | None = None, relu: bool = False) -> Tensor:
        """The norm of `[B, C, H, W]`, plus a `shortcut` of the same shape, behind a ReLU if `relu`; on a CPU bf16 in one go (models/kernels.py)."""
        if kernels.fits(x, shortcut, self):
            if self.training:
                return kernels.train(x, shortcut, self, relu)
            if not torch.is_grad_enabled():
                return kernels.evaluate(x, shortcut, self, relu)
        out = self._norm(x)
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
        """For a norm whose statistics will not change any more."""
        assert self.running_var is not None
        self.invstd = torch.rsqrt(self.running_var + self.eps)


class NormReLU(BatchNorm2d):
    """A batch norm with a ReLU behind it, and before that a sum with a shortcut where there is one."""

    def forward(self, x: Tensor, shortcut: Tensor | None = None, relu: bool = True) -> Tensor:
        return super().forward(x, shortcut, relu)


def normed(layers: nn.Sequential, x: Tensor, shortcut: Tensor | None = None, relu: bool = False) -> Tensor:
    """The layers in turn, of which the last is a `BatchNorm2d`, with its sum and its ReLU."""
    *before, norm = layers
    for layer in before:
        x = layer(x)
    out: Tensor = norm(x, shortcut, relu)
    return out


class Pointwise(nn.Conv2d):
    """A 1x1 convolution without bias, of maps whose channels are no multiples of 8 or come in groups; on a GPU as a (batched) matrix product.

    cuDNN's kernels want whole groups of 8 channels: it cuts such maps into groups, pads and transposes them, forward and backward
    (docs/speed.md). On a CPU the convolution is as quick.
    """

    def __init__(self, inputs: int, outputs: int, groups: int = 1) -> None:
        super().__init__(inputs, outputs, 1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, outputs, H, W]`."""
        aligned = self.groups == 1 and self.in_channels % 8 == self.out_channels % 8 == 0
        return super().forward(x) if aligned or not x.is_cuda else self.product(x)

    def product(self, x: Tensor) -> Tensor:
        """The same value in channels_last, without a copy of an input in that format."""
        batch, _, height, width = x.shape
        x_PGI = x.permute(0, 2, 3, 1).reshape(batch * height * width, self.groups, -1)
        w_GOI = self.weight.view(self.groups, self.out_channels // self.groups, -1)
        if self.groups == 1:
            y_PGO = F.linear(x_PGI[:, 0], w_GOI[0])
        else:
            y_PGO = torch.bmm(x_PGI.transpose(0, 1), w_GOI.transpose(1, 2)).transpose(0, 1)
        return y_PGO.reshape(batch, height, width, self.out_channels).permute(0, 3, 1, 2)


class Depthwise(nn.Conv2d):
    """A depthwise 3x3 convolution with padding 1, without bias. In bf16 on a CPU its gradients go round two of oneDNN's reference kernels, which
    take ten to a hundred times as long as its others (docs/speed.md): those of a strided one's input and those of a map smaller than the window."""

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
        (x, weight), (of_x, of_weight, _) = ctx.saved_tensors, ctx.needs_input_grad
        dx = dw = None
        if (
            of_x and ctx.stride > 1
        ):  # the transposed convolution as one of stride 1 over the gradient with zeros between: the same sums
            spread = torch.zeros_like(x)
            spread[:, :, :: ctx.stride, :: ctx.stride] = grad
            dx = F.conv2d(spread, weight.flip(2, 3), None, 1, 1, 1, len(weight))
            of_x = False
        if of_weight and ctx.stride == 1 and max(x.shape[2:]) < 3:
            dw = _window_products(x.float(), grad.float()).to(weight.dtype)
            of_weight = False
        if of_x or of_weight:
            step, mask = [ctx.stride] * 2, [of_x, of_weight, False]
            found = torch.ops.aten.convolution_backward(
                grad, x, weight, None, step, [1, 1], [1, 1], False, [0, 0], len(weight), mask
            )
            dx, dw = (found[0] if of_x else dx), (found[1] if of_weight else dw)
        return dx, dw, None


def _window_products(x_BCHW: Tensor, grad_BCHW: Tensor) -> Tensor:
    """The gradient of a depthwise convolution's weights, `[C, 1, 3, 3]`, tap by tap."""
    found = x_BCHW.new_zeros(x_BCHW.shape[1], 1, 3, 3)
    for i, j, to, of in _taps(*x_BCHW.shape[2:]):
        found[:, 0, i, j] = (x_BCHW[:, :, of[0], of[1]] * grad_BCHW[:, :, to[0], to[1]]).sum((0, 2, 3))
    return found


LARGEST_TAPPED, FEWEST_TAPPED = 4, 128
"""Side of a map and channels in and out, from which on `Conv3x3` is quicker by taps (docs/speed.md)."""


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution of stride 1 with padding 1. In bf16 on a CPU, of small maps with many channels, it is a matrix product for each of its nine
    taps, over those positions alone that the tap does not put outside the map: at 4x4 a third of the convolution is products with padding."""

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
        if w_KKOI.stride(3) != 1:  # weights that are not in channels_last
            w_KKOI = w_KKOI.contiguous()
        bias = None if self.bias is None else self.bias.to(dtype)
        out: Tensor = _ByTaps.apply(x.to(dtype, memory_format=torch.channels_last), w_KKOI, bias)
        return out


Rows = tuple[slice, slice]


def _taps(height: int, width: int) -> list[tuple[int, int, Rows, Rows]]:
    """(row and column of the tap, positions of the output, positions of the input that it reads for them)."""

    def reach(k: int, size: int) -> tuple[slice, slice]:
        low, high = max(0, 1 - k), min(size, size + 1 - k)
        return slice(low, high), slice(low + k - 1, high + k - 1)

    found = []
    for i in range(3):
        for j in range(3):
            (y_out, y_in), (x_out, x_in) = reach(i, height), reach(j, width)
            if y_out.start < y_out.stop and x_out.start < x_out.stop:
                found.append((i, j, (y_out, x_out), (y_in, x_in)))
    return found


class _ByTaps(torch.autograd.Function):
    """x in channels_last, weights `[3, 3, O, I]`. The taps' products are in x's precision, their sums in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_KKOI: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w_KKOI)
        x_BHWI = x.permute(0, 2, 3, 1)
        batch, height, width, _ = x_BHWI.shape
        out = torch.zeros(batch, height, width, w_KKOI.shape[2], device=x.device)
        for i, j, to, of in _taps(height, width):
            part = out[:, to[0], to[1]]
            part += (x_BHWI[:, of[0], of[1]].flatten(0, 2) @ w_KKOI[i, j].t()).view(part.shape)
        if bias is not None:
            out += bias
        return out.to(x.dtype).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, w_KKOI = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        g_BHWO, x_BHWI = (
            grad.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1),
            x.permute(0, 2, 3, 1),
        )
        dx = torch.zeros(x_BHWI.shape, device=x.device) if of_x else None
        dw = torch.zeros_like(w_KKOI) if of_weight else None
        for i, j, to, of in _taps(*x.shape[2:]):
            g = g_BHWO[:, to[0], to[1]].flatten(0, 2)
            if dx is not None:
                part = dx[:, of[0], of[1]]
                part += (g @ w_KKOI[i, j]).view(part.shape)
            if dw is not None:
                torch.mm(g.t(), x_BHWI[:, of[0], of[1]].flatten(0, 2), out=dw[i, j])
        return (
            None if dx is None else dx.to(x.dtype).permute(0, 3, 1, 2),
            dw,
            grad.sum((0, 2, 3)) if of_bias else None,
        )


def join(*parts: Tensor) -> Tensor:
    """Maps set beside each other, `[B, C1, H, W]`, `[B, C2, H, W]` ... to `[B, C1 + C2, H, W]`. On a CPU in channels_last the parts' gradients are
    handed back as maps of their own: batch norm takes ten times as long over a slice of a map."""
    first = parts[0]
    if (
        first.is_cuda
        or not torch.is_grad_enabled()
        or not parts[-1].is_contiguous(memory_format=torch.channels_last)
    ):
        return torch.cat(parts, 1)
    out: Tensor = _Join.apply(*parts)
    return out


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.channels = [p.shape[1] for p in parts]
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(g.contiguous(memory_format=torch.channels_last) for g in grad.split(ctx.channels, 1))


def freeze(net: nn.Module, precision: torch.dtype | None = None) -> None:
    """Does once what every pass of a network would do again that will not learn any more: the constants of its batch norms, and with
    `precision` (that of autocast) the cast of its convolutions' weights. In eval mode; its values stay what they are under autocast."""
    for module in net.modules():
        if isinstance(module, BatchNorm2d):
            module.freeze()
        elif isinstance(module, nn.Conv2d) and precision is not None:
            module.to(precision)
