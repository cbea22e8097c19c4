"""The stages of a run: a method's initialisation stages, then the main stage; and the best epoch of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from benchmark.methods import Needs

MAIN = "main"
"""Name of the main stage."""


@dataclass(frozen=True)
class Stage:
    """A part of a run's training: the main stage, or a method's initialisation stage before it."""

    name: str
    """`main`, or `init:METHOD`, as written in curves."""
    epochs: int
    needs: Needs
    """What the stage reads."""
    method: str = ""
    """The method whose initialisation stage it is; empty for the main stage."""

    @property
    def is_main(self) -> bool:
        return not self.method


class NextEpoch(NamedTuple):
    """An epoch that a run trains next. Runs of a pack whose next epoch is equal train it together.

    The smallest is trained first.
    """

    rank: int
    """The index of the stage; 10^6 for the main stage."""
    stream: str
    """The name of the batch stream.

    Each initialisation stage has its own, so that all runs see the same batches in the main stage.
    """
    epoch: int
    """Counted from 1 in each stage."""


@dataclass
class Best:
    """The epoch of the main stage with the best top-1 so far (percent of the test set); epoch 0: none yet."""

    epoch: int = 0
    top1: float = -1.0
    weights: str = ""
    """Hash of the weights in best.pt; empty if an older version wrote it."""
