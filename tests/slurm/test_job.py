"""What a job does about runs that someone else holds. Needs no Slurm."""

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
from results.files import STALE_SECONDS
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
    """A claim of a process on another machine, whose last heartbeat was so many seconds ago."""
    path = store.path(run.key) / "claim"
    path.parent.mkdir(parents=True)
    path.write_text(
        json.dumps({"token": "t", "host": "elsewhere", "pid": 1, "started": "1"}), encoding="utf-8"
    )
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
    assert found == {run.key: ("busy", "process 1 on elsewhere trains it"), other.key: ("done", "")}
    assert claim.exists() and not store.is_done(run.key)


def test_a_job_without_its_teacher_fails_and_says_why(tmp_path: Path) -> None:
    run = next(r for r in drill_runs(tmp_path) if r.method == "kd")
    with pytest.raises(
        JobFailed, match=r"1 of 1 runs have no result; the first: .* needs .*none-resnet14.*, which is absent"
    ):
        pack_job(tmp_path, [run], patience=1)()


def test_checkpoint_is_the_same_again(tmp_path: Path) -> None:
    job = pack_job(tmp_path, drill_runs(tmp_path)[:1], patience=1)
    again = pickle.loads(pickle.dumps(job.checkpoint()))
    assert again.function == job and again.args == ()


def orders(
    runs: list[Run], folder: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> list[dict[str, Any]]:
    """The work orders that a submission sends, to a Slurm that takes everything."""
    sent: list[dict[str, Any]] = []

    def send(
        cluster: Cluster, folder: Path, code: Path, name: str, depends: Any, calls: list[PackJob]
    ) -> str:
        sent.extend(json.loads(c.order) for c in calls)
        return str(len(sent))

    monkeypatch.setattr(commands, "missing", lambda: "")
    monkeypatch.setattr(commands, "site", lambda: commands.Site(1001, 10000, False, ("gpu",)))
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
    ("fields", "told"),
    [
        ({"gpus": 0, "cpus": 6, "student_threads": 2}, ("cpu", "fp32", 6, 2)),
        ({"gpus": 0, "precision": "bf16"}, ("cpu", "bf16", 4, 1)),
        ({"cpus": 8}, ("cuda", "bf16", 8, 1)),
    ],
)
def test_a_job_is_told_its_arithmetic(
    fields: dict[str, Any], told: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, so that no node decides for itself: a table that is spread over several kinds of nodes has one precision."""
    for order in orders(drill_runs(tmp_path), tmp_path, Cluster("mine", "gpu", **fields), monkeypatch):
        assert (
            tuple(
                order["settings"]["execution"][k]
                for k in ("device", "precision", "threads", "student_threads")
            )
            == told
        )


def test_the_teacher_cache_is_chosen_for_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seeds of 60 epochs are worth the teacher's 162 passes, none of their three jobs alone is."""
    path = tmp_path / "drill.toml"
    path.write_text(TABLE, encoding="utf-8")
    table = matrix.load_table(str(path))
    runs = matrix.expand(
        table, "quick", seeds=range(3), overrides=matrix.parse_overrides(["recipe.epochs=60"])
    ).runs
    found = orders(
        [r for r in runs if r.method in ("kd", "at")],
        tmp_path,
        Cluster("mine", "gpu"),
        monkeypatch,
        max_pack=1,
    )
    caches = {
        (r["key"].split("/")[4], o["settings"]["teacher_cache"])
        for o in found
        for r in o["runs"]
        if "none-" not in r["key"]
    }
    assert caches == {("kd", "on"), ("at", "on")}, (
        "AT reads maps, which no table has: it makes its pass all the same"
    )
    found = orders(
        [r for r in runs if r.method == "kd" and r.seed == 0],
        tmp_path / "other",
        Cluster("mine", "gpu"),
        monkeypatch,
    )
    assert {o["settings"]["teacher_cache"] for o in found} == {"off"}


def test_an_order_of_before_there_were_student_threads(tmp_path: Path) -> None:
    """Jobs in the queue run their snapshot; an order that was kept is still read."""
    run = next(r for r in drill_runs(tmp_path) if r.student == "resnet8")
    old = json.loads(pack_job(tmp_path, [run], 1).order)
    del old["settings"]["execution"]["student_threads"], old["settings"]["teacher_cache"]
    assert [status for _, status, _ in PackJob(json.dumps(old), 1)()] == ["done"]
