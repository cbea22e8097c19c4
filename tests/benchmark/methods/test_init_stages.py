"""The initialisation stages of AB, FSP and FT as the trainer runs them, beside a plain loop of their recipe: what trains and in which mode,
by which optimiser at which rate, and what is left untouched."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training_kit import FP32, small_run

import models
from benchmark import data
from benchmark.data.samplers import SHUFFLE
from benchmark.data.stream import Batch, Stream
from benchmark.training.active_run import ActiveRun
from benchmark.training.lockstep import Lockstep
from models import Features, Network

QUICK = 16 / 64  # of the published learning rates, in quick's batches


def ab_loss(connectors: nn.Module, s: Features, t: Features) -> Tensor:
    total = torch.zeros(())
    for i, connector in enumerate(connectors.children()):
        a, b = connector(s.preacts[i]), t.preacts[i]
        wrong = torch.where(b > 0, (1 - a).clamp(min=0), (1 + a).clamp(min=0))
        total = total + 2.0 ** (i + 1 - len(s.preacts)) * wrong.square().sum() / len(a)
    return 3 * total / 1000


def fsp_loss(_: nn.Module, s: Features, t: Features) -> Tensor:
    def gram(a: Tensor, b: Tensor) -> Tensor:
        a = F.adaptive_avg_pool2d(a, b.shape[-1])
        return torch.einsum("nchw,ndhw->ncd", a, b) / b.shape[-1] ** 2

    maps_s, maps_t = (s.stem, *s.stages), (t.stem, *t.stages)
    return sum(
        ((gram(*maps_s[i : i + 2]) - gram(*maps_t[i : i + 2])) ** 2).mean() for i in range(len(s.stages))
    )  # type: ignore[return-value]


def ft_loss(paraphraser: nn.Module, _: Features, t: Features) -> Tensor:
    encoder, decoder = paraphraser.children()
    return ((decoder(encoder(t.stages[-1])) - t.stages[-1]) ** 2).mean()


CASES = {
    # method: teacher, student, loss, module of the method that trains, the student's parts that train, learning rate
    "ab": ("wrn_16_2", "wrn_16_1", ab_loss, "connectors", ("conv1", "block1", "block2", "block3"), 0.05),
    "fsp": ("resnet14", "resnet8", fsp_loss, "", ("conv1", "bn1", "layer1", "layer2", "layer3"), 0.05),
    "ft": ("resnet14", "resnet8", ft_loss, "paraphraser", (), 0.01),
}


def opened(method: str, folder: Path) -> tuple[ActiveRun, Network, list[Batch]]:
    teacher_name, student_name = CASES[method][:2]
    torch.manual_seed(3)
    teacher = models.build(teacher_name, 10)
    teacher(torch.randn(64, 3, 32, 32))  # batch norms that have seen something
    teacher.eval().requires_grad_(False)
    FP32.place(teacher)
    run = small_run(method, student_name, teacher_name)
    split = data.load("digits", folder).train.take(128)
    item = ActiveRun.open(run, folder, FP32, teacher, split.labels, {})
    info = data.info("digits")
    stream = Stream(split, info.mean, info.std, SHUFFLE, 16, False, 0)
    return item, teacher, list(stream.epoch("init0", 1, (data.NORMAL,)))


@pytest.mark.parametrize("method", CASES)
def test_it_is_the_plain_loop(method: str, tmp_path: Path) -> None:
    _, _, loss, own, parts, lr = CASES[method]
    item, teacher, batches = opened(method, tmp_path)
    assert item.stage.name == f"init:{method}" and item.student is not None
    plain, extra = (
        copy.deepcopy(item.student),
        copy.deepcopy(getattr(item.objective.method(method), own) if own else nn.Module()),
    )
    before = copy.deepcopy(plain.state_dict())

    plain.eval()
    trained = [extra, *(getattr(plain, part) for part in parts)]
    for module in trained:
        module.train()
    optimizer = torch.optim.SGD(
        [p for m in trained for p in m.parameters()], lr=lr * QUICK, momentum=0.9, weight_decay=5e-4
    )
    for batch in batches:
        x = batch.views["normal"]
        optimizer.zero_grad()
        loss(extra, plain.features(x), teacher.features(x)).backward()
        optimizer.step()

    item.begin_epoch()
    step = Lockstep([item], teacher, FP32)
    for batch in batches:
        step.step(batch)
    row = item.end_epoch()
    assert row["lr"] == pytest.approx(lr * QUICK)

    after = item.student.state_dict()
    for name, value in plain.state_dict().items():
        assert torch.allclose(after[name].double(), value.double(), rtol=1e-3, atol=1e-5), name
        if name.partition(".")[0] not in parts:
            assert torch.equal(after[name], before[name]), f"{name} is not of the stage"
    if own:
        for name, value in getattr(item.objective.method(method), own).state_dict().items():
            assert torch.allclose(value.double(), extra.state_dict()[name].double(), rtol=1e-3, atol=1e-5), (
                name
            )


@pytest.mark.parametrize("method", CASES)
def test_the_main_stage_starts_afresh(method: str, tmp_path: Path) -> None:
    """A new optimiser without momentum, over the whole student and what the method still trains, at the protocol's rate."""
    item, teacher, batches = opened(method, tmp_path)
    item.begin_epoch()
    Lockstep([item], teacher, FP32).step(batches[0])
    item.end_epoch()
    item.begin_epoch()
    assert item.stage.name == "main" and item.student is not None and item.optimizer is not None
    assert not item.optimizer.state and item.lr == pytest.approx(0.05 * QUICK)
    assert all(m.training for m in item.student.modules())
    found = {id(p) for g in item.optimizer.param_groups for p in g["params"]}
    translator = item.objective.method("ft").translator.parameters() if method == "ft" else ()  # type: ignore[operator, union-attr]
    assert found == {id(p) for p in (*item.student.parameters(), *translator)}
