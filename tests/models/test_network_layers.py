"""The suite's own layers have the values of PyTorch's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import models
from models.layers import BatchNorm2d, Pointwise


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


@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(24, 60, 1), (58, 58, 1), (60, 24, 3), (240, 60, 3)])
def test_a_pointwise_convolution_as_a_product_is_the_convolution(inputs: int, outputs: int, groups: int) -> None:
    torch.manual_seed(0)
    theirs, own = nn.Conv2d(inputs, outputs, 1, groups=groups, bias=False), Pointwise(inputs, outputs, groups)
    own.load_state_dict(theirs.state_dict())
    x = torch.randn(4, inputs, 5, 6).contiguous(memory_format=torch.channels_last)
    xs = x.clone().requires_grad_(), x.clone().requires_grad_()
    ys = theirs(xs[0]), own.product(xs[1])
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
