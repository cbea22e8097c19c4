"""The teacher's pass in train mode: what OFD reads, and that nothing else of a pack notices it."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from training_kit import FP32, small_run

import models
from benchmark.bench.ours import open_active_runs, open_stream, random_split
from benchmark.data.stream import Batch
from benchmark.methods import IN_TRAIN
from benchmark.spec import teacher_cache_rule
from benchmark.spec.cost import teacher_passes, training_of
from benchmark.training.lockstep import Lockstep
from models.layers import BatchNorm2d


def opened(folder: Path, *methods: str) -> tuple[models.Network, Lockstep, Batch]:
    """A pack with a teacher whose running statistics are far from the batch's, and its first batch."""
    runs, split = [small_run(m) for m in methods], random_split(32, 10, seed=0)
    teacher, active_runs = open_active_runs(runs, split, FP32, folder)
    assert teacher is not None
    for module in teacher.modules():
        if isinstance(module, BatchNorm2d):
            torch.nn.init.constant_(module.running_mean, 0.3)
            torch.nn.init.constant_(module.running_var, 2.0)
    for active in active_runs:
        active.begin_epoch()
    lockstep = Lockstep(active_runs, teacher, FP32)
    return teacher, lockstep, next(lockstep.batches(open_stream(runs[0], split), "main", 1))


def test_the_pass_is_one_in_train_mode_and_leaves_the_teacher_as_it_is(tmp_path: Path) -> None:
    teacher, lockstep, batch = opened(tmp_path, "ofd", "kd")
    before = copy.deepcopy(teacher)
    features = lockstep.teacher_features(batch)
    read = lockstep.features_for(0, features)
    with torch.no_grad():
        in_eval = before.features(batch.views["normal"])
        in_train = copy.deepcopy(before).train().features(batch.views["normal"])
    for ours, theirs in zip(read[IN_TRAIN].preacts, in_train.preacts, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(in_train.preacts[-1], in_eval.preacts[-1])
    assert torch.equal(lockstep.features_for(1, features)["normal"].logits, in_eval.logits)
    assert not read[IN_TRAIN].has("logits") and not read["normal"].has("preacts")
    assert all(torch.equal(a, b) for a, b in zip(teacher.buffers(), before.buffers(), strict=True))
    assert not any(module.training for module in teacher.modules())
    assert {m.momentum for m in teacher.modules() if isinstance(m, BatchNorm2d)} == {0.1}


def test_only_runs_that_read_it_make_the_pass(tmp_path: Path) -> None:
    _, lockstep, batch = opened(tmp_path / "kd", "kd", "at")
    assert set(lockstep.features_for(0, lockstep.teacher_features(batch))) == {"normal"}
    _, alone, batch = opened(tmp_path / "ofd", "ofd")
    assert set(alone.features_for(0, alone.teacher_features(batch))) == {IN_TRAIN}
    assert alone.signature != lockstep.signature
    images = {
        m: next(iter(teacher_passes([training_of(small_run(m))]))).images for m in ("kd", "ofd", "kd+ofd")
    }
    assert images["ofd"] == images["kd"] and images["kd+ofd"] == 2 * images["kd"]
    assert not teacher_cache_rule.can_use_cache(small_run("ofd"))
    assert small_run("ofd").teacher_ref is not None


def test_no_network_has_another_batch_norm() -> None:
    """`models.batch_statistics` switches those of `models.layers`, which do not count their batches."""
    for name in models.names():
        with torch.device("meta"):
            net = models.build(name, 10)
        norms = [m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        assert norms and all(isinstance(m, BatchNorm2d) for m in norms), name
        assert not any(isinstance(m, torch.nn.Dropout) for m in net.modules()), name
