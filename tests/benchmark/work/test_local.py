"""The local runner's worker processes."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from training_kit import small_run

from benchmark.spec.plan import Pack
from benchmark.training.execution import ExecutionRequest
from benchmark.training.reporter import Outcome, Reporter, Status
from benchmark.work import local, order
from results.store import Store


def test_a_worker_process_finds_the_user_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths of KD_METHODS are made absolute, because the worker runs in another folder."""
    started: list[dict[str, str]] = []

    class Process:
        def __init__(self, argv: list[str], env: dict[str, str], **_: object) -> None:
            self.stdin = io.BytesIO()
            started.append(env)

    pack = Pack((small_run("kd"),), 0)
    monkeypatch.setattr(local.subprocess, "Popen", Process)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KD_METHODS", os.pathsep.join(["mine", str(tmp_path / "others")]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    local._start(pack, order.WorkSettings(results=Path("r"), data=Path("d")), 1)
    assert started[0]["KD_METHODS"].split(os.pathsep) == [str(tmp_path / "mine"), str(tmp_path / "others")]
    assert started[0]["CUDA_VISIBLE_DEVICES"] == "1"
    # the numbers of GPUs here are positions among those that this process may use
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-5a")
    for gpu in (0, 1):
        local._start(pack, order.WorkSettings(results=Path("r"), data=Path("d")), gpu)
    assert [env["CUDA_VISIBLE_DEVICES"] for env in started[1:]] == ["2", "GPU-5a"]


def test_a_worker_process_that_ends_at_once_is_a_failure_and_no_closed_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line takes a broken pipe for the end of `| head`, and would end without a word."""

    class Pipe(io.BytesIO):
        def write(self, _: object) -> int:
            raise BrokenPipeError

    class Process:
        def __init__(self, *_: object, **__: object) -> None:
            self.stdin = Pipe()

        def poll(self) -> int:
            return 1

    monkeypatch.setattr(local.subprocess, "Popen", Process)
    monkeypatch.setattr(local.time, "sleep", lambda _: None)
    run, outcomes = small_run("plain"), dict[str, Outcome]()
    local._train_on_gpus(
        [Pack((run,), 0)],
        outcomes,
        settings=order.WorkSettings(results=tmp_path, data=Path("d")),
        gpus=2,
        reporter=Reporter(),
        cached=frozenset(),
    )
    assert outcomes[run.key].status == Status.FAILED and "ended without a record" in outcomes[run.key].reason


def test_a_worker_process_stops_after_the_epoch_that_is_asked_for(tmp_path: Path) -> None:
    run = small_run("plain", recipe__epochs=3)
    settings = order.WorkSettings(
        results=tmp_path, data=Path("data"), execution=ExecutionRequest(device="cpu", threads=1), until=1
    )
    (outcome,) = order.work(order.work_order([run], settings))
    assert outcome.status == Status.STOPPED
    assert local._outcome(run, Store(tmp_path), until=1) == outcome
    assert local._outcome(run, Store(tmp_path), until=2).status == Status.FAILED
