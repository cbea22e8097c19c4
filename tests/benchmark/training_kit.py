"""Small runs for tests of the trainer: digits, the smallest networks, two epochs of three batches."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

import models
from benchmark import data, methods
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run
from benchmark.training import graphs
from benchmark.training.execution import Execution
from benchmark.training.options import TrainingOptions
from benchmark.training.pack import train_pack
from benchmark.training.reporter import Outcome, Reporter
from results.store import Store

SMALL = (("recipe.test_images", 32), ("recipe.train_images", 48))
SMALL_OPTIONS = [f"--set={name}={value}" for name, value in SMALL]
LEARNING: dict[str, Any] = {
    "dataset": "digits16",
    "protocol": "clips",
    "recipe__epochs": 5,
    "recipe__lr": 0.05,
    "recipe__train_images": 256,
    "recipe__test_images": 100,
}
"""Settings with which students learn in a second, on the data set of the fixture `digits16`: CRD's recipe
without crops and flips, which make digits hard to tell apart."""

FP32 = Execution("cpu", "fp32", threads=1)


def small_run(
    method: str = "kd",
    student: str = "resnet8",
    teacher: str = "resnet14",
    seed: int = 0,
    protocol: str = "crd",
    resolver: Resolver | None = None,
    dataset: str = "digits",
    **settings: object,
) -> Run:
    overrides = dict(SMALL) | {name.replace("__", "."): value for name, value in settings.items()}
    spec = methods.parse(method)
    teacher = teacher if spec.needs_teacher and not spec.self_teacher else "none"
    changed = tuple(sorted(overrides.items()))
    request = Request(dataset, protocol, "quick", teacher, student, method, changed)
    return (resolver or Resolver()).run(request, seed)


UNPATCHED = data.load, graphs.stepper_for


@functools.cache
def shared_folder(execution: Execution) -> tempfile.TemporaryDirectory[str]:
    """Return the results folder of the teachers that tests share; it is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="kd-tables-teachers-")


def can_be_shared(run: Run) -> bool:
    """Whether the run is a plain one of digits, and no test has changed how it is trained."""
    plain = run.method == "plain" and run.dataset == "digits" and not run.needs_runs
    return plain and (data.load, graphs.stepper_for) == UNPATCHED and "KD_PLUGINS" not in os.environ


def train_needed(run: Run, store: Store, execution: Execution) -> None:
    """Train a run that others need. A teacher is trained once in a process, and then copied."""
    into = store
    if can_be_shared(run) and not store.path(run.key).exists():
        into = Store(Path(shared_folder(execution).name))
    if not into.is_done(run.key):
        assert [o.status for o in train_pack([run], into, TrainingOptions(execution))] == ["done"]
    if into is not store:
        shutil.copytree(into.path(run.key), store.path(run.key))


def train(runs: list[Run], folder: Path, execution: Execution = FP32, **options: object) -> list[Outcome]:
    """Train what the runs need, then the runs in one pack."""
    store = Store(folder)
    needed = {n.key: n for r in runs for h in r.needs_runs for n in (*h.needs_runs, h)}
    for run in needed.values():
        if not store.is_done(run.key):
            train_needed(run, store, execution)
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


def train_until_killed(orders: list[dict[str, Any]], folder: Path, at: int) -> None:
    """Train the runs of these orders in one pack; the process is killed at step `at`."""
    torch.set_num_threads(1)
    runs = [Resolver().from_order(order) for order in orders]
    train_pack(runs, Store(folder), TrainingOptions(FP32, reporter=KillAt(at)))
