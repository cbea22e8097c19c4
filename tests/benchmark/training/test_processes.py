"""A pack in two processes (gloo): the results of one process, and a process that dies."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sharing_worker
import torch
import torch.nn.functional as F
from sharing_worker import apart_run, float64, halves_run, killed_run, synced_runs
from training_kit import FP32, train

import models
from benchmark import data
from benchmark.data.stream import Stream
from benchmark.data.views import NORMAL
from benchmark.errors import InputError
from benchmark.seeds import seed_of
from benchmark.spec.runs import Run
from benchmark.training import processes
from benchmark.training.execution import ExecutionRequest
from results.store import Store

TOLERANCE = 2e-7
"""Trained in float64, stored in float32. Training in float32 makes gradients of the first step differ by up
to 3%, as much as those of one process do when its convolutions add in another order (without oneDNN)."""


@dataclass
class Drill:
    """What two processes left, after the second was killed in the last pack."""

    shared: Path
    alone: Path
    """Results of one process; the teacher is the same."""
    codes: list[int]
    errors: list[str]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Drill:
    shared, alone = tmp_path_factory.mktemp("shared"), tmp_path_factory.mktemp("alone")
    for run in {n.key: n for r in (*synced_runs(), killed_run()) for n in r.needs_runs}.values():
        train([run], alone)
        shutil.copytree(Store(alone).path(run.key), Store(shared).path(run.key))
    port = str(free_port())
    started = []
    for number in range(2):
        where = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
        env = {**os.environ, **where, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, sharing_worker.__file__, str(shared)]
        started.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    with float64():  # meanwhile
        train(synced_runs(), alone)
        train([halves_run()], alone)
    errors = [process.communicate(timeout=240)[1] for process in started]
    return Drill(shared, alone, [process.returncode for process in started], errors)


def weights(run: Run, folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(Store(folder).path(run.key) / "last.pt", weights_only=True)["model"]
    return {name: t for name, t in state.items() if t.is_floating_point()}


def record(run: Run, folder: Path) -> dict[str, Any]:
    found = Store(folder).record(run.key)
    assert found is not None, Store(folder).failure(run.key)
    return found


@pytest.mark.parametrize("run", [*synced_runs(), halves_run()], ids=lambda run: run.method)
def test_two_processes_with_synced_norms_train_the_weights_of_one(drill: Drill, run: Run) -> None:
    expected = weights(run, drill.alone)
    for name, weight in weights(run, drill.shared).items():
        torch.testing.assert_close(weight, expected[name], rtol=TOLERANCE, atol=TOLERANCE, msg=name)
    curves = [Store(folder).curve(run.key) for folder in (drill.shared, drill.alone)]
    assert curves[0] is not None and curves[1] is not None
    numbers = [c.drop(columns=["stage", "seconds"]) for c in curves if c is not None]
    assert len(numbers[0]) == 1
    # evaluated in float32
    torch.testing.assert_close(*(torch.tensor(n.values) for n in numbers), rtol=1e-6, atol=1e-6)


def test_the_record_says_how_many_processes_shared_the_batches(drill: Drill) -> None:
    for run, sync in ((synced_runs()[0], True), (apart_run(), False)):
        shared = record(run, drill.shared)
        for conditions in (shared, shared["parts"][0]):
            assert (conditions["processes"], conditions["sync_norms"]) == (2, sync)
        assert shared["teacher_cache"] == "off"
    alone = record(synced_runs()[0], drill.alone)
    assert "processes" not in alone and "processes" not in alone["parts"][0]


def test_norms_that_are_not_synced_use_the_rows_of_their_process(drill: Drill) -> None:
    """One epoch by hand: two passes over the halves of the first batch, one over the last batch."""
    run = apart_run()
    split = data.load("digits", drill.alone).train.take(run.recipe.train_images)
    normalise = run.settings["normalise"]
    with float64():
        stream = Stream(
            split,
            mean=tuple(normalise["mean"]),
            std=tuple(normalise["std"]),
            sampler=run.spec.sampler,
            batch_size=run.recipe.batch_size,
            drop_last=run.recipe.drop_last,
            seed=run.seed,
        )
        torch.manual_seed(seed_of(run.seed, "init", run.student))
        net = models.build(run.student, 10).train()
        start = {k: v.clone() for k, v in net.state_dict().items()}
        r = run.recipe
        optimizer = torch.optim.SGD(
            net.parameters(),
            lr=r.lr_at(1),
            momentum=r.momentum,
            weight_decay=r.weight_decay,
            nesterov=r.nesterov,
        )
        batches = list(stream.epoch("main", 1, [NORMAL]))
        assert [len(batch.labels) for batch in batches] == [8, 3]
        for batch in batches:
            x = batch.views["normal"]
            if len(x) == 8:
                # the running statistics of process 1 are dropped at the end of the epoch
                dropped = {name: t.clone() for name, t in net.named_buffers()}
                z = torch.cat([net(x[:4]), torch.func.functional_call(net, dropped, x[4:])])
            else:
                z = net(x)
            optimizer.zero_grad()
            F.cross_entropy(z, batch.labels).backward()
            optimizer.step()
    result = weights(run, drill.shared)
    for name, value in net.state_dict().items():
        if name in result:
            assert not torch.equal(result[name], start[name]), name
            torch.testing.assert_close(result[name], value.float(), rtol=TOLERANCE, atol=TOLERANCE)


def test_a_process_that_is_killed_ends_the_other_and_one_process_goes_on(drill: Drill) -> None:
    run = killed_run()
    assert drill.codes == [1, -9], drill.errors
    assert drill.errors[0].strip().startswith("process 0 of 2 has lost the others"), drill.errors
    assert drill.errors[0].strip().count("\n") == 0
    store = Store(drill.shared)
    assert store.state(run.key) == "started" and store.holder(run.key) is None
    assert store.failure(run.key) is None, "the run is not at fault"
    with float64():
        assert [o.status for o in train([run], drill.shared)] == ["done"]
        train([run], drill.alone)
    parts = record(run, drill.shared)["parts"]
    assert [(p["from"], p["to"], p.get("processes")) for p in parts] == [(1, 1, 2), (2, 2, None)]
    expected = weights(run, drill.alone)
    for name, weight in weights(run, drill.shared).items():
        torch.testing.assert_close(weight, expected[name], rtol=TOLERANCE, atol=TOLERANCE)


def test_only_a_launchers_variables_start_several_processes() -> None:
    started = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert processes.several_were_started(started)
    assert not processes.several_were_started({**started, "WORLD_SIZE": "1"})
    assert not processes.several_were_started({"RANK": "1", "WORLD_SIZE": "2"})
    with pytest.raises(InputError, match="RANK=x is not a number"):
        processes.several_were_started({**started, "RANK": "x"})
    limits = [("RANK", "2", 1), ("LOCAL_RANK", "7", 1), ("MASTER_PORT", "99999", 65535)]
    wrong = [(name, value, f"more than {largest}") for name, value, largest in limits]
    for name, value, message in [*wrong, ("RANK", "²", "not a number")]:
        with pytest.raises(InputError, match=f"{name}={value} is {message}"):
            processes.several_were_started({**started, name: value})
    with processes.joined("cpu", {}) as team:
        assert team.count == 1 and team.leads and team.agree({"a": 1}) == {"a": 1}


def test_sync_norms_needs_several_processes() -> None:
    with pytest.raises(InputError, match="torchrun"):
        ExecutionRequest(device="cpu", precision="fp32", sync_norms=True).resolve()
    assert "processes" not in FP32.describe()
