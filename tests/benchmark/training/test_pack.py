"""A result depends on its run alone, not on the pack or on interruptions. What a finished run leaves."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from training_kit import FP32, small_run, train, train_until_killed, weights

import models
from benchmark import data, methods
from benchmark.bench.ours import open_active_runs, random_split
from benchmark.data.stream import Stream
from benchmark.spec.plan import pack_key
from benchmark.spec.runs import Run
from benchmark.training.active_run import ActiveRun
from benchmark.training.execution import Execution
from benchmark.training.lockstep import Lockstep, lanes
from benchmark.training.options import TrainingOptions
from benchmark.training.pack import train_pack
from results.store import Store

SINGLE_VIEW = ("fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "nst")
Alone = Callable[..., Path]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """A function that returns a results folder with the given runs, each trained by itself, and only once."""
    folder = tmp_path_factory.mktemp("alone")

    def trained(*runs: Run) -> Path:
        for run in runs:
            assert [o.status for o in train([run], folder)] == ["done"]
        return folder

    return trained


def test_the_weights_are_the_same_alone_and_in_packs_of_two_and_nine(tmp_path: Path, alone: Alone) -> None:
    run = small_run("kd")
    others = [small_run(m) for m in SINGLE_VIEW]
    train([run, others[0]], tmp_path / "two")
    train([*others[:4], run, *others[4:]], tmp_path / "nine")
    assert len({weights(run, folder) for folder in (alone(run), tmp_path / "two", tmp_path / "nine")}) == 1
    assert len({weights(r, tmp_path / "nine") for r in (run, *others)}) == 9, (
        "the methods differ from each other"
    )


def test_a_pack_may_mix_students_and_methods_with_stages_and_views(tmp_path: Path, alone: Alone) -> None:
    mixed = [
        small_run("ft"),
        small_run("ab", student="resnet14"),
        small_run("dlkd", protocol="crd"),
        small_run("crd+kd"),
    ]
    train(mixed, tmp_path / "mixed")
    for run in mixed:
        assert weights(run, alone(run)) == weights(run, tmp_path / "mixed"), run.method


@pytest.mark.parametrize(("precision", "packed"), [("fp32", "kd crd at vid dlkd"), ("bf16", "kd ofd at")])
def test_the_weights_are_the_same_in_lanes(tmp_path: Path, precision: str, packed: str) -> None:
    """Two threads, one per student: alone, in a pack, and in the pack in reverse order.

    In bf16 with the kernels of batch norms, where OFD adds a pass of the teacher in train mode.
    """
    two = Execution("cpu", precision, threads=2, student_threads=1)
    runs = [small_run(m, recipe__train_images=32, recipe__test_images=16) for m in packed.split()]
    for folder in ("alone", "pack", "turned"):
        train(list(runs[0].needs_runs), tmp_path / folder)
    for run in runs:
        train([run], tmp_path / "alone", two)
    train(runs, tmp_path / "pack", two)
    train(runs[::-1], tmp_path / "turned", two)
    for run in runs:
        assert len({weights(run, tmp_path / f) for f in ("alone", "pack", "turned")}) == 1, run.method


def test_the_run_with_the_longest_step_is_started_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, runs = (
        Execution("cpu", "fp32", threads=2, student_threads=1),
        [small_run(m) for m in ("kd", "at", "crd")],
    )
    with two.applied():
        _, active_runs = open_active_runs(runs, random_split(64, 10, seed=0), two, tmp_path)
        pack = Lockstep(active_runs, None, two)
    with ThreadPoolExecutor(1) as one_lane:
        monkeypatch.setattr(pack, "_lanes", one_lane)
        begun: list[int] = []
        pack.step_runs(begun.append, 64)
        assert sorted(begun) == [0, 1, 2]
        assert all(active.step_seconds > 0 for active in active_runs)
        for active, seconds in zip(active_runs, (0.1, 0.3, 0.2), strict=True):
            active.step_seconds = seconds
        begun.clear()
        pack.step_runs(begun.append, 64)
        assert begun == [1, 2, 0]


def test_each_lane_has_its_own_number_of_threads() -> None:
    """Two lanes with two threads each block each other on two cores: a quarter of the speed, measured."""
    execution = Execution("cpu", "fp32", threads=2, student_threads=1)
    with execution.applied():
        pool = lanes(execution)
        assert pool is not None
        assert {f.result() for f in [pool.submit(torch.get_num_threads) for _ in range(8)]} == {1}
        assert torch.get_num_threads() == 2
    assert lanes(FP32) is None and lanes(Execution("cpu", "fp32", 2, student_threads=2)) is None


FRESH_PROCESSES = multiprocessing.get_context("forkserver")
"""Forked from a process that has loaded PyTorch and computed nothing: loading it takes seconds each time."""
FRESH_PROCESSES.set_forkserver_preload(["benchmark.training.pack"])


def kill(runs: list[Run], folder: Path, at: int) -> None:
    """Train the pack in a process that is killed at step `at`."""
    first = runs[0]
    train([first] if not first.needs_runs else list(first.needs_runs), folder)
    process = FRESH_PROCESSES.Process(target=train_until_killed, args=([r.order() for r in runs], folder, at))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL
    assert not any(Store(folder).is_done(r.key) for r in runs)


def finish(runs: list[Run], folder: Path) -> None:
    assert [o.status for o in train_pack(runs, Store(folder), TrainingOptions(FP32))] == ["done"] * len(runs)


@pytest.mark.parametrize("at", [3, 5])
def test_killed_in_the_main_stage_and_resumed_bit_equal(tmp_path: Path, alone: Alone, at: int) -> None:
    """At the last of the three steps of the first epoch, and in the second epoch, which begins anew."""
    pack = [small_run("kd"), small_run("crd")]
    kill(pack, tmp_path, at)
    assert {(tmp_path / run.key / "checkpoint.pt").exists() for run in pack} == {at > 3}
    finish(pack, tmp_path)
    for run in pack:
        for name in ("last.pt", "best.pt"):
            assert weights(run, alone(run), name) == weights(run, tmp_path, name)
        curves = [Store(folder).curve(run.key).drop(columns="seconds") for folder in (alone(run), tmp_path)]
        assert curves[0].equals(curves[1])


SELF = ("label_smoothing", "tfkd", "tfkd_self", "pskd", "cskd", "dlb", "drg+dsr", "ddgsd", "byot", "bake")
"""Rows without a teacher."""
RELATIONS = ("cckd", "stkd", "darkrank", "seed", "iusp", "ofd")


@pytest.mark.parametrize("rows", [("plain", *SELF), RELATIONS], ids=["self", "relations"])
def test_methods_with_memory_are_bit_equal_alone_packed_and_resumed(
    tmp_path: Path, rows: tuple[str, ...]
) -> None:
    """The memory of a method (last batch, last epoch, queue) is restored from the checkpoint. OFD, whose
    teacher runs in train mode, changes nothing for the others."""
    runs = [small_run(m) for m in rows]
    packs: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        packs.setdefault(pack_key(run), []).append(run)
    assert max(map(len, packs.values())) > 3
    for pack in packs.values():
        train(pack, tmp_path / "packed")
    for run in runs:
        assert [o.status for o in train([run], tmp_path / "alone", until=1)] == ["stopped"]
        assert [o.status for o in train([run], tmp_path / "alone")] == ["done"]
        assert weights(run, tmp_path / "packed") == weights(run, tmp_path / "alone"), run.method
    assert len({weights(r, tmp_path / "packed") for r in runs}) == len(runs), (
        "the methods differ from each other"
    )


@pytest.mark.parametrize("method", ["ab", "fsp", "ft"])
def test_killed_in_the_initialisation_stage_and_resumed_bit_equal(
    tmp_path: Path, alone: Alone, method: str
) -> None:
    run = small_run(method)
    kill([run], tmp_path, 1)
    finish([run], tmp_path)
    assert weights(run, alone(run)) == weights(run, tmp_path)


def test_killed_while_training_the_head_of_sskd_and_resumed_bit_equal(tmp_path: Path, alone: Alone) -> None:
    run = small_run("sskd")
    (head,) = run.heads
    kill([head], tmp_path, 1)
    finish([head], tmp_path)
    train([run], tmp_path)
    for r in (head, run):
        assert weights(r, alone(run)) == weights(r, tmp_path)


def test_a_run_behind_the_others_of_its_pack_catches_up(tmp_path: Path, alone: Alone) -> None:
    pack = [small_run("kd"), small_run("at")]
    calls = 0

    class Stop(BaseException):
        pass

    def stop(active: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Stop

    with pytest.raises(Stop):
        train(pack, tmp_path / "cut", after_epoch=stop)
    assert (tmp_path / "cut" / pack[0].key / "checkpoint.pt").exists()
    assert not (tmp_path / "cut" / pack[1].key / "checkpoint.pt").exists()
    train(pack, tmp_path / "cut")
    for run in pack:
        assert weights(run, alone(run)) == weights(run, tmp_path / "cut")


def test_a_run_stopped_at_an_epoch_is_resumed_bit_equal(tmp_path: Path, alone: Alone) -> None:
    run = small_run("kd")
    assert [o.status for o in train([run], tmp_path / "parts", until=1)] == ["stopped"]
    assert Store(tmp_path / "parts").state(run.key) == "started"
    began = Store(tmp_path / "parts").began(run.key)
    assert began is not None and began["began"] and began["precision"] == "fp32" and began["threads"] == 1
    assert [o.status for o in train([run], tmp_path / "parts")] == ["done"]
    assert weights(run, alone(run)) == weights(run, tmp_path / "parts")


def test_a_diverged_run_has_a_record_and_leaves_the_pack(tmp_path: Path, alone: Alone) -> None:
    good, bad = small_run("kd"), small_run("at", at__weight=1e30)
    assert [o.status for o in train([bad, good], tmp_path)] == ["diverged", "done"]
    record = Store(tmp_path).record(bad.key)
    assert record is not None and record["top1_last"] is None and "not finite" in record["reason"]
    assert weights(good, tmp_path) == weights(good, alone(good))


def test_an_error_of_one_method_ends_that_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, step: object) -> object:
        raise ZeroDivisionError("planted")

    good, bad = small_run("kd"), small_run("at")
    monkeypatch.setattr(methods.get("at"), "loss", broken)
    assert [o.status for o in train([bad, good], tmp_path)] == ["failed", "done"]
    failure = Store(tmp_path).failure(bad.key)
    assert (
        failure is not None
        and failure["reason"] == "method 'at', loss: ZeroDivisionError: planted"
        and "Traceback" in failure["traceback"]
    )
    assert "planted" in (tmp_path / bad.key / "log.txt").read_text()


@pytest.mark.parametrize(("method", "part"), [("at", "start_epoch"), ("simkd", "predict")])
def test_an_error_of_a_method_outside_its_loss_ends_that_run_alone(
    method: str, part: str, tmp_path: Path, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, *_: object) -> object:
        raise ZeroDivisionError("planted")

    good, bad = small_run("kd"), small_run(method)
    monkeypatch.setattr(methods.get(method), part, broken)
    assert [o.status for o in train([bad, good], tmp_path / "pack")] == ["failed", "done"]
    failure = Store(tmp_path / "pack").failure(bad.key)
    assert failure is not None
    assert failure["reason"] == f"method '{method}', {part}: ZeroDivisionError: planted"
    assert weights(good, tmp_path / "pack") == weights(good, alone(good))


def test_a_run_that_was_taken_over_is_left_alone(tmp_path: Path) -> None:
    """A worker that was halted for minutes writes nothing to a run that another worker has taken over."""
    run, other = small_run("kd"), small_run("at")
    claim = tmp_path / run.key / "claim"
    before: list[bytes] = []

    def take_over(active: ActiveRun) -> None:
        if active.run.key == run.key:
            claim.write_text(json.dumps({"token": "another", "host": "elsewhere", "pid": 7, "started": "1"}))
            before.append((tmp_path / run.key / "checkpoint.pt").read_bytes())

    lost, kept = train([run, other], tmp_path, after_epoch=take_over)
    assert (lost.status, kept.status) == ("busy", "done")
    assert lost.reason == "taken over by process 7 on elsewhere while this process was halted"
    assert len(before) == 1 and (tmp_path / run.key / "checkpoint.pt").read_bytes() == before[0]
    assert (
        claim.exists()
        and not (tmp_path / run.key / "last.pt").exists()
        and not Store(tmp_path).is_done(run.key)
    )


def test_a_run_without_its_teacher_is_blocked(tmp_path: Path) -> None:
    run = small_run("kd")
    (outcome,) = train_pack([run], Store(tmp_path), TrainingOptions(FP32))
    assert (
        outcome.status == "blocked" and run.needs_runs[0].key in outcome.reason and "absent" in outcome.reason
    )


def test_what_a_finished_run_leaves(alone: Alone) -> None:
    run = small_run("kd")
    folder = alone(run)
    store = Store(folder)
    record, curve = store.record(run.key), store.curve(run.key)
    assert record is not None and curve is not None
    assert list(curve["epoch"]) == [1, 2] and set(curve["stage"]) == {"main"}
    assert {
        "lr",
        "train_loss",
        "train_acc",
        "test_acc",
        "test_acc_top5",
        "test_loss",
        "seconds",
        "term_ce",
        "term_kd",
    } <= set(curve.columns)
    assert np.allclose(curve["train_loss"], 0.1 * curve["term_ce"] + 0.9 * curve["term_kd"])
    assert (
        record["top1_last"] == curve["test_acc"].iloc[-1] and record["top1_best"] == curve["test_acc"].max()
    )
    best = curve["test_acc_top5"][curve["epoch"] == record["best_epoch"]]
    assert [record["top5_last"], record["top5_best"]] == [curve["test_acc_top5"].iloc[-1], *best]
    assert record["teacher_info"]["weights"] and record["teacher_info"]["top1"] >= 0
    assert record["settings"]["method"]["components"]["kd"]["temperature"] == 4.0
    left = {path.name for path in (folder / run.key).iterdir()}
    assert left == {"record.json", "curve.csv", "last.pt", "best.pt", "log.txt"}
    net = models.build("resnet8", 10)
    models.load_weights(net, folder / run.key / "last.pt")
    assert train_pack([run], store, TrainingOptions(FP32))[0].status == "done", "a second call trains nothing"


def test_keep_none_drops_students_weights_and_keeps_teachers(tmp_path: Path) -> None:
    run = small_run("kd")
    train([run], tmp_path, keep="none")
    assert not (tmp_path / run.key / "last.pt").exists() and Store(tmp_path).is_done(run.key)
    assert (tmp_path / run.needs_runs[0].key / "last.pt").exists()


def test_methods_of_a_seed_have_the_same_initial_student_and_batches() -> None:
    labels = torch.arange(10)
    a, b = (
        ActiveRun.open(small_run(m, teacher="resnet14"), Path("/nonexistent"), FP32, None, labels, {})
        for m in ("at", "kd")
    )
    assert a.student is not None and b.student is not None
    assert models.weights_hash(a.student) == models.weights_hash(b.student)
    split = data.load("digits").train.take(100)

    def first(*views: data.View) -> torch.Tensor:
        return next(
            Stream(
                split,
                mean=(0.5,) * 3,
                std=(0.5,) * 3,
                sampler=data.SHUFFLE,
                batch_size=64,
                drop_last=False,
                seed=3,
            ).epoch("main", 1, views)
        ).views["normal"]

    assert torch.equal(first(data.NORMAL), first(data.ROTATED, data.NORMAL))


def test_the_learning_rate_is_a_tensor_that_is_changed_in_place(tmp_path: Path) -> None:
    """A captured step reads it. Checkpoints of older versions, which hold a number, can be resumed."""
    run = small_run("kd", recipe__epochs=4)
    train([run], tmp_path / "whole")
    assert [o.status for o in train([run], tmp_path / "old", until=2)] == ["stopped"]
    path = tmp_path / "old" / run.key / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    (group,) = state["optimizer"]["param_groups"]
    assert isinstance(group["lr"], torch.Tensor)
    group["lr"] = group["lr"].item()
    del state["parts"]
    torch.save(state, path)
    train([run], tmp_path / "old")
    assert weights(run, tmp_path / "old") == weights(run, tmp_path / "whole")
    curve = Store(tmp_path / "whole").curve(run.key)
    assert (
        curve is not None
        and list(curve["lr"]) == [run.recipe.lr_at(e) for e in (1, 2, 3, 4)]
        and curve["lr"].nunique() > 1
    )
