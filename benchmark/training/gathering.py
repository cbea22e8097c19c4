"""One batch in several processes: what each of them computes, and what is gathered to the whole batch.

Every process has all students of the pack, and the networks' passes over its portion of the batch
(benchmark/data/portions.py). What the methods read is gathered over the processes to the whole batch, in the
order of the batch. So every process computes the same losses of the whole batch, and no method knows that the
batch was shared.

The gradients. Let f_r be the features of process r, F = (f_1, ..., f_W) the gathered ones of W processes, w
the student's weights, m those of a method, and L(F, w, m) the loss of the whole batch, in which w may also
occur directly (a method may apply the student's classifier). Then

    dL/dw = sum over r of (dL/df_r) (df_r/dw) + (the direct part),    dL/dm = (the direct part).

Every process has dL/dF, because each computes L. It can follow only f_r back to w: the backward pass of the
gathering returns W times these rows of dL/dF, and drops the others. After the backward pass, process r has
W (dL/df_r) (df_r/dw) + the direct part, and the mean over the processes is dL/dw. The mean of dL/dm, which is
whole in every process, is dL/dm. One rule, the mean of all gradients, thus fits all weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from benchmark.data.portions import Portion, rows_of
from benchmark.training.processes import Team
from models import Features


class _Gather(torch.autograd.Function):
    """The rows of all processes. See the module's docstring for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, portion: Portion, copies: int, team: Team) -> Tensor:
        ctx.portion, ctx.copies, ctx.team = portion, copies, team
        channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        rows = x.permute(0, 2, 3, 1) if channels_last else x
        if missing := copies * portion.most - len(rows):  # all processes send as many rows
            rows = torch.cat([rows, rows.new_zeros((missing, *rows.shape[1:]))])
        whole = team.gather(rows).flatten(0, 1).index_select(0, portion.order(copies, x.device))
        return whole.permute(0, 3, 1, 2) if channels_last else whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        mine = rows_of(grad, ctx.portion.positions(ctx.copies, grad.device))
        return mine * ctx.team.count, None, None, None


def gathered(x: Tensor, portion: Portion, copies: int, team: Team) -> Tensor:
    """Return the rows of all processes `[copies * B, ...]` from those of this one, `[copies * b, ...]`."""
    whole: Tensor = _Gather.apply(x, portion, copies, team)
    return whole


def gathered_features(features: Features, portion: Portion, copies: int, team: Team) -> Features:
    """Return the features of the whole batch from those of this process's rows."""
    return features.map(lambda x: gathered(x, portion, copies, team))


class GatheredViews(Mapping[str, Tensor]):
    """The images of the whole batch, by view. A view is gathered when it is first read; few methods do."""

    def __init__(self, views: Mapping[str, Tensor], portion: Portion, team: Team) -> None:
        """views: this process's rows of each view."""
        self._views, self._portion, self._team = views, portion, team
        self._gathered: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._gathered:
            view = self._views[name]
            copies = len(view) // len(self._portion.rows)
            self._gathered[name] = gathered(view, self._portion, copies, self._team)
        return self._gathered[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


def average_gradients(parameters: Iterable[Tensor], team: Team) -> None:
    """Replace the gradients of parameters by their means over the processes. All are sent at once."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    flat = torch.cat([g.reshape(-1) for g in gradients])
    team.sum_(flat)
    flat.div_(team.count)
    for gradient, values in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(values.view(gradient.shape))


def take_over_state(tensors: Iterable[Tensor], team: Team) -> None:
    """Replace tensors by those of process 0.

    At the end of an epoch: batch norms that are not synchronised have other running statistics in each
    process. All else is equal, or differs in the last bits where an operator's sums have no fixed order.
    """
    for tensor in tensors:
        values = tensor.detach().contiguous()  # a copy of weights in channels_last
        team.copy_from_leader_(values)
        tensor.data.copy_(values)  # past the counters of writes, by which methods are watched (guard.py)
