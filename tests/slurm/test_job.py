"""What a job does about runs that someone else holds. Needs no Slurm."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path

import pytest
from slurm_kit import drill_runs

from benchmark.local import Environment, work_order
from benchmark.runs import Run
from results.files import STALE_SECONDS
from results.store import Store
from slurm.job import JobFailed, PackJob


def pack_job(folder: Path, runs: list[Run], patience: float) -> PackJob:
    return PackJob(work_order(runs, Environment(str(folder / "results"), str(folder), device="cpu", threads=1)), patience)


def foreign_claim(store: Store, run: Run, age: float) -> Path:
    """A claim of a process on another machine, whose last heartbeat was so many seconds ago."""
    path = store.path(run.key) / "claim"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"token": "t", "host": "elsewhere", "pid": 1, "started": "1"}), encoding="utf-8")
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_waits_for_the_claim_of_its_dead_self(tmp_path: Path) -> None:
    run = next(r for r in drill_runs(tmp_path) if r.student == "resnet8")
    store = Store(tmp_path / "results")
    foreign_claim(store, run, STALE_SECONDS - 1)
    assert [status for _, status, _ in pack_job(tmp_path, [run], patience=30)()] == ["done"]


def test_leaves_a_living_holder_alone(tmp_path: Path) -> None:
    run, other = [r for r in drill_runs(tmp_path) if r.teacher == "none"][:2]
    store = Store(tmp_path / "results")
    claim = foreign_claim(store, run, 0)
    found = {key: (status, reason) for key, status, reason in pack_job(tmp_path, [run, other], patience=1)()}
    assert found == {run.key: ("busy", "works on it: process 1 on elsewhere"), other.key: ("done", "")}
    assert claim.exists() and not store.is_done(run.key)


def test_a_job_without_its_teacher_fails_and_says_why(tmp_path: Path) -> None:
    run = next(r for r in drill_runs(tmp_path) if r.method == "kd")
    with pytest.raises(JobFailed, match=r"1 of 1 runs have no result; the first: .* needs .*none-resnet14.*, which is absent"):
        pack_job(tmp_path, [run], patience=1)()


def test_checkpoint_is_the_same_again(tmp_path: Path) -> None:
    job = pack_job(tmp_path, drill_runs(tmp_path)[:1], patience=1)
    again = pickle.loads(pickle.dumps(job.checkpoint()))
    assert again.function == job and again.args == ()
