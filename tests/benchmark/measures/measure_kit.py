"""Measuring runs for tests: tiny networks trained for an epoch on digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark import measures
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run, TeacherRef
from benchmark.training.execution import Execution
from benchmark.training.options import TrainingOptions
from benchmark.training.pack import train_pack
from benchmark.training.reporter import Outcome
from results.store import Store

FP32 = Execution("cpu", "fp32", threads=1)
TINY = (("recipe.epochs", 1), ("recipe.test_images", 50), ("recipe.train_images", 64))


def plain_run(student: str = "resnet8", seed: int = 0) -> Run:
    request = Request("digits", "crd", "quick", "none", student, "plain", TINY)
    return Resolver().run(request, seed)


def measuring_run(name: str, run: Run | None = None, *, target: str = "", **settings: Any) -> Run:
    run = run or plain_run()
    spec = measures.parse(name, settings, target)
    return Resolver().measuring(TeacherRef(run.student, run=run), spec, run)


def carry_out(runs: list[Run], folder: Path) -> list[Outcome]:
    """Train what the runs need, then measure."""
    store, options = Store(folder), TrainingOptions(FP32)
    for needed in {n.key: n for r in runs for n in r.needs_runs}.values():
        assert [o.status for o in train_pack([needed], store, options)] == ["done"]
    return train_pack(runs, store, options)
