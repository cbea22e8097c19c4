"""Run a network under bf16 autocast with all its weights cast at once.

Autocast casts each weight when it is used, and its gradient on the way back. These two kernels per layer
take a tenth of a small network's step on a GPU. Here, one kernel casts all weights before the pass and one
all their gradients after it. The values are the same as autocast's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

T = TypeVar("T")

CAST_LAYERS = (nn.Conv2d, nn.Linear)
"""Layers whose parameters autocast casts to bf16."""


class _Cast(torch.autograd.Function):
    """Casts tensors to bf16, and their gradients back."""

    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.dtypes = [w.dtype for w in weights]
        # An unused weight must get no gradient: with a gradient of zero, weight decay would change it.
        ctx.set_materialize_grads(False)
        return tuple(_copies(list(weights), torch.bfloat16))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        present = [g for g in grads if g is not None]
        cast = iter(_copies(present, ctx.dtypes[0]))
        return tuple(None if g is None else next(cast) for g in grads)


def _copies(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    copies = [torch.empty_like(t, dtype=dtype) for t in tensors]
    if copies:
        torch._foreach_copy_(copies, tensors)
    return copies


class _Call(nn.Module):
    """A module whose forward pass is any function, because `functional_call` calls nothing but `forward`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, call: Callable[[], Any]) -> Any:
        return call()


def with_cast_weights(net: nn.Module, call: Callable[[], T]) -> T:
    """Return `call()`, during which the trainable weights of the network's `CAST_LAYERS` are in bf16.

    Meant to be used under autocast, which then has nothing left to cast but activations.
    """
    weights: dict[str, Tensor] = {}
    for name, module in net.named_modules():
        if isinstance(module, CAST_LAYERS):
            for full_name, p in module.named_parameters(prefix=f"net.{name}", recurse=False):
                if p.requires_grad:
                    weights[full_name] = p
    cast: tuple[Tensor, ...] = _Cast.apply(*weights.values()) if weights else ()
    result: T = functional_call(_Call(net), dict(zip(weights, cast, strict=True)), (call,))
    return result
