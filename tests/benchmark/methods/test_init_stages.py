"""The initialisation stages of AB, FSP and FT as the trainer runs them, compared with a plain training loop.

Checked are: which modules train and in which mode, the optimiser, its learning rate and what stays unchanged.
"""

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

QUICK = 16 / 64  # factor of the learning rates: batch size of the quick profile / published batch size


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
    # method: teacher, student, loss, trained module of the method, the student's trained parts, learning rate
    "ab": ("wrn_16_2", "wrn_16_1", ab_loss, "connectors", ("conv1", "block1", "block2", "block3"), 0.05),
    "fsp": ("resnet14", "resnet8", fsp_loss, "", ("conv1", "bn1", "layer1", "layer2", "layer3"), 0.05),
    "ft": ("resnet14", "resnet8", ft_loss, "paraphraser", (), 0.01),
}


def open_run(method: str, folder: Path) -> tuple[ActiveRun, Network, list[Batch]]:
    """A run before its initialisation stage, its teacher, and the batches of the stage's first epoch."""
    teacher_name, student_name = CASES[method][:2]
    torch.manual_seed(3)
    teacher = models.build(teacher_name, 10)
    teacher(torch.randn(64, 3, 32, 32))  # gives the batch norms statistics
    teacher.eval().requires_grad_(False)
    FP32.to_device(teacher)
    run = small_run(method, student_name, teacher_name)
    split = data.load("digits", folder).train.take(128)
    active = ActiveRun.open(run, folder, FP32, teacher, split.labels, {})
    info = data.info("digits")
    stream = Stream(
        split, mean=info.mean, std=info.std, sampler=SHUFFLE, batch_size=16, drop_last=False, seed=0
    )
    return active, teacher, list(stream.epoch("init0", 1, (data.NORMAL,)))


@pytest.mark.parametrize("method", CASES)
def test_the_stage_equals_a_plain_loop(method: str, tmp_path: Path) -> None:
    _, _, loss, module_name, parts, lr = CASES[method]
    active, teacher, batches = open_run(method, tmp_path)
    assert active.stage.name == f"init:{method}" and active.student is not None
    student = copy.deepcopy(active.student)
    extra = copy.deepcopy(
        getattr(active.objective.method(method), module_name) if module_name else nn.Module()
    )
    before = copy.deepcopy(student.state_dict())

    student.eval()
    trained = [extra, *(getattr(student, part) for part in parts)]
    for module in trained:
        module.train()
    optimizer = torch.optim.SGD(
        [p for m in trained for p in m.parameters()], lr=lr * QUICK, momentum=0.9, weight_decay=5e-4
    )
    for batch in batches:
        x = batch.views["normal"]
        optimizer.zero_grad()
        loss(extra, student.features(x), teacher.features(x)).backward()
        optimizer.step()

    active.begin_epoch()
    lockstep = Lockstep([active], teacher, FP32)
    for batch in batches:
        lockstep.step(batch)
    row = active.end_epoch()
    assert row["lr"] == pytest.approx(lr * QUICK)

    after = active.student.state_dict()
    for name, value in student.state_dict().items():
        assert torch.allclose(after[name].double(), value.double(), rtol=1e-3, atol=1e-5), name
        if name.partition(".")[0] not in parts:
            assert torch.equal(after[name], before[name]), f"{name} must not change in this stage"
    if module_name:
        for name, value in getattr(active.objective.method(method), module_name).state_dict().items():
            expected = extra.state_dict()[name]
            assert torch.allclose(value.double(), expected.double(), rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("method", CASES)
def test_the_main_stage_starts_with_a_new_optimiser(method: str, tmp_path: Path) -> None:
    """It has no momentum yet and covers all that still trains, at the protocol's learning rate."""
    active, teacher, batches = open_run(method, tmp_path)
    active.begin_epoch()
    Lockstep([active], teacher, FP32).step(batches[0])
    active.end_epoch()
    active.begin_epoch()
    assert active.stage.name == "main" and active.student is not None and active.optimizer is not None
    assert not active.optimizer.state and active.lr == pytest.approx(0.05 * QUICK)
    assert all(m.training for m in active.student.modules())
    optimised = {id(p) for g in active.optimizer.param_groups for p in g["params"]}
    trained = list(active.student.parameters())
    if method == "ft":
        trained += active.objective.method("ft").translator.parameters()  # type: ignore[operator, union-attr]
    assert optimised == {id(p) for p in trained}
