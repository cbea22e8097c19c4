"""The files of a run in a process that follows: it writes none, because process 0 does (processes.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.training.active_run import ActiveRun
from benchmark.training.evaluate import Score
from benchmark.training.reporter import Status
from benchmark.training.run_files import PackInfo, RunFiles


class FollowerFiles(RunFiles):
    """Keeps an `ActiveRun` as `RunFiles` does, and writes nothing."""

    def begin(self, active: ActiveRun, pack: PackInfo) -> None:
        pass

    def log(self, text: str) -> None:
        pass

    def write_epoch(self, active: ActiveRun, row: Mapping[str, Any]) -> None:
        active.curve.append(dict(row))

    def write_progress(
        self, active: ActiveRun, epochs_done: float, images_per_second: float, train_images: int
    ) -> None:
        pass

    def finish(self, active: ActiveRun, pack: PackInfo, keep_weights: bool) -> dict[str, Any]:
        return {"status": str(Status.DIVERGED if active.diverged else Status.DONE), "reason": None}

    def write_imported(
        self,
        pack: PackInfo,
        score: Score,
        per_class: Mapping[str, float],
        extra: Mapping[str, Any],
        seconds: float,
    ) -> None:
        raise NotImplementedError("process 0 alone evaluates imported checkpoints")

    def fail(self, error: BaseException) -> str:
        return str(error)

    def block(self, reason: str) -> None:
        pass
