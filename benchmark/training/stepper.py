"""The interface of steppers, which train a pack for an epoch step by step, and the eager one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from benchmark.data.stream import Stream
from benchmark.training.lockstep import Lockstep, OnFailure


class Stepper(ABC):
    """Steps the runs of a pack through its epochs. A pack keeps its stepper to the end."""

    @abstractmethod
    def steps(
        self,
        lockstep: Lockstep,
        stream: Stream,
        stage: str,
        epoch: int,
        on_failure: OnFailure | None = None,
    ) -> Iterator[tuple[int, int]]:
        """Train one epoch, one step at each `next`. stage: the name of the batch stream.

        Yields, after each step, the number of images of the batch and the number of runs that have not
        failed. An error of a run ends that run alone and is passed to `on_failure`; without it, the error
        is raised.
        """

    @abstractmethod
    def synchronise(self) -> None:
        """Wait until the steps so far are done."""


class EagerStepper(Stepper):
    """Steps the runs operator by operator."""

    def steps(
        self,
        lockstep: Lockstep,
        stream: Stream,
        stage: str,
        epoch: int,
        on_failure: OnFailure | None = None,
    ) -> Iterator[tuple[int, int]]:
        for batch in lockstep.batches(stream, stage, epoch):
            yield len(batch.labels), lockstep.step(batch, on_failure)

    def synchronise(self) -> None:
        """Do nothing: reading a result waits for its operators anyway."""
