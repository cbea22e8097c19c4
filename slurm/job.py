"""The job: train the pack of a work order.

All state is on disk, so a job can be killed and restarted at any time.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from submitit.helpers import DelayedSubmission

from benchmark.training.execution import device_kind
from benchmark.training.processes import Joined, ProcessLost, joined
from benchmark.training.reporter import Status
from benchmark.work.order import follow, settings_from_json, work
from benchmark.work.progress import reporter
from results.holders import STALE_SECONDS
from slurm import notices
from slurm.rendezvous import launch_variables


class JobFailed(RuntimeError):
    """Some runs of the pack have no result; their folders hold the reasons. Makes the job FAILED."""


@dataclass(frozen=True)
class PackJob:
    """A pack as a job. submitit pickles it, and calls it on the node."""

    order: str
    """The work order as JSON (`benchmark.work.order.work_order`)."""
    patience: float = 1.5 * STALE_SECONDS
    """Seconds to wait for runs that another worker holds."""
    processes: int = 1
    """Number of processes that train the pack together; srun starts them, and each makes this call."""

    def __call__(self) -> list[tuple[str, str, str]]:
        """Train the pack and return `(key, status, reason)` of each run; nothing in a process that follows.

        Raises `JobFailed`, also if another process of the job has ended.
        """
        if self.processes == 1:
            return self._lead()
        settings = settings_from_json(json.loads(self.order)["settings"])
        try:
            with joined(device_kind(settings.execution.device), launch_variables(os.environ)) as team:
                if isinstance(team, Joined) and not team.leads:
                    follow(settings, team)
                    return []
                return self._lead()
        except ProcessLost as error:
            raise JobFailed(str(error)) from error

    def _lead(self) -> list[tuple[str, str, str]]:
        """Train the pack, have the user told if a table has ended, and return what `__call__` returns.

        A job that is restarted after its node died finds the claim of its first start, as fresh as the last
        heartbeat. It therefore waits until the claim is stale. A claim whose heartbeat continues has a living
        holder, and the run is left to it.
        """
        keys = [run["key"] for run in json.loads(self.order)["runs"]]
        results = Path(json.loads(self.order)["settings"]["results"])
        try:
            ended = self._train()
        except Exception as error:
            notices.after_job(results, keys, f"{type(error).__name__}: {error}", note=print)
            raise
        notices.after_job(results, keys, "", note=print)
        without_result = [
            e for e in ended.values() if e[1] in (Status.FAILED, Status.BLOCKED, Status.WAITING)
        ]
        if without_result:
            key, _, reason = without_result[0]
            raise JobFailed(
                f"{len(without_result)} of {len(ended)} runs have no result; the first: {key}: {reason}"
            )
        return list(ended.values())

    def _train(self) -> dict[str, tuple[str, str, str]]:
        """Train the pack, and return `(key, status, reason)` of each run by its key."""
        order, until = json.loads(self.order), time.monotonic() + self.patience
        ended: dict[str, tuple[str, str, str]] = {}
        job, node = (os.environ.get(name, "?") for name in ("SLURM_JOB_ID", "SLURMD_NODENAME"))
        start = int(os.environ.get("SLURM_RESTART_COUNT") or 0) + 1
        print(f"pack of {len(order['runs'])}; job {job} on {node}, start {start}", flush=True)
        while True:
            outcomes = work(json.dumps(order), reporter())
            ended |= {o.run.key: (o.run.key, o.status, o.reason) for o in outcomes}
            busy = {o.run.key for o in outcomes if o.status == Status.BUSY}
            if not busy or time.monotonic() > until:
                break
            order["runs"] = [run for run in order["runs"] if run["key"] in busy]
            time.sleep(min(5.0, self.patience / 10))
        for key, status, reason in ended.values():
            print(f"{status}: {key}{': ' + reason if reason else ''}", flush=True)
        return ended

    def checkpoint(self) -> DelayedSubmission:
        """Return what to submit after a timeout or a preemption: the same job (submitit calls this)."""
        return DelayedSubmission(self)
