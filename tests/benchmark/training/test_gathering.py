"""One batch in two processes: norms, gathered features and their gradients equal those of the whole batch.

Two threads stand for the processes here, in float64, so that a wrong formula cannot hide behind rounding.
tests/benchmark/training/test_processes.py trains in two processes.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from benchmark.data.portions import Portion, portion
from benchmark.training.gathering import GatheredViews, average_gradients, gathered
from benchmark.training.processes import Team
from models import synced_norms
from models.layers import NormReLU


class ThreadTeam(Team):
    """One of several threads that exchange tensors as processes do."""

    def __init__(self, number: int, boxes: list[Any], barrier: threading.Barrier) -> None:
        self.number, self.count = number, len(boxes)
        self._boxes, self._barrier = boxes, barrier

    def gather(self, x: Tensor) -> Tensor:
        self._boxes[self.number] = x.detach().clone()
        self._barrier.wait(60)
        out = torch.stack(self._boxes)
        self._barrier.wait(60)
        return out

    def sum_(self, x: Tensor) -> None:
        x.copy_(self.gather(x).sum(0))


def in_threads(count: int, function: Callable[[ThreadTeam], Any]) -> list[Any]:
    """Return the results of `function` in `count` threads that form a team."""
    boxes: list[Any] = [None] * count
    barrier = threading.Barrier(count)

    def call(number: int) -> Any:
        try:
            return function(ThreadTeam(number, boxes, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


def of(total: int, first: int, team: Team) -> Portion:
    found = portion(total, first, team.number, team.count)
    assert found is not None
    return found


@pytest.mark.parametrize(("total", "first"), [(13, 13), (13, 6), (8, 8)])
def test_portions_hold_every_row_once_and_each_has_its_share_of_both_parts(total: int, first: int) -> None:
    for count in (1, 2, 3):
        portions = [portion(total, first, number, count) for number in range(count)]
        if count == 1 or min(first, total - first or first) < 2 * count:
            assert portions == [None] * count
            continue
        rows = [p.rows.tolist() for p in portions if p is not None]
        assert sorted(itertools.chain(*rows)) == list(range(total))
        assert max(map(len, rows)) - min(map(len, rows)) <= 2
        for p in portions:
            assert p is not None and p.first == sum(row < first for row in p.rows.tolist())


@pytest.mark.parametrize(("total", "first", "copies"), [(13, 13, 1), (13, 6, 3)])
def test_the_gradient_of_gathered_rows_is_that_of_one_process(total: int, first: int, copies: int) -> None:
    """The loss couples all rows, and reads the weight too, like a method that applies the classifier."""
    torch.manual_seed(0)
    x = torch.randn(copies * total, 4, dtype=torch.float64)
    start = torch.randn(3, 4, dtype=torch.float64)

    def loss(features: Tensor, weight: Tensor) -> Tensor:
        similar = features @ features.T
        return (similar.softmax(1) * torch.arange(len(x))).sum() + (x @ weight.T).tanh().sum()

    whole = start.clone().requires_grad_()
    loss(x @ whole.T, whole).backward()

    def one(team: ThreadTeam) -> tuple[Tensor, Tensor]:
        weight, mine = start.clone().requires_grad_(), of(total, first, team)
        value = loss(gathered(mine.of(x, copies) @ weight.T, mine, copies, team), weight)
        value.backward()
        average_gradients([weight], team)
        assert weight.grad is not None
        return value.detach(), weight.grad

    for value, grad in in_threads(2, one):
        torch.testing.assert_close(value, loss(x @ start.T, start))
        torch.testing.assert_close(grad, whole.grad)


def test_images_are_gathered_in_the_order_of_the_batch() -> None:
    x = torch.arange(26.0).view(26, 1, 1, 1).expand(26, 3, 2, 2).contiguous(memory_format=torch.channels_last)

    def one(team: ThreadTeam) -> Tensor:
        mine = of(13, 5, team)
        return GatheredViews({"second": mine.of(x, 2)}, mine, team)["second"]

    for view in in_threads(2, one):
        assert torch.equal(view, x) and view.is_contiguous(memory_format=torch.channels_last)


def test_a_synced_norm_is_the_norm_of_the_whole_batch_forward_and_backward() -> None:
    torch.manual_seed(0)
    x, shortcut, dy = torch.randn(3, 7, 5, 4, 4, dtype=torch.float64)
    layer = NormReLU(5).double()
    with torch.no_grad():
        layer.weight.uniform_(0.5, 1.5)
        layer.bias.normal_()
    start = {k: v.clone() for k, v in layer.state_dict().items()}
    a, b = x.clone().requires_grad_(), shortcut.clone().requires_grad_()
    whole = layer(a, b)
    whole.backward(dy)

    def one(team: ThreadTeam) -> tuple[Any, ...]:
        mine, mine_layer = of(7, 7, team).rows, NormReLU(5).double()
        mine_layer.load_state_dict(start)
        a_r, b_r = x[mine].requires_grad_(), shortcut[mine].requires_grad_()
        out = synced_norms.norm(a_r, mine_layer, team)
        out = F.relu(out + b_r)
        out.backward(dy[mine])
        sums = torch.stack([mine_layer.weight.grad, mine_layer.bias.grad])  # type: ignore[list-item]
        team.sum_(sums)
        return mine, out.detach(), a_r.grad, b_r.grad, sums, mine_layer.state_dict()

    for mine, out, da, db, sums, state in in_threads(2, one):
        torch.testing.assert_close(out, whole[mine].detach())
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(da, a.grad[mine])
        torch.testing.assert_close(db, b.grad[mine])
        torch.testing.assert_close(sums, torch.stack([layer.weight.grad, layer.bias.grad]))  # type: ignore[list-item]
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(state[name], layer.state_dict()[name])


@pytest.mark.parametrize("synced", [True, False])
def test_a_network_has_the_gradients_of_the_whole_batch_only_with_synced_norms(synced: bool) -> None:
    """Without them they are those of a loss over the outputs of two passes, computed here by hand."""
    torch.manual_seed(0)
    x, labels = torch.randn(6, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    net = models.build("resnet8", 4).double().train()
    start = {k: v.clone() for k, v in net.state_dict().items()}

    def loss(z: Tensor) -> Tensor:
        return F.cross_entropy(z, labels) + (F.normalize(z) @ F.normalize(z).T).square().mean()

    loss(net(x) if synced else torch.cat([net(x[:3]), net(x[3:])])).backward()
    expected = {k: p.grad for k, p in net.named_parameters()}
    net.zero_grad()
    loss(net(x)).backward()
    apart = max((p.grad - expected[k]).abs().max() for k, p in net.named_parameters())  # type: ignore[operator]
    assert (apart < 1e-9) == synced, "the two kinds of norm differ"
    nets = [models.build("resnet8", 4).double().train() for _ in range(2)]

    def one(team: ThreadTeam) -> nn.Module:
        mine, own = of(6, 6, team), nets[team.number]
        own.load_state_dict(start)
        z = gathered(own(x[mine.rows]), mine, 1, team)
        loss(z).backward()
        average_gradients(own.parameters(), team)
        return own

    if synced:  # the two threads share one context, so each layer asks for the team of its thread
        teams = threading.local()

        class OfThread:
            def gather(self, t: Tensor) -> Tensor:
                return teams.team.gather(t)

            def sum_(self, t: Tensor) -> None:
                teams.team.sum_(t)

        def with_team(team: ThreadTeam) -> nn.Module:
            teams.team = team
            return one(team)

        with synced_norms.using(OfThread()):
            results = in_threads(2, with_team)
    else:
        results = in_threads(2, one)
    for result in results:
        for name, p in result.named_parameters():
            torch.testing.assert_close(p.grad, expected[name], rtol=1e-8, atol=1e-10)
