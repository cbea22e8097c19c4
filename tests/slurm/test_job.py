"""A job: waiting for runs that another worker holds, a missing teacher, its work order. Needs no Slurm."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from slurm_kit import TABLE, drill_runs

from benchmark.spec import matrix
from benchmark.spec.runs import Run
from benchmark.training.execution import ExecutionRequest
from benchmark.work.order import WorkSettings, work_order
from results.holders import STALE_SECONDS
from results.store import Store
from slurm import commands, script
from slurm.cluster import Cluster
from slurm.job import JobFailed, PackJob
from slurm.submit import submit_runs


def pack_job(folder: Path, runs: list[Run], patience: float) -> PackJob:
    return PackJob(
        work_order(
            runs,
            WorkSettings(
                results=folder / "results",
                data=folder,
                execution=ExecutionRequest(device="cpu", threads=1),
            ),
        ),
        patience,
    )


def foreign_claim(store: Store, run: Run, age: float) -> Path:
    """Write a claim of a process on another machine whose last heartbeat was `age` seconds ago."""
    path = store.path(run.key) / "claim"
    path.parent.mkdir(parents=True)
    path.write_text(
        json.dumps({"token": "t", "host": "elsewhere", "pid": 1, "started": "1"}), encoding="utf-8"
    )
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_a_restarted_job_waits_for_its_own_stale_claim(tmp_path: Path) -> None:
    run = next(r for r in drill_runs(tmp_path) if r.student == "resnet8")
    store = Store(tmp_path / "results")
    foreign_claim(store, run, STALE_SECONDS - 1)
    assert [status for _, status, _ in pack_job(tmp_path, [run], patience=30)()] == ["done"]


def test_a_run_with_a_living_holder_is_left_to_it(tmp_path: Path) -> None:
    run, other = [r for r in drill_runs(tmp_path) if r.teacher == "none"][:2]
    store = Store(tmp_path / "results")
    claim = foreign_claim(store, run, 0)
    outcomes = pack_job(tmp_path, [run, other], patience=1)()
    assert {key: (status, reason) for key, status, reason in outcomes} == {
        run.key: ("busy", "process 1 on elsewhere trains it"),
        other.key: ("done", ""),
    }
    assert claim.exists() and not store.is_done(run.key)


def test_a_job_without_its_teacher_fails_and_says_why(tmp_path: Path) -> None:
    run = next(r for r in drill_runs(tmp_path) if r.method == "kd")
    with pytest.raises(
        JobFailed, match=r"1 of 1 runs have no result; the first: .* needs .*none-resnet14.*, which is absent"
    ):
        pack_job(tmp_path, [run], patience=1)()


def test_checkpoint_returns_the_same_job(tmp_path: Path) -> None:
    job = pack_job(tmp_path, drill_runs(tmp_path)[:1], patience=1)
    again = pickle.loads(pickle.dumps(job.checkpoint()))
    assert again.function == job and again.args == ()


def orders(
    runs: list[Run], folder: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> list[dict[str, Any]]:
    """Return the work orders that a submission sends, to a fake Slurm that accepts everything."""
    sent: list[dict[str, Any]] = []

    def send(spec: script.ArraySpec, calls: list[PackJob]) -> str:
        sent.extend(json.loads(c.order) for c in calls)
        return str(len(sent))

    limits = commands.ClusterLimits(max_array=1001, max_jobs=10000, accounting=False, partitions=("gpu",))
    monkeypatch.setattr(commands, "why_unavailable", lambda: "")
    monkeypatch.setattr(commands, "cluster_limits", lambda: limits)
    monkeypatch.setattr(commands, "squeue", lambda names=(): [])
    monkeypatch.setattr(script, "send", send)
    submit_runs(
        runs,
        "drill",
        Store(folder / "results"),
        WorkSettings(results=folder / "results", data=folder),
        cluster,
        **more,
    )
    return sent


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"gpus": 0, "cpus": 6, "student_threads": 2}, ("cpu", "fp32", 6, 2)),
        ({"gpus": 0, "precision": "bf16"}, ("cpu", "bf16", 4, 1)),
        ({"cpus": 8}, ("cuda", "bf16", 8, 1)),
    ],
)
def test_a_work_order_fixes_device_precision_and_threads(
    fields: dict[str, Any], expected: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No node decides for itself, so a table trained on several kinds of nodes has one precision."""
    for order in orders(drill_runs(tmp_path), tmp_path, Cluster("mine", "gpu", **fields), monkeypatch):
        assert (
            tuple(
                order["settings"]["execution"][k]
                for k in ("device", "precision", "threads", "student_threads")
            )
            == expected
        )


def test_the_teacher_cache_is_chosen_for_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's 162 passes for the cache pay off for three seeds of 60 epochs together, not for one."""
    path = tmp_path / "drill.toml"
    path.write_text(TABLE, encoding="utf-8")
    table = matrix.load_table(str(path))
    runs = matrix.expand(
        table, "quick", seeds=range(3), overrides=matrix.parse_overrides(["recipe.epochs=60"])
    ).runs
    sent = orders(
        [r for r in runs if r.method in ("kd", "at")],
        tmp_path,
        Cluster("mine", "gpu"),
        monkeypatch,
        max_pack=1,
    )
    caches = {
        (r["key"].split("/")[4], o["settings"]["teacher_cache"])
        for o in sent
        for r in o["runs"]
        if "none-" not in r["key"]
    }
    assert caches == {("kd", "on"), ("at", "on")}, (
        "AT needs feature maps, which the cache does not have: it runs the teacher all the same"
    )
    sent = orders(
        [r for r in runs if r.method == "kd" and r.seed == 0],
        tmp_path / "other",
        Cluster("mine", "gpu"),
        monkeypatch,
    )
    assert {o["settings"]["teacher_cache"] for o in sent} == {"off"}


def test_an_older_work_order_without_newer_fields_is_accepted(tmp_path: Path) -> None:
    """Queued jobs run their snapshot, but a stored order may be older than the code that reads it."""
    run = next(r for r in drill_runs(tmp_path) if r.student == "resnet8")
    old = json.loads(pack_job(tmp_path, [run], 1).order)
    del old["settings"]["execution"]["student_threads"], old["settings"]["teacher_cache"]
    assert [status for _, status, _ in PackJob(json.dumps(old), 1)()] == ["done"]
