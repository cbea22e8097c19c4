"""A job that only waits, and imports nothing heavy: for measuring the cluster (`python -m slurm.scale`)."""

from __future__ import annotations

import time
from dataclasses import dataclass

from submitit.helpers import DelayedSubmission


@dataclass(frozen=True)
class Sleep:
    """A job that only waits: for measuring the cluster (`python -m slurm.scale`)."""

    seconds: float

    def __call__(self) -> str:
        time.sleep(self.seconds)
        return "done"

    def checkpoint(self) -> DelayedSubmission:
        return DelayedSubmission(self)
