"""A pack's progress counts the epochs that this command trains, so that the time left is right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training_kit import small_run, train

from benchmark.spec.runs import Run
from benchmark.training.reporter import Reporter


class Totals(Reporter):
    """Keeps the numbers of steps with which packs begin."""

    def __init__(self) -> None:
        self.totals: list[tuple[int, int]] = []

    def begin(self, pack: Sequence[Run], steps_total: int, steps_done: int) -> None:
        self.totals.append((steps_total, steps_done))


def test_epochs_after_until_are_not_counted(tmp_path: Path) -> None:
    run = small_run("plain", recipe__epochs=3, recipe__batch_size=24)  # two steps an epoch
    totals = Totals()
    for until in (1, 2, 1, None):
        train([run], tmp_path, until=until, reporter=totals)
    assert totals.totals == [(2, 0), (4, 2), (4, 4), (6, 4)]
