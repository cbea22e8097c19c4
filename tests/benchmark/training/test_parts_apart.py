"""The two parts of a batch that DLB and CS-KD run one after the other."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from training_kit import FP32, small_run

import models
from benchmark.bench.ours import open_active_runs, open_stream, random_split
from models.features import PARTS, joined


@pytest.mark.parametrize(
    ("method", "apart"), [("dlb", True), ("cskd", True), ("dlb+ddgsd", False), ("kd", False)]
)
def test_each_part_has_its_statistics(method: str, apart: bool, tmp_path: Path) -> None:
    run, split = small_run(method), random_split(40, 10, seed=0)
    _, (active,) = open_active_runs([run], split, FP32, tmp_path)
    active.begin_epoch()
    needs = active.stage.needs
    batch = list(open_stream(run, split).epoch("main", 1, needs.views))[1]
    images = [batch.views[view.name] for view in needs.views]
    assert active.student is not None
    twin = copy.deepcopy(active.student)
    first = batch.first if apart else sum(map(len, images))
    x = torch.cat(images)
    expected = torch.cat([twin(rows) for rows in (x[:first], x[first:]) if len(rows)])
    by_view = active.student_features(batch, needs)
    logits = torch.cat([by_view[view.name].logits for view in needs.views])
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(active.student.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    if apart:
        assert 0 < batch.first < len(batch.labels)
        together = copy.deepcopy(twin)(x)
        assert not torch.allclose(together, expected, rtol=1e-2), "the parts have other statistics together"


def test_joined_features_have_all_rows_of_the_parts_that_both_have() -> None:
    net = models.build("resnet8", 10).eval()
    x = torch.randn(5, 3, 32, 32)
    whole = net.features(x)
    parts = joined([net.features(x[:2]), net.features(x[2:])])
    for name in PARTS:
        ours, theirs = getattr(parts, name), getattr(whole, name)
        for a, b in zip(*((v,) if torch.is_tensor(v) else v for v in (ours, theirs)), strict=True):
            torch.testing.assert_close(a, b)
    assert not joined([whole.select(frozenset({"logits"}))] * 2).has("stem")
