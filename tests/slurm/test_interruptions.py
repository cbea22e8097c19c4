"""Drills: a table is submitted and its jobs are interrupted; the table must not change."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

from slurm_kit import Drill, wait_for

from slurm import commands


def test_requeue(cluster: Path, drill: Drill) -> None:
    drill.submit(setup=drill.slow_disk())
    drill.mid_run(drill.teacher())
    subprocess.run(["scontrol", "requeue", drill.job_of(drill.teacher()).id], check=True)
    drill.wait()
    drill.check()
    assert drill.teacher() in drill.resumed()


def test_preemption(cluster: Path, drill: Drill) -> None:
    drill.submit(partition="spare", setup=drill.slow_disk())
    drill.mid_run(drill.teacher())
    subprocess.run(
        ["sbatch", "-p", "gpu", "-N", "2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2"], check=True
    )
    drill.wait()
    drill.check()
    assert drill.teacher() in drill.resumed()
    assert "Calling checkpoint method" in drill.output()


def test_time_limit(cluster: Path, drill: Drill) -> None:
    """A one-minute job is signalled within 30 seconds; the slow disk makes the first pack take longer.

    Slurm checks time limits every 30 s and signals up to a minute early. A job that is signalled before its
    first checkpoint starts from the beginning, and is slow again.
    """
    drill.submit(time_minutes=1, setup=drill.slow_disk(0.25, until_checkpoint=True))
    drill.wait(420)
    drill.check()
    assert drill.resumed()
    assert "Requeued job" in drill.output() or "was killed (exit code 140)" in drill.output()


def test_kill_9(cluster: Path, drill: Drill) -> None:
    drill.submit(setup=drill.slow_disk())
    os.kill(drill.mid_run(drill.teacher())["pid"], signal.SIGKILL)
    drill.wait()
    drill.check()
    assert drill.teacher() in drill.resumed()
    assert "was killed (exit code 137)" in drill.output()


def test_kill_9_without_restarts(cluster: Path, drill: Drill) -> None:
    """Without restarts, `status` names the job that ended, and the next `submit` continues the run."""
    drill.submit(max_kills=0, setup=drill.slow_disk())
    os.kill(drill.mid_run(drill.teacher())["pid"], signal.SIGKILL)
    drill.wait()
    assert drill.store.state(drill.teacher().key) == "started"
    students = [r for r in drill.runs if r.teacher == "resnet14"]
    assert all(drill.store.state(r.key) == "absent" for r in students), (
        "they wait for their teacher and have not failed"
    )
    lost = json.loads(drill.done("status", "--json"))["lost_jobs"]
    assert drill.teacher().key in {k for job in lost for k in job["keys"]} and "FAILED" in lost[0]["says"], (
        lost
    )
    assert drill.submit().runs == len(drill.runs), "the students only waited for their teacher"
    drill.wait()
    drill.check()
    assert drill.teacher() in drill.resumed()


def test_node_down(cluster: Path, drill: Drill) -> None:
    drill.submit(setup=drill.slow_disk())
    drill.mid_run(drill.teacher())
    node = drill.job_of(drill.teacher()).node
    try:
        subprocess.run(["scontrol", "update", f"nodename={node}", "state=down", "reason=drill"], check=True)
        drill.wait()
    finally:
        subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=True)
    drill.check()
    assert drill.teacher() in drill.resumed()
    assert (drill.store.record(drill.teacher().key) or {})["node"] != node
    wait_for(
        "the node", lambda: node in commands.call("sinfo", "-h", "-N", "-p", "gpu", "-t", "idle", "-o", "%N")
    )
