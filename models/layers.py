"""Layers with the values of PyTorch's own and less work around them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with a fixed momentum, which does not count its batches: nothing reads the count where the momentum is not None, and
    on a GPU it is one small kernel more for every norm of every step. `num_batches_tracked` stays what a checkpoint made it.

    `freeze` keeps 1 / sqrt(var + eps) in the place where it is computed at each pass of a norm in eval mode on a GPU.
    """

    invstd: Tensor | None

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("invstd", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.invstd is not None and x.is_cuda and not self.training and not (torch.is_grad_enabled() and x.requires_grad):
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


def freeze(net: nn.Module, precision: torch.dtype | None = None) -> None:
    """Does once what every pass of a network would do again that will not learn any more: the constants of its batch norms, and with
    `precision` (that of autocast) the cast of its convolutions' weights. In eval mode; its values stay what they are under autocast."""
    for module in net.modules():
        if isinstance(module, BatchNorm2d):
            module.freeze()
        elif isinstance(module, nn.Conv2d) and precision is not None:
            module.to(precision)
