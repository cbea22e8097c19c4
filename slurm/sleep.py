"""A job that only waits and imports nothing heavy, for `python -m slurm.scale`."""

from __future__ import annotations

import time
from dataclasses import dataclass

from submitit.helpers import DelayedSubmission


@dataclass(frozen=True)
class Sleep:
    """Sleep for some seconds."""

    seconds: float

    def __call__(self) -> str:
        time.sleep(self.seconds)
        return "done"

    def checkpoint(self) -> DelayedSubmission:
        """Return what to submit after a timeout or a preemption: the same job."""
        return DelayedSubmission(self)
