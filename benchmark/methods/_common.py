"""What several feature methods share: pairs of stage maps, matching of their sizes, FitNet's regressor, attention maps.

A paper's text leaves these open; they are as in the code that produced the tables (RepDistiller models/util.py,
distiller_zoo/AT.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from benchmark.errors import InputError
from benchmark.settings import scaled

if TYPE_CHECKING:
    from models import NetInfo, Network

Shape = tuple[int, int, int]
T = TypeVar("T")


def match_spatial(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """`[B, C, H, W]`, `[B, D, h, w]` -> both at the smaller size: the larger map is adaptive-average-pooled to it."""
    if a.shape[-2] > b.shape[-2]:
        return F.adaptive_avg_pool2d(a, (b.shape[-2], b.shape[-1])), b
    if a.shape[-2] < b.shape[-2]:
        return a, F.adaptive_avg_pool2d(b, (a.shape[-2], a.shape[-1]))
    return a, b


def pair_stages(student: Sequence[T], teacher: Sequence[T]) -> list[tuple[T, T]]:
    """Stages paired in order (maps or shapes); if one network has more of them, the rest is ignored."""
    return list(zip(student, teacher, strict=False))


class _MeanSquare(torch.autograd.Function):
    """`[B, C, H, W]` -> `[B, H, W]`, over the channels; its gradient in one pass over the maps."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.save_for_backward(maps)
        return maps.square().mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        out: Tensor = maps * (grad * (2 / maps.shape[1])).unsqueeze(1)
        return out


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None


def with_gradient(x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """The scalar `value` as a function of x whose gradient there, `[like x]`, was computed along with it."""
    out: Tensor = _WithGradient.apply(x, value, gradient)
    return out


def attention(maps: Tensor) -> Tensor:
    """`[B, C, H, W]` -> `[B, H*W]`: mean of squares over channels, flattened, each row L2-normalised (in AT and FT)."""
    energy: Tensor = _MeanSquare.apply(maps)
    return F.normalize(energy.flatten(1), dim=1)


def no_regressor_reason(student: Shape, teacher: Shape) -> str | None:
    """Why no regressor exists from one (C, H, W) to the other, or None."""
    s, t = student[1], teacher[1]
    if s == 2 * t or 2 * s == t or s >= t:
        return None
    return f"no regressor from a {s}x{student[2]} map to a {t}x{teacher[2]} map"


def build_regressor(student: Shape, teacher: Shape, *, relu: bool) -> nn.Sequential:
    """A convolution from the student's (C, H, W) to the teacher's, and batch norm; a ReLU in FitNet, none in AB.

    Student side twice the teacher's: 3x3, stride 2, padding 1; half: transposed 4x4, stride 2, padding 1; equal or
    otherwise larger: kernel 1 + (s - t), no padding. Convolutions have a bias. `ValueError` where `no_regressor_reason`
    gives a reason.
    """
    if (reason := no_regressor_reason(student, teacher)) is not None:
        raise ValueError(reason)
    (c_s, s, _), (c_t, t, _) = student, teacher
    conv: nn.Module
    if s == 2 * t:
        conv = nn.Conv2d(c_s, c_t, 3, stride=2, padding=1)
    elif 2 * s == t:
        conv = nn.ConvTranspose2d(c_s, c_t, 4, stride=2, padding=1)
    else:
        conv = nn.Conv2d(c_s, c_t, 1 + s - t)
    return nn.Sequential(conv, nn.BatchNorm2d(c_t), *([nn.ReLU()] if relu else []))


def require_networks(student: NetInfo | None, teacher: NetInfo | None) -> tuple[NetInfo, NetInfo]:
    """Both networks' sizes, for a method that cannot be built without; `ValueError` where one is missing."""
    if student is None or teacher is None:
        raise ValueError("this method needs a student and a teacher")
    return student, teacher


def check_range(
    name: str, value: float, low: float, high: float | None = None, *, above: bool = False
) -> None:
    """`InputError` unless low <= value <= high (`above`: low < value)."""
    if value < low or (above and value == low) or (high is not None and value > high):
        allowed = f"{low} to {high}" if high is not None else f"{'above' if above else 'at least'} {low}"
        raise InputError(f"{name}={value} is out of range; allowed: {allowed}")


class WarmUp:
    """A linear rise of a weight from the first epoch: `factor` is min(epoch / length, 1).

    length: `epochs` of a 240-epoch schedule, in proportion (at least 1; 0 for none). 1 before the first epoch.
    """

    def __init__(self, epochs: int, total: int, published: int = 240) -> None:
        self.length = scaled(epochs, total, published) if epochs else 1
        self.epoch = self.length

    @property
    def factor(self) -> float:
        return min(self.epoch / self.length, 1.0)


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return one-hot rows `[B, classes]` of labels int64 `[B]`.

    `F.one_hot` checks the values of the labels first, and the host would wait for the device.
    """
    return (labels[:, None] == torch.arange(classes, device=labels.device)).to(dtype)


class FrozenHead(nn.Module):
    """A copy of a network's classifier as buffers: it never trains, and it is part of the method's state."""

    weight: Tensor
    bias: Tensor

    def __init__(self, net: Network | None) -> None:
        super().__init__()
        if net is None:
            raise ValueError("this method needs the teacher's classifier")
        head = net.linear_head()
        self.register_buffer("weight", head.weight.detach().clone())
        self.register_buffer("bias", head.bias.detach().clone())

    def forward(self, embedding: Tensor) -> Tensor:
        return F.linear(embedding, self.weight, self.bias)
