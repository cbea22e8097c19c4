"""A method with separate passes: each view has batch norms of its own statistics."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from training_kit import FP32, small_run

import models
from benchmark import data
from benchmark.data.stream import Stream
from benchmark.training.active_run import ActiveRun


def test_each_view_is_a_pass_of_its_own(tmp_path: Path) -> None:
    run = small_run("mlld")
    split = data.load("digits").train.take(64)
    teacher = models.build("resnet14", 10).eval()
    active = ActiveRun.open(run, tmp_path, FP32, teacher, split.labels, {})
    needs = active.stage.needs
    stream = Stream(
        split,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        sampler=run.spec.sampler,
        batch_size=16,
        drop_last=False,
        seed=0,
    )
    batch = next(stream.epoch("main", 1, needs.views))
    student = active.student
    assert student is not None and [v.name for v in needs.views] == ["normal", "strong"]
    student.train()
    by_hand = copy.deepcopy(student)
    found = active.student_features(batch, needs)
    for view in ("normal", "strong"):
        torch.testing.assert_close(found[view].logits, by_hand(batch.views[view]), rtol=0, atol=0)
    for (name, ours), theirs in zip(student.named_buffers(), by_hand.buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    together = by_hand(torch.cat([batch.views["normal"], batch.views["strong"]]))
    assert not torch.allclose(together[:16], found["normal"].logits)
