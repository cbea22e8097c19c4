"""A work order: the runs of a pack, and where and how a worker is to train them, as plain data that another process or machine can read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark import data
from benchmark.spec import imported, teacher_cache_rule
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Run
from benchmark.training.execution import choose
from benchmark.training.pack import Options, Outcome, Reporter, train_pack
from results.store import Store


@dataclass(frozen=True)
class Environment:
    """Where a worker process finds things; plain data, so that it can be handed to another process or machine."""

    results: str
    data: str
    teachers: str = ""
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    keep: str = "all"
    teacher_cache: str = "auto"
    student_threads: int = 1


def work_order(runs: Sequence[Run], environment: Environment) -> str:
    """A pack as JSON, for `python -m benchmark work` in another process."""
    return json.dumps({"runs": [r.order() for r in runs], "environment": environment.__dict__})


def work(order_text: str, reporter: Reporter | None = None) -> list[Outcome]:
    """Trains the pack of a work order in this process: what a worker process, and a Slurm job, does."""
    order = json.loads(order_text)
    environment = Environment(**order["environment"])
    data.register_clips(environment.data)
    resolver = Resolver(imported.teachers_in(Path(environment.teachers) if environment.teachers else None))
    runs = [resolver.from_order(o) for o in order["runs"]]
    execution = choose(
        environment.device, environment.precision, environment.threads, environment.student_threads
    )
    cached = teacher_cache_rule.cached_teachers(environment.teacher_cache, [runs], execution.precision)
    options = Options(
        execution, Path(environment.data), environment.keep, reporter or Reporter(), cached_teachers=cached
    )
    return train_pack(runs, Store(Path(environment.results)), options)
