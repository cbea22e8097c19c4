"""What a job does: train the pack of a work order. All state is on disk, so that a job can be killed and started again at any time."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass

from submitit.helpers import DelayedSubmission

from benchmark.work.order import work
from benchmark.work.progress import reporter
from results.files import STALE_SECONDS


class JobFailed(RuntimeError):
    """Some run of the pack has no result; the reasons lie beside the runs. Makes the job's state FAILED."""


@dataclass(frozen=True)
class PackJob:
    """A pack as a job. order: a work order (`benchmark.work.order.work_order`). patience: seconds to wait for runs that someone else holds."""

    order: str
    patience: float = 1.5 * STALE_SECONDS

    def __call__(self) -> list[tuple[str, str, str]]:
        """Trains the pack; returns `(key, status, reason)` of each run.

        A job that starts again on another node after its node died finds its own claim, as fresh as the last heartbeat: it waits until
        that is stale. A claim that goes on beating has a living holder, and the run is his.
        """
        order, until = json.loads(self.order), time.monotonic() + self.patience
        ended: dict[str, tuple[str, str, str]] = {}
        print(
            f"pack of {len(order['runs'])}; job {os.environ.get('SLURM_JOB_ID', '?')} on {os.environ.get('SLURMD_NODENAME', '?')}, "
            f"start {int(os.environ.get('SLURM_RESTART_COUNT') or 0) + 1}",
            flush=True,
        )
        while True:
            outcomes = work(json.dumps(order), reporter())
            ended |= {o.run.key: (o.run.key, o.status, o.reason) for o in outcomes}
            busy = {o.run.key for o in outcomes if o.status == "busy"}
            if not busy or time.monotonic() > until:
                break
            order["runs"] = [o for o in order["runs"] if o["key"] in busy]
            time.sleep(min(5.0, self.patience / 10))
        for key, status, reason in ended.values():
            print(f"{status}: {key}{': ' + reason if reason else ''}", flush=True)
        bad = [e for e in ended.values() if e[1] in ("failed", "blocked", "waiting")]
        if bad:
            raise JobFailed(
                f"{len(bad)} of {len(ended)} runs have no result; the first: {bad[0][0]}: {bad[0][2]}"
            )
        return list(ended.values())

    def checkpoint(self) -> DelayedSubmission:
        """Called at a time limit or a preemption: the same again."""
        return DelayedSubmission(self)
