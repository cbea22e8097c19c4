"""A real one-machine Slurm for the tests, and what the drills share: a small table and its check."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import models
from benchmark.spec import matrix
from benchmark.spec.plan import closure
from benchmark.spec.runs import Run
from benchmark.work.order import WorkSettings
from results.store import Store
from slurm import commands, registry
from slurm.cluster import load_cluster
from slurm.submit import SubmissionReport, submit_runs

ROOT = Path(__file__).resolve().parent.parent.parent
SETTINGS = ("recipe.epochs=6", "recipe.train_images=64", "recipe.test_images=50")
TABLE = """
title = "Two pairs, three methods"
paper = "crd"
table = "drill"
dataset = "digits"
protocol = "crd"
seeds = 1
columns = ["resnet14:resnet8", "wrn_16_2:wrn_16_1"]
rows = [
    { label = "Teacher", method = "teacher" },
    { label = "Student", method = "student" },
    { label = "KD", method = "kd" },
    { label = "AT", method = "at" },
    { label = "SP", method = "sp" },
]
"""


def wait_for(what: str, true: Callable[[], Any], seconds: float = 240) -> Any:
    """Wait until `true()` returns something true, and return it."""
    until = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < until, f"waited in vain for {what}\n{commands.call('squeue', '-a')}"
        time.sleep(0.2)
    return value


@contextmanager
def cluster_of_nodes(port: int, **options: str) -> Iterator[Path]:
    """Start a test cluster and set SLURM_CONF to it.

    Its folder is not a `tmp_path`: munge refuses folders that other users cannot enter.
    """
    before = os.environ.get("SLURM_CONF")
    for attempt in (1, 2):
        folder = Path(tempfile.mkdtemp(prefix="slurm-lab-"))
        folder.chmod(0o755)
        env = {**os.environ, "LAB_PORT": str(port), **options}
        try:
            done = subprocess.run(
                [ROOT / "slurm/lab.sh", "start", folder],
                env=env,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            if done.returncode == 0:
                os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
                yield folder
                return
            # happened once in CI: a daemon did not start while another cluster was starting
            output = f"exit code {done.returncode}: {done.stdout}"
            assert attempt == 1, output
            warnings.warn(f"a cluster did not start; trying once more:\n{output}", stacklevel=2)
        finally:
            subprocess.run(
                [ROOT / "slurm/lab.sh", "stop", folder],
                env=env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            os.environ.pop("SLURM_CONF", None)
            if before is not None:
                os.environ["SLURM_CONF"] = before
            shutil.rmtree(folder, ignore_errors=True)


def drill_runs(folder: Path) -> list[Run]:
    """Return all runs of the small table, including the teachers."""
    path = folder / "drill.toml"
    path.write_text(TABLE, encoding="utf-8")
    return closure(
        matrix.expand(matrix.load_table(str(path)), "quick", overrides=matrix.parse_overrides(SETTINGS)).runs
    )


def outcome(store: Store, run: Run) -> dict[str, Any]:
    """Return what must not depend on where a run was trained: hash of its weights, curve, scores."""
    record = store.record(run.key)
    assert record is not None and record["status"] == "done", (
        f"{run.key}: {store.state(run.key)} {store.failure(run.key)}"
    )
    weights = torch.load(store.path(run.key) / "last.pt", weights_only=True)["model"]
    curve = store.curve(run.key)
    assert curve is not None
    numbers = {
        k: record[k]
        for k in ("top1_last", "top1_best", "best_epoch", "test_loss_last", "threads", "precision")
    }
    return {
        "weights": models.weights_hash(weights),
        "curve": curve.drop(columns="seconds").to_csv(),
        **numbers,
    }


@dataclass
class Drill:
    """The small table, submitted into a temporary results folder."""

    folder: Path
    runs: list[Run]
    expected: dict[str, dict[str, Any]]
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        self.store = Store(self.folder / "results")

    def cluster_file(self, **changes: Any) -> Path:
        """Write a copy of lab.toml with some fields changed."""
        lines = (ROOT / "slurm/clusters/lab.toml").read_text(encoding="utf-8").splitlines()
        lines = [line for line in lines if line.partition(" =")[0] not in changes]
        lines += [f"{k} = {json.dumps(v)}" for k, v in changes.items()]
        path = self.folder / "drill-cluster.toml"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def slow_disk(self, seconds: float = 0.05, until_checkpoint: bool = False) -> list[str]:
        """Return setup lines that make fsync slow in the single job of plain trainings, at its first start.

        This leaves time to interrupt the job without changing its numbers. With `until_checkpoint`, every
        start is slow until the first checkpoint exists.
        """
        site = self.folder / "slow"
        site.mkdir(exist_ok=True)
        text = (
            f"import os, time\nfsync = os.fsync\nos.fsync = lambda f: (time.sleep({seconds}), fsync(f))[1]\n"
        )
        (site / "sitecustomize.py").write_text(text, encoding="utf-8")
        not_slow_if = "$SLURM_RESTART_COUNT"
        if until_checkpoint:
            not_slow_if = f"$(find {self.store.folder} -name checkpoint.pt)"
        return [f'[ -n "$SLURM_ARRAY_TASK_ID{not_slow_if}" ] || export PYTHONPATH={site}']

    def submit(
        self, only: list[Run] | None = None, max_pack: int = 0, table: str = "drill", **changes: Any
    ) -> SubmissionReport:
        settings = WorkSettings(results=self.store.folder, data=self.folder / "data")
        return submit_runs(
            only or self.runs,
            table,
            self.store,
            settings,
            load_cluster(str(self.cluster_file(**changes))),
            max_pack=max_pack,
        )

    def command(self, verb: str, *more: str, cwd: Path = ROOT, table: bool = True) -> subprocess.Popen[str]:
        """Start `python -m benchmark VERB` for the small table in another process."""
        settings = [word for s in SETTINGS for word in ("--set", s)]
        chosen = [str(self.folder / "drill.toml"), "--profile", "quick", *settings] if table else []
        line = [sys.executable, "-m", "benchmark", verb, *chosen, "--results", str(self.store.folder), *more]
        return subprocess.Popen(line, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def done(self, verb: str, *more: str, cwd: Path = ROOT, table: bool = True) -> str:
        """Run a command and return what it printed; it must exit with 0."""
        process = self.command(verb, *more, cwd=cwd, table=table)
        out, err = process.communicate()
        assert process.returncode == 0, err
        return out

    def teacher(self, network: str = "resnet14") -> Run:
        return next(r for r in self.runs if r.student == network)

    def log(self, run: Run) -> str:
        path = self.store.path(run.key) / "log.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def mid_run(self, run: Run, epochs: int = 2) -> dict[str, Any]:
        """Wait until the run has finished some epochs but not all; return who holds it."""
        wait_for(f"{epochs} epochs of {run.key}", lambda: self.log(run).count(" epoch=") >= epochs)
        holder = self.store.holder(run.key)
        assert holder is not None, "the run was over before it could be interrupted"
        return holder

    def job_of(self, run: Run) -> commands.QueuedJob:
        return registry.queued_runs(self.store.folder)[run.key].job

    def wait(self, seconds: float = 240) -> None:
        """Wait until no job is in the queue."""
        wait_for("the end of the jobs", lambda: not registry.queued_runs(self.store.folder), seconds)

    def output(self) -> str:
        """Return what all jobs printed."""
        files = sorted((self.store.folder / ".slurm/jobs").rglob("*_log.*"))
        return "\n".join(f"== {f.name}\n{f.read_text(encoding='utf-8', errors='replace')}" for f in files)

    def check(self, runs: list[Run] | None = None) -> None:
        """Check that no epoch was trained twice and that the table equals the local one bit for bit."""
        for run in runs or self.runs:
            assert outcome(self.store, run) == self.expected[run.key], run.key
            epochs = re.findall(r"stage=main epoch=(\d+)", self.log(run))
            assert epochs == sorted(set(epochs)), f"{run.key} trained an epoch twice:\n{self.log(run)}"
            assert self.store.holder(run.key) is None

    def resumed(self) -> list[Run]:
        """Return the runs that continued from a checkpoint."""
        resumed = [r for r in self.runs if (self.store.record(r.key) or {}).get("resumes")]
        for run in resumed:
            assert re.search(r"resumed at stage main, epoch [2-9]", self.log(run)), self.log(run)
        return resumed


def local_settings(settings: WorkSettings) -> WorkSettings:
    """Return the settings with the threads, device and precision of `lab.toml`."""
    return load_cluster("lab").work_settings(settings)
