"""Parts that several methods share: pairs of stage maps, FitNet's regressor, attention maps, checks.

The papers leave the details of the feature methods open. Here they follow the code that produced the
published tables (RepDistiller models/util.py, distiller_zoo/AT.py).
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
"""(channels, height, width) of a map."""
T = TypeVar("T")


def match_spatial(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps in the smaller of their two sizes; the larger map is adaptive-average-pooled.

    a: `[B, C, H, W]`. b: `[B, D, h, w]`. Their numbers of channels may differ.
    """
    if a.shape[-2] > b.shape[-2]:
        return F.adaptive_avg_pool2d(a, (b.shape[-2], b.shape[-1])), b
    if a.shape[-2] < b.shape[-2]:
        return a, F.adaptive_avg_pool2d(b, (a.shape[-2], a.shape[-1]))
    return a, b


def pair_stages(student: Sequence[T], teacher: Sequence[T]) -> list[tuple[T, T]]:
    """Return the stages (maps or shapes) paired in order.

    The last stages of the network that has more of them are ignored.
    """
    return list(zip(student, teacher, strict=False))


class _MeanSquare(torch.autograd.Function):
    """Mean of squares over the channels, `[B, C, H, W]` to `[B, H, W]`.

    Its backward pass reads the maps once.
    """

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
    """Return the scalar `value` as a function of x whose gradient is known.

    gradient: the derivative of `value` with respect to x, in the shape of x. Autograd uses it instead of
        differentiating `value`.
    """
    out: Tensor = _WithGradient.apply(x, value, gradient)
    return out


def attention(maps: Tensor) -> Tensor:
    """Return attention maps `[B, H*W]` of maps `[B, C, H, W]`, as AT and FT use them.

    They are the mean of squares over the channels, flattened, with each row L2-normalised.
    """
    energy: Tensor = _MeanSquare.apply(maps)
    return F.normalize(energy.flatten(1), dim=1)


def no_regressor_reason(student: Shape, teacher: Shape) -> str | None:
    """Return why `build_regressor` has no regressor between these shapes, or None."""
    s, t = student[1], teacher[1]
    if s == 2 * t or 2 * s == t or s >= t:
        return None
    return f"no regressor from a {s}x{student[2]} map to a {t}x{teacher[2]} map"


def build_regressor(student: Shape, teacher: Shape, *, relu: bool) -> nn.Sequential:
    """Return convolution (with bias) and batch norm, from maps of the student's shape to the teacher's.

    relu: whether a ReLU follows; FitNet has one, AB has none.

    The convolution depends on the heights s of the student's map and t of the teacher's. s = 2t: 3x3,
    stride 2, padding 1. 2s = t: transposed 4x4, stride 2, padding 1. Otherwise, with s >= t: kernel size
    1 + s - t, no padding. Raises `ValueError` if `no_regressor_reason` returns a reason.
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
    """Return the sizes of both networks. Raises `ValueError` if the run lacks one of them."""
    if student is None or teacher is None:
        raise ValueError("this method needs a student and a teacher")
    return student, teacher


def check_range(
    name: str, value: float, low: float, high: float | None = None, *, above: bool = False
) -> None:
    """Raise `InputError` unless low <= value <= high.

    name: the setting, as `METHOD.FIELD`.
    high: None for no upper bound.
    above: whether the value must exceed `low`.
    """
    if value < low or (above and value == low) or (high is not None and value > high):
        allowed = f"{low} to {high}" if high is not None else f"{'above' if above else 'at least'} {low}"
        raise InputError(f"{name}={value} is out of range; allowed: {allowed}")


class WarmUp:
    """Linear warm-up of a weight: `factor` is min(epoch / length, 1). `start_epoch` has to set `epoch`."""

    def __init__(self, epochs: int, total: int, published: int = 240) -> None:
        """Scale the length of the warm-up to the schedule of this run.

        epochs: length of the warm-up in the published schedule, 0 for none.
        total: epochs of this run.
        published: epochs of the published schedule.
        """
        self.length = scaled(epochs, total, published) if epochs else 1
        self.epoch = self.length

    @property
    def factor(self) -> float:
        """The factor of the weight in this epoch; 1 before the first epoch."""
        return min(self.epoch / self.length, 1.0)


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return one-hot rows `[B, classes]` for labels int64 `[B]`.

    `F.one_hot` is not used because it checks the values of the labels, so the host would wait for the device.
    """
    return (labels[:, None] == torch.arange(classes, device=labels.device)).to(dtype)


class FrozenHead(nn.Module):
    """A copy of a network's classifier in buffers: part of the method's state, but not trained."""

    weight: Tensor
    bias: Tensor

    def __init__(self, net: Network | None) -> None:
        super().__init__()
        if net is None:
            raise ValueError("this method needs a teacher, whose classifier it copies")
        head = net.linear_head()
        self.register_buffer("weight", head.weight.detach().clone())
        self.register_buffer("bias", head.bias.detach().clone())

    def forward(self, embedding: Tensor) -> Tensor:
        """Return logits `[B, num_classes]` of embeddings `[B, D]`."""
        return F.linear(embedding, self.weight, self.bias)
