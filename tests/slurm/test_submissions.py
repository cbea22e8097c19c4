"""Drills: what is submitted, what is withheld, what happens in the queue; the table must not change."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from slurm_kit import ROOT, Drill, outcome, wait_for

from benchmark.spec.plan import make_plan
from benchmark.training.execution import ExecutionRequest
from benchmark.work.order import WorkSettings, work, work_order
from results.store import Store
from slurm import commands, registry, snapshot
from slurm.state import cancel


def test_a_submitted_table_equals_the_local_one(cluster: Path, drill: Drill) -> None:
    report = drill.submit()
    assert report.runs == len(drill.runs) and report.jobs == 3
    assert drill.submit().jobs == 0, "what is in the queue is not submitted again"
    drill.wait()
    drill.check()
    assert drill.submit().jobs == 0, "what is done is not submitted again"
    ids = [i for a in report.arrays for i in a.array.ids()]
    wait_for("accounting", lambda: sorted(commands.sacct(ids)) == sorted(ids))
    wait_for(
        "COMPLETED in accounting",
        lambda: all(s.startswith("COMPLETED") for s in commands.sacct(ids).values()),
    )


def test_students_side_by_side(cluster: Path, drill: Drill) -> None:
    """Jobs of two threads step two students in parallel; the table equals one trained so in this process."""
    runs = [r for r in drill.runs if r.student in ("resnet14", "resnet8")]
    local = Store(drill.folder / "local")
    settings = WorkSettings(
        results=local.folder,
        data=drill.folder / "data",
        execution=ExecutionRequest(device="cpu", precision="fp32", threads=2, student_threads=1),
    )
    for pack in make_plan(runs, local).packs:
        assert {o.status for o in work(work_order(pack.runs, settings))} == {"done"}
    drill.expected = {r.key: outcome(local, r) for r in runs}
    drill.submit(runs, cpus=2)
    drill.wait()
    drill.check(runs)
    assert {(drill.store.record(r.key) or {})["student_threads"] for r in runs} == {1}


def test_a_teacher_that_fails(cluster: Path, drill: Drill) -> None:
    broken = drill.store.path(drill.teacher().key) / "checkpoint.pt"
    broken.mkdir(parents=True)  # cannot be read; a damaged file would be set aside
    drill.submit()
    drill.wait()
    students = [r for r in drill.runs if r.teacher == "resnet14"]
    assert drill.store.state(drill.teacher().key) == "failed"
    for run in students:
        assert f"needs {drill.teacher().key}, which is failed" in drill.store.failure(run.key)["reason"]  # type: ignore[index]
    others = [r for r in drill.runs if r not in students and r != drill.teacher()]
    drill.check(others)
    assert drill.submit().jobs == 0, "failed runs wait for retry"
    broken.rmdir()
    drill.done("retry")
    assert drill.submit().runs == len(students) + 1
    drill.wait()
    drill.check()


def test_arrays_are_split_at_the_clusters_limit(small_arrays: Path, drill: Drill) -> None:
    plain = [r for r in drill.runs if r.teacher == "none"]
    drill.submit(plain)
    drill.wait()
    report = drill.submit(max_pack=1)
    assert [len(a.packs) for a in report.arrays] == [5, 1]
    drill.wait()
    drill.check()


def test_two_submit_at_the_same_moment(cluster: Path, drill: Drill) -> None:
    both = [drill.command("submit", "--cluster", str(drill.cluster_file())) for _ in range(2)]
    outputs = [p.communicate() for p in both]
    assert [p.returncode for p in both] == [0, 0], outputs
    assert sorted(
        ("10 runs in 3 jobs submitted" in out, "nothing to submit" in out) for out, _ in outputs
    ) == [
        (False, True),
        (True, False),
    ], outputs
    drill.wait()
    drill.check()


def test_the_lock_of_a_dead_submitter(cluster: Path, drill: Drill) -> None:
    """Also: nothing is submitted twice after a submitter died between sbatch and recording the job id."""
    subprocess.run(["scontrol", "update", "partitionname=gpu", "state=down"], check=True)
    try:
        report = drill.submit()
        for path in (drill.store.folder / ".slurm/arrays").glob("*.json"):
            path.write_text(path.read_text().replace(f'"job": "{report.arrays[0].array.job}"', '"job": ""'))
        code = (
            "import sys, os; from pathlib import Path; from results.claims import Claim; "
            "Claim.take(Path(sys.argv[1])); os._exit(9)"
        )
        subprocess.run([sys.executable, "-c", code, drill.store.folder / ".slurm/lock"], cwd=ROOT)
        assert (drill.store.folder / ".slurm/lock").exists()
        assert drill.submit().jobs == 0
        assert sorted(cancel(drill.store, {r.key for r in drill.runs}).ids) == sorted(
            i for a in report.arrays for i in a.array.ids()
        )
        assert not (drill.store.folder / ".slurm/lock").exists()
    finally:
        subprocess.run(["scontrol", "update", "partitionname=gpu", "state=up"], check=True)


def test_without_accounting(unaccounted: Path, drill: Drill) -> None:
    drill.submit(setup=drill.slow_disk(0.15))
    drill.mid_run(drill.teacher())
    assert commands.sacct(["1"]) == {}
    assert drill.submit().states == {"running": 4, "queued": 6}
    rows = {(r["pair"], r["method"]): r for r in json.loads(drill.done("status", "--json"))["rows"]}
    live = rows["none:resnet14", "plain"]["live"][0]
    assert (
        live["epoch"] >= 2
        and live["epochs"] == 6
        and live["node"] == "node1"
        and live["job"] == "1"
        and live["top1"] is not None
    )
    assert (
        rows["wrn_16_2:wrn_16_1", "sp"]["queued"] == 1
        and "PENDING (Dependency)" in rows["wrn_16_2:wrn_16_1", "sp"]["jobs"][0]
    )
    drill.wait()
    drill.check()
    assert "last submitted as job 1;" in drill.done("logs", drill.teacher().key, table=False)


def test_cancel_and_submit_again(cluster: Path, drill: Drill) -> None:
    drill.submit(setup=drill.slow_disk())
    drill.mid_run(drill.teacher())
    assert len(cancel(drill.store, {r.key for r in drill.runs}).ids) == 3
    drill.wait()
    assert drill.store.state(drill.teacher().key) == "started", "a cancelled job is not restarted"
    drill.submit()
    drill.wait()
    drill.check()
    assert drill.teacher() in drill.resumed()


def test_cancel_keeps_what_others_need(cluster: Path, drill: Drill) -> None:
    subprocess.run(["scontrol", "update", "partitionname=gpu", "state=down"], check=True)
    try:
        teachers = [r for r in drill.runs if r.teacher == "none"]
        drill.submit(teachers, table="other")
        report = drill.submit()
        assert report.arrays[0].array.depends, "students wait for the teachers' job of an earlier submission"
        cancelled = cancel(drill.store, {r.key for r in teachers})
        assert cancelled.ids == () and len(cancelled.kept) == 1 and "waits for it" in cancelled.kept[0][1]
        assert len(cancel(drill.store, {r.key for r in drill.runs}).ids) == 3
    finally:
        subprocess.run(["scontrol", "update", "partitionname=gpu", "state=up"], check=True)


def test_a_limit_withholds_packs(cluster: Path, drill: Drill) -> None:
    report = drill.submit(max_submit=1)
    assert report.jobs == 1 and len(report.withheld) == 2 and "max_submit 1" in report.withheld_reason
    assert drill.submit(max_submit=1).jobs == 0
    drill.wait()
    assert drill.submit().jobs == 2
    drill.wait()
    drill.check()


def test_source_edited_while_jobs_are_queued(cluster: Path, drill: Drill) -> None:
    copy = drill.folder / "checkout"
    for path in snapshot.code_files():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, copy / path)
    git = ["git", "-C", str(copy), "-c", "user.name=drill", "-c", "user.email=drill@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "as submitted"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    subprocess.run(["scontrol", "update", "partitionname=gpu", "state=down"], check=True)
    try:
        drill.done("submit", "--cluster", str(drill.cluster_file()), cwd=copy)
        (copy / "benchmark/training/pack.py").write_text("raise RuntimeError('edited after the submission')")
        assert len(registry.queued_runs(drill.store.folder)) == len(drill.runs)
    finally:
        subprocess.run(["scontrol", "update", "partitionname=gpu", "state=up"], check=True)
    drill.wait()
    drill.check()
    assert {str((drill.store.record(r.key) or {})["git"]) for r in drill.runs} == {
        str({"commit": commit, "dirty": False})
    }
