"""The cost model against records: what it is off by is found again, and is small for the runs in `results/reference`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmark.spec import cost
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run
from results.store import REFERENCE, read_records


def paper_run(method: str, teacher: str = "resnet56", student: str = "resnet20") -> Run:
    return Resolver().run(
        Request("cifar100", "crd", "paper", teacher if method != "plain" else "none", student, method), 0
    )


def record(run: Run, seconds: float, pack: int = 1, **other: Any) -> dict[str, Any]:
    return {
        "device": "cuda", "seconds": seconds, "share_seconds": seconds / pack, "pack": pack, "teacher": run.teacher, "student": run.student,
        "dataset": run.dataset, "epochs": run.recipe.epochs, "test_images": 10_000, "settings": {"recipe": run.recipe.settings()}, **other,
    }  # fmt: skip


def test_the_factor_of_records_is_what_the_model_is_off_by() -> None:
    runs = [paper_run(m) for m in ("kd", "sp", "pkt")]
    alone = [record(r, 1.7 * cost.pack_seconds([r], "cuda")) for r in (*runs, paper_run("plain"))]
    assert cost.measured_factor(alone, "cuda") == pytest.approx(1.7, rel=1e-6)
    together = [record(r, 0.6 * cost.pack_seconds(runs, "cuda"), 3) for r in runs]
    assert cost.measured_factor(together, "cuda") == pytest.approx(0.6, rel=1e-6)
    assert cost.pack_seconds(runs, "cuda", 0.6) == pytest.approx(0.6 * cost.pack_seconds(runs, "cuda"))
    estimate = cost.estimate([runs], "cuda", factor=2.0)
    assert estimate.hours == pytest.approx(2 * cost.pack_seconds(runs, "cuda") / 3600)


def test_records_that_say_nothing_of_the_speed_do_not_count() -> None:
    run = paper_run("kd")
    model = cost.pack_seconds([run], "cuda")
    strangers = [
        record(run, 9 * model, device="cpu"), record(run, cost.LONG_SECONDS / 2), record(run, 9 * model, epochs=0),
        record(run, 9 * model, student="none"), record(run, 9 * model, teacher="a_network_of_long_ago"),
    ]  # fmt: skip
    assert cost.measured_factor(strangers, "cuda") is None
    assert cost.measured_factor([*strangers, record(run, model)], "cuda") == pytest.approx(1.0, rel=1e-6)
    assert "records here" in cost.assumptions("cuda", 1.0) and "records here" not in cost.assumptions(
        "cuda", None
    )


def test_a_student_alone_is_no_quicker_than_its_kernels_one_after_another() -> None:
    """Two of them are no dearer than one as long as they fill each other's gaps; many cost in proportion."""

    def step(runs: list[Run]) -> float:
        return cost.pack_seconds(runs, "cuda") / cost.steps(runs[0])

    plain, run = paper_run("plain"), paper_run("kd")
    many = [dataclasses.replace(run, seed=s) for s in range(16)]
    assert step([plain]) > 2 * 64 * cost.RATES["cuda"].number * 3 * 200704, "more than the work in it"
    assert step(many[:2]) < 1.2 * step(many[:1])
    assert step(many) == pytest.approx(2 * step(many[:8]), rel=0.15)


def test_the_reference_results_took_what_the_model_says() -> None:
    records, _ = read_records(Path(REFERENCE))
    for device in ("cuda", "cpu"):
        each = {str(r["key"]): cost.measured_factor([r], device) for r in records}
        factors = {k: f for k, f in each.items() if f is not None}
        assert len(factors) >= 3 and all(0.7 < f < 1.4 for f in factors.values()), factors
