"""The suite's own layers have the values of PyTorch's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import models
from models.layers import BatchNorm2d, Conv3x3, Depthwise, Pointwise, concat_channels


def test_a_batch_norm_does_what_pytorchs_does_and_counts_nothing() -> None:
    torch.manual_seed(0)
    own, theirs = BatchNorm2d(5), nn.BatchNorm2d(5)
    x = torch.randn(4, 5, 3, 3)
    for training in (True, True, False):
        own.train(training)
        theirs.train(training)
        assert torch.equal(own(x), theirs(x))
    assert own.state_dict().keys() == theirs.state_dict().keys()
    assert torch.equal(own.running_var, theirs.running_var)  # type: ignore[arg-type]
    assert own.num_batches_tracked == 0
    assert theirs.num_batches_tracked == 2


def test_the_constant_of_a_frozen_norm_is_that_of_its_passes_and_goes_when_it_trains() -> None:
    torch.manual_seed(0)
    norm = BatchNorm2d(5)
    norm(torch.randn(4, 5, 3, 3))
    norm.eval().freeze()
    x = torch.randn(4, 5, 3, 3)
    c = (1, 5, 1, 1)
    assert norm.invstd is not None
    assert norm.running_mean is not None
    by_hand = (x - norm.running_mean.view(c)) * norm.invstd.view(c) * norm.weight.view(c) + norm.bias.view(c)
    torch.testing.assert_close(norm(x), by_hand)
    assert "invstd" not in norm.state_dict()
    assert norm.train().invstd is None


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups"), [(24, 60, 1), (58, 58, 1), (60, 24, 3), (240, 60, 3)]
)
def test_a_pointwise_convolution_as_a_product_is_the_convolution(
    inputs: int, outputs: int, groups: int
) -> None:
    torch.manual_seed(0)
    theirs, own = nn.Conv2d(inputs, outputs, 1, groups=groups, bias=False), Pointwise(inputs, outputs, groups)
    own.load_state_dict(theirs.state_dict())
    x = torch.randn(4, inputs, 5, 6).contiguous(memory_format=torch.channels_last)
    xs = x.clone().requires_grad_(), x.clone().requires_grad_()
    ys = theirs(xs[0]), own.matmul(xs[1])
    assert ys[1].is_contiguous(memory_format=torch.channels_last)
    for y in ys:
        y.square().sum().backward()
    torch.testing.assert_close(ys[0], ys[1])
    torch.testing.assert_close(xs[0].grad, xs[1].grad)
    torch.testing.assert_close(theirs.weight.grad, own.weight.grad, rtol=1e-4, atol=1e-3)


def test_a_frozen_network_says_under_autocast_what_it_said_before() -> None:
    """On a CPU this holds the weights' cast alone: `batch_norm_elemt` is the GPU's."""
    torch.manual_seed(0)
    net = models.build("resnet8", 10).train()
    x = torch.randn(8, 3, 32, 32)
    net(x)
    frozen = copy.deepcopy(net.eval())
    models.freeze(frozen, torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net(x), frozen(x))
    assert frozen.linear_head().weight.dtype == torch.float32  # methods read it outside autocast


def bf16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)


def gradients(layer: nn.Module, x: torch.Tensor, autocast: bool) -> tuple[torch.Tensor, ...]:
    """Return value and gradients (input, weights) in float32, for a fixed random gradient of the value."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
        y = layer(x)
    torch.manual_seed(1)
    y.float().backward(torch.randn_like(y, dtype=torch.float32))
    assert x.grad is not None
    return y.detach().float(), x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [(2, 2), (1, 2), (3, 3), (8, 8), (7, 6)])
def test_a_depthwise_convolution_has_pytorchs_gradients(stride: int, side: tuple[int, int]) -> None:
    torch.manual_seed(0)
    theirs, own = nn.Conv2d(6, 6, 3, stride, 1, groups=6, bias=False), Depthwise(6, stride)
    own.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 6, *side).contiguous(memory_format=torch.channels_last)
    for a, b in zip(gradients(own, x, autocast=False), gradients(theirs, x, autocast=False), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(gradients(own, x, autocast=True), gradients(theirs, x, autocast=True), strict=True):
        torch.testing.assert_close(a, b, rtol=2**-8, atol=2**-6)
    with torch.no_grad(), bf16():
        assert torch.equal(own(x), theirs(x))


def test_a_depthwise_convolutions_gradients_go_round_the_slow_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[bool, bool]] = []

    def spy(*args: object) -> tuple[torch.Tensor | None, ...]:
        asked.append((args[-1][0], args[-1][1]))  # type: ignore[index]
        return real(*args)

    real = torch.ops.aten.convolution_backward
    monkeypatch.setattr(torch.ops.aten, "convolution_backward", spy)
    for stride, side in ((2, 8), (1, 2), (1, 8)):
        gradients(Depthwise(4, stride), torch.randn(2, 4, side, side), autocast=True)
    assert asked == [(False, True), (True, False), (True, True)]


@pytest.mark.parametrize("side", [(4, 4), (2, 2), (1, 3), (4, 2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("format", [torch.channels_last, torch.contiguous_format])
def test_a_convolution_by_taps_is_the_convolution(
    side: tuple[int, int], bias: bool, format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    own = Conv3x3(128, 160, bias)
    own.to(memory_format=format)  # type: ignore[call-overload]
    x = torch.randn(3, 128, *side).contiguous(memory_format=torch.channels_last)
    exact, tapped = gradients(own, x, autocast=False), gradients(own, x, autocast=True)
    theirs = nn.Conv2d(128, 160, 3, 1, 1, bias=bias)
    theirs.load_state_dict(own.state_dict())
    theirs.to(memory_format=format)  # type: ignore[call-overload]
    cast = gradients(theirs, x, autocast=True)
    for a, b, c in zip(exact, tapped, cast, strict=True):
        # At most 1.5 times as far from float32 as autocast: each tap is rounded, not only the sum.
        assert (b - a).norm() < 1.5 * (c - a).norm() + 1e-6 * a.norm()
        assert (b - a).norm() < 0.01 * a.norm()
    if format is torch.channels_last:
        with bf16():
            assert own(x).is_contiguous(memory_format=torch.channels_last)


def test_taps_are_for_small_maps_of_many_channels_in_bf16() -> None:
    torch.manual_seed(0)
    for inputs, outputs, side in ((128, 64, 4), (64, 128, 4), (128, 128, 5)):
        own, x = Conv3x3(inputs, outputs), torch.randn(2, inputs, side, side)
        with bf16():
            assert "ByTaps" not in type(own(x).grad_fn).__name__
            assert torch.equal(own(x), nn.functional.conv2d(x, own.weight, own.bias, 1, 1))


def test_joined_maps_are_those_of_cat_and_their_gradients_are_no_slices() -> None:
    torch.manual_seed(0)
    a, b = (
        torch.randn(2, c, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_() for c in (3, 5)
    )
    seen: list[torch.Tensor] = []
    parts = a * 1, b * 1
    for part in parts:
        part.register_hook(seen.append)
    y, g = concat_channels(*parts), torch.randn(2, 8, 4, 4)
    assert torch.equal(y, torch.cat([a, b], 1))
    y.backward(g)
    assert all(s.is_contiguous(memory_format=torch.channels_last) for s in seen)
    assert torch.equal(torch.cat([a.grad, b.grad], 1), g)  # type: ignore[list-item]


def test_batch_statistics_reach_the_norms_of_a_users_network_and_leave_them_as_they_are() -> None:
    """PyTorch's batch norms, unlike those of `models.layers`, count their batches."""
    torch.manual_seed(0)
    net, x = torch.nn.Sequential(torch.nn.BatchNorm2d(3)).eval(), 2 + 3 * torch.randn(4, 3, 5, 5)
    before = copy.deepcopy(net)
    with models.batch_statistics(net), torch.no_grad():
        out = net(x)
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(out, (x - mean) / (var + 1e-5).sqrt())
    assert torch.equal(net(x), before(x))
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), before.buffers(), strict=True))
    assert {k: v for k, v in vars(net[0]).items() if k[0] != "_"} == {
        k: v for k, v in vars(before[0]).items() if k[0] != "_"
    }
