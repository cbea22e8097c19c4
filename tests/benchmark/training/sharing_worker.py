"""One of two processes that train packs together: `sharing_worker.py FOLDER`, with torchrun's variables.

Process 1 kills itself in the second epoch of the last pack.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[3])]

import torch
from torch import Tensor
from training_kit import FP32

from benchmark.data.views import RawBatch
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run
from benchmark.training import active_run, lockstep, processes
from benchmark.training.lockstep import Lockstep
from benchmark.training.options import TrainingOptions
from benchmark.training.pack import train_pack
from benchmark.work.order import WorkSettings, follow
from models import Features, Network
from models.features import joined
from results.store import Store

SIZES = {
    "recipe.batch_size": 8,
    "recipe.train_images": 13,
    "recipe.test_images": 11,
    "recipe.epochs": 1,
}
"""Batches of 8 and 5 images: of the last one, a process has 2 rows and the other 3."""
METHODS = ("kd", "at", "sp", "crd", "dlkd", "stkd")
PLAIN = {**SIZES, "recipe.train_images": 11}
"""Batches of 8 and of 3 images: each process computes the last one alone."""


def run_of(method: str, sizes: Mapping[str, object] = SIZES, seed: int = 0, teacher: str = "resnet8") -> Run:
    overrides = tuple(sorted(sizes.items()))
    return Resolver().run(Request("digits", "crd", "quick", teacher, "resnet8", method, overrides), seed)


def synced_runs() -> list[Run]:
    """Runs of one pack; STKD's view mixes rows of the whole batch."""
    return [run_of(m) for m in METHODS]


def halves_run() -> Run:
    """A run whose batches have two parts, which are normalised apart."""
    return run_of("cskd", teacher="none")


def apart_run() -> Run:
    return run_of("plain", PLAIN, seed=3, teacher="none")


def killed_run() -> Run:
    return run_of("kd", {**SIZES, "recipe.epochs": 2}, seed=2)


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Train in float64, in which equal computations agree to far more digits than different ones."""

    def normalise(self: RawBatch, images: Tensor) -> Tensor:
        return ((images.double() / 255 - self.mean) / self.std).permute(0, 3, 1, 2)

    def features_of(net: Network, x: Tensor, parts: frozenset[str], first: int | None = None) -> Features:
        passes = [x] if first is None or first == len(x) else [x[:first], x[first:]]
        return joined([net.features(rows, preacts="preacts" in parts).select(parts) for rows in passes])

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.object(RawBatch, "normalise", normalise),
            mock.patch.object(active_run, "features_of", features_of),
            mock.patch.object(lockstep, "features_of", features_of),
        ):
            yield
    finally:
        torch.set_default_dtype(before)


def die_in_epoch_2() -> None:
    """Replace the step so that the process is killed in the second step of the second epoch."""
    step, left = Lockstep.step, [4]

    def counted(self: Lockstep, *args: object) -> int:
        left[0] -= self.active_runs[0].run.key == killed_run().key
        if left[0] == 0:
            os.kill(os.getpid(), 9)
        return step(self, *args)  # type: ignore[arg-type]

    Lockstep.step = counted  # type: ignore[method-assign, assignment]


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    packs = (synced_runs(), True), ([halves_run()], True), ([apart_run()], False), ([killed_run()], True)
    try:
        with float64(), processes.joined("cpu") as team:
            assert isinstance(team, processes.Joined)
            if not team.leads:
                die_in_epoch_2()
                follow(WorkSettings(results=folder, data=folder), team)
            else:
                for runs, sync in packs:
                    options = TrainingOptions(FP32.shared_by(team, sync_norms=sync))
                    train_pack(runs, Store(folder), options)
    except processes.ProcessLost as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
