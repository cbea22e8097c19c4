"""Casting all weights at once gives the bits of autocast, forward and backward."""

from __future__ import annotations

import copy

import pytest
import torch

import models
from benchmark.bench.ours import open_active_runs, small_run
from benchmark.data import load
from benchmark.data.stream import Stream
from benchmark.training import casts
from benchmark.training.execution import Execution
from benchmark.training.lockstep import Lockstep
from benchmark.training.stepper import EagerStepper


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "ShuffleV2"])
def test_values_and_gradients_are_those_of_autocast(name: str) -> None:
    torch.manual_seed(0)
    nets = [models.build(name, 10).train()]
    nets.append(copy.deepcopy(nets[0]))
    x = torch.randn(4, 3, 32, 32)
    outs = []
    for net, at_once in zip(nets, (False, True), strict=True):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            out = (
                casts.with_cast_weights(net, lambda net=net: net.features(x)) if at_once else net.features(x)
            )
        (out.logits.float().square().mean() + out.stages[0].float().mean()).backward()
        outs.append(out.logits)
    assert torch.equal(*outs)
    for p, q in zip(*(net.parameters() for net in nets), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert q.grad.dtype == torch.float32
        assert torch.equal(p.grad, q.grad)


def test_frozen_layers_and_unused_outputs_get_no_gradient() -> None:
    net = models.build("resnet8", 10)
    net.requires_grad_(False).conv1.requires_grad_(True)  # type: ignore[union-attr]
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        stem = casts.with_cast_weights(net, lambda: net.features(torch.randn(2, 3, 32, 32)).stem)
    stem.float().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is not None] == ["conv1.weight"]


@pytest.mark.parametrize("at_once", [False, True])
def test_weights_of_unused_outputs_have_no_gradient(at_once: bool) -> None:
    net = models.build("resnet8", 10)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        x = torch.randn(2, 3, 32, 32)
        out = casts.with_cast_weights(net, lambda: net.features(x)) if at_once else net.features(x)
    out.stages[0].float().sum().backward()
    with_gradient = {n for n, p in net.named_parameters() if p.grad is not None}
    assert "conv1.weight" in with_gradient and not any(n.startswith("fc") for n in with_gradient)


@pytest.mark.parametrize("method", ["kd", "vid", "simkd"])
def test_the_steps_of_a_run_are_the_same_as_under_autocast(
    method: str, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    run, execution = small_run(method), Execution("cpu", "bf16", threads=1)
    split = load(run.dataset).train.take(128)
    weights = []
    for at_once in (False, True):
        monkeypatch.setattr(Execution, "casts_at_once", property(lambda self, on=at_once: on))
        with execution.applied():
            teacher, (active,) = open_active_runs([run], split, execution, tmp_path / str(at_once))
            mean, std = (tuple(run.settings["normalise"][k]) for k in ("mean", "std"))
            stream = Stream(
                split,
                mean=mean,
                std=std,
                sampler=run.spec.sampler,
                batch_size=64,
                drop_last=True,
                seed=run.seed,
            )
            active.begin_epoch()
            for _ in EagerStepper().steps(Lockstep([active], teacher, execution), stream, "main", 1):
                pass
        assert active.student is not None
        weights.append([p.detach().clone() for p in active.student.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
