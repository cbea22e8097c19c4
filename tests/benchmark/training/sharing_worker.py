"""One of two processes that train packs together: `sharing_worker.py FOLDER`, with torchrun's variables.

Process 1 kills itself in the second epoch of the last pack.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[3])]

import torch
from training_kit import FP32, small_run

from benchmark.spec.runs import Run
from benchmark.training import processes
from benchmark.training.lockstep import Lockstep
from benchmark.training.options import TrainingOptions
from benchmark.training.pack import train_pack
from benchmark.work.order import WorkSettings, follow
from results.store import Store

SIZES = {"recipe__train_images": 45, "recipe__test_images": 41, "recipe__epochs": 2}
"""Batches of 16, 16 and 13 images: the last one has 6 rows in one process and 7 in the other."""
METHODS = ("kd", "at", "sp", "crd", "dlkd", "stkd", "cskd")
PLAIN = {**SIZES, "recipe__train_images": 19, "recipe__epochs": 1}
"""Batches of 16 and of 3 images: each process computes the last one alone."""


def synced_runs() -> list[Run]:
    return [small_run(m, seed=0, **SIZES) for m in METHODS]


def apart_run() -> Run:
    return small_run("plain", seed=3, **PLAIN)


def killed_run() -> Run:
    return small_run("kd", seed=2, **SIZES)


def die_in_epoch_2() -> None:
    """Replace the step so that the process is killed in the second step of the second epoch."""
    step, left = Lockstep.step, [5]

    def counted(self: Lockstep, *args: object) -> int:
        left[0] -= self.active_runs[0].run.key == killed_run().key
        if left[0] == 0:
            os.kill(os.getpid(), 9)
        return step(self, *args)  # type: ignore[arg-type]

    Lockstep.step = counted  # type: ignore[method-assign, assignment]


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    try:
        with processes.joined("cpu") as team:
            assert isinstance(team, processes.Joined)
            if not team.leads:
                die_in_epoch_2()
                follow(WorkSettings(results=folder, data=folder), team)
            else:
                for runs, sync in ((synced_runs(), True), ([apart_run()], False), ([killed_run()], True)):
                    options = TrainingOptions(FP32.shared_by(team, sync_norms=sync))
                    train_pack(runs, Store(folder), options)
    except processes.ProcessLost as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
