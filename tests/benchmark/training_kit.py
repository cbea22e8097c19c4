"""Small runs for tests of the trainer: digits, the smallest networks, two epochs of 128 images."""

from __future__ import annotations

import os
from pathlib import Path

import torch

import models
from benchmark import methods
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run
from benchmark.training.execution import Execution
from benchmark.training.options import TrainingOptions
from benchmark.training.pack import train_pack
from benchmark.training.reporter import Outcome, Reporter
from results.store import Store

SMALL = (("recipe.test_images", 100), ("recipe.train_images", 128))
FP32 = Execution("cpu", "fp32", threads=1)


def small_run(
    method: str = "kd",
    student: str = "resnet8",
    teacher: str = "resnet14",
    seed: int = 0,
    protocol: str = "crd",
    resolver: Resolver | None = None,
    **settings: object,
) -> Run:
    overrides = tuple(sorted((*SMALL, *((k.replace("__", "."), v) for k, v in settings.items()))))
    spec = methods.parse(method)
    teacher = teacher if spec.needs_teacher and not spec.self_teacher else "none"
    request = Request("digits", protocol, "quick", teacher, student, method, overrides)
    return (resolver or Resolver()).run(request, seed)


def train(runs: list[Run], folder: Path, execution: Execution = FP32, **options: object) -> list[Outcome]:
    """Train what the runs need, then the runs in one pack."""
    store = Store(folder)
    needed = {n.key: n for r in runs for h in r.needs_runs for n in (*h.needs_runs, h)}
    for run in needed.values():
        if not store.is_done(run.key):
            assert [o.status for o in train_pack([run], store, TrainingOptions(execution))] == ["done"]
    return train_pack(runs, store, TrainingOptions(execution, **options))  # type: ignore[arg-type]


def weights(run: Run, folder: Path, name: str = "last.pt") -> str:
    """Return a hash of the weights of a finished run."""
    path = folder / run.key / name
    if run.student == "none":
        state = torch.load(folder / run.key / "state.pt", weights_only=True)
        return models.weights_hash(state)
    return models.weights_hash(torch.load(path, weights_only=True)["model"])


def every_method() -> list[Run]:
    """Return a small run of every method and of two combinations."""
    names = [n for n in methods.names() if methods.get(n).trains_student and not methods.get(n).is_wrapper()]
    students = {"ab": "resnet14"}
    return [small_run(n, student=students.get(n, "resnet8")) for n in ("plain", *names, "crd+kd", "kd+ls")]


class KillAt(Reporter):
    """Kills the process at the n-th step of its pack, without a chance to clean up."""

    def __init__(self, n: int) -> None:
        self.left = n

    def step(self, stage: str, epoch: int, steps: int, images: int) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), 9)
