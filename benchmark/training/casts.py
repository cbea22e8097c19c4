"""A network's pass under bf16 autocast with its weights cast all at once.

Autocast casts each weight when it is used, and its gradient when it comes back: two kernels a layer, which is a tenth of a small network's step
on a GPU. Here one kernel casts all weights before the pass and one all their gradients after it. The values are autocast's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

T = TypeVar("T")

CAST = (nn.Conv2d, nn.Linear)
"""Layers whose parameters autocast casts to bf16."""


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.dtypes = [w.dtype for w in weights]
        ctx.set_materialize_grads(
            False
        )  # what nobody read has no gradient: with zeros its weights would decay
        return tuple(_copies(list(weights), torch.bfloat16))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        there = [g for g in grads if g is not None]
        cast = iter(_copies(there, ctx.dtypes[0]))
        return tuple(None if g is None else next(cast) for g in grads)


def _copies(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    found = [torch.empty_like(t, dtype=dtype) for t in tensors]
    if found:
        torch._foreach_copy_(found, tensors)
    return found


class _Call(nn.Module):
    """So that `functional_call` can call something else than `forward`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, call: Callable[[], Any]) -> Any:
        return call()


def with_cast_weights(net: nn.Module, call: Callable[[], T]) -> T:
    """`call()`, in which the network's convolutions and linear layers that train have their parameters in bf16. Meant under autocast."""
    found: dict[str, Tensor] = {}
    for name, module in net.named_modules():
        if isinstance(module, CAST):
            for own, p in module.named_parameters(prefix=f"net.{name}", recurse=False):
                if p.requires_grad:
                    found[own] = p
    cast: tuple[Tensor, ...] = _Cast.apply(*found.values()) if found else ()
    result: T = functional_call(_Call(net), dict(zip(found, cast, strict=True)), (call,))
    return result
