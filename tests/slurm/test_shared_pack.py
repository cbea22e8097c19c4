"""Drill: a job whose two processes, on two nodes, share one pack; one of them is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from slurm_kit import Drill


def process_of(job: str, number: int) -> int:
    """Return the pid of a job's process of this number, which computes."""
    wanted = {f"SLURM_JOB_ID={job}", f"SLURM_PROCID={number}", "SUBMITIT_EXECUTOR=slurm", "SLURM_STEP_ID=0"}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = set((folder / "environ").read_text(errors="replace").split("\0"))
            command = (folder / "cmdline").read_text(errors="replace")
        except OSError:
            continue
        if wanted <= environment and "submitit" in command:
            return int(folder.name)
    raise AssertionError(f"job {job} has no process {number}")


def test_a_process_of_two_is_killed_and_the_job_goes_on(cluster: Path, drill: Drill) -> None:
    run = drill.teacher()
    # the nodes of the test cluster have names that lead nowhere
    setup = [*drill.slow_disk(0.3), "export MASTER_ADDR=127.0.0.1"]
    drill.submit(only=[run], nodes=2, sync_norms=True, setup=setup)
    drill.mid_run(run)
    os.kill(process_of(drill.job_of(run).id, 1), signal.SIGKILL)
    drill.wait()
    record = drill.store.record(run.key)
    assert record is not None, drill.output()
    assert record["resumes"] == 1 and record["epochs"] == 6
    assert (record["processes"], record["sync_norms"]) == (2, True)
    assert [(part["from"], part["to"]) for part in record["parts"]] == [(1, 6)]
    assert drill.log(run).count(" epoch=") == 6, "no epoch was trained twice"
    assert drill.store.holder(run.key) is None
    curve = drill.store.curve(run.key)
    assert curve is not None
    # the first epoch, before rounding adds up
    expected = float(drill.expected[run.key]["curve"].splitlines()[1].split(",")[4])
    assert curve["train_loss"][0] == pytest.approx(expected, rel=1e-2)
