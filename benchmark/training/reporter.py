"""How a run of a pack ended, and the interface through which a pack reports its progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from benchmark.spec.runs import Run


class Status(StrEnum):
    """How a run of a pack ended, or why it was not trained."""

    DONE = "done"
    """Trained to its last epoch; it has a record."""
    DIVERGED = "diverged"
    """Its loss became NaN or infinite; it has a record."""
    STOPPED = "stopped"
    """Stopped at the requested epoch (`until`); it has a checkpoint."""
    FAILED = "failed"
    """Ended by an error, which is stored beside the run."""
    BLOCKED = "blocked"
    """A run that it needs has no result."""
    WAITING = "waiting"
    """A run that it needs is still being trained, or was stopped. The same command goes on later."""
    BUSY = "busy"
    """Another process trains it."""


@dataclass(frozen=True)
class Outcome:
    """How one run of a pack ended."""

    run: Run
    status: Status
    reason: str = ""


class Reporter:
    """Receives the progress of a pack. The base class ignores it; see benchmark/work/progress.py."""

    def plan(self, packs: Sequence[Sequence[Run]], device: str) -> None:
        """Called before the first pack, with the runs of all packs. device: `cuda` or `cpu`.

        Not called where the packs are trained by other processes.
        """

    def begin(self, pack: Sequence[Run], steps_total: int, steps_done: int) -> None:
        """Called when the pack begins. Steps are summed over its runs; if runs resume, some are done."""

    def step(self, stage: str, epoch: int, steps: int, images: int) -> None:
        """Called after each batch: `steps` student steps, `images` student-images in total.

        epoch: 0 for a run that measures, whose steps are percent of its work.
        """

    def epoch(self, run: Run, row: Mapping[str, Any]) -> None:
        """Called when a run has finished an epoch; `row` is the epoch's row of its curve."""

    def outcome(self, run: Run, outcome: Outcome) -> None:
        """Called when a run has ended."""

    def note(self, text: str) -> None:
        """Called with a line for the user."""

    def end(self) -> None:
        """Called when the pack has ended or was interrupted."""
