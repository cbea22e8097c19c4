"""The cost model, the factor that is measured from records, and both beside measured times."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from spec_kit import make_run

from benchmark.bench.ours import pair_runs
from benchmark.spec import cost
from benchmark.spec.runs import Run
from results.store import REFERENCE, Store, read_records


def record(run: Run, seconds: float, pack: int = 1, **changes: Any) -> dict[str, Any]:
    """What the cost model reads of a record."""
    return {
        "device": "cuda",
        "seconds": seconds,
        "share_seconds": seconds / pack,
        "pack": pack,
        "teacher": run.teacher,
        "student": run.student,
        "dataset": run.dataset,
        "epochs": run.recipe.epochs,
        "test_images": 10_000,
        "settings": {"recipe": run.recipe.settings()},
        **changes,
    }


def test_packs_share_the_cost_of_the_teacher() -> None:
    runs = [make_run(m, "resnet32x4:resnet8x4") for m in ("kd", "at", "sp", "crd")]
    together, apart = cost.estimate([runs], "cuda"), cost.estimate([[r] for r in runs], "cuda")
    teacher = cost.macs(cost.teacher_passes(runs), "cifar100")
    assert apart.macs - together.macs == pytest.approx(3 * teacher)
    assert apart.hours > together.hours


def test_ab_runs_its_teacher_in_the_initialisation_stage_only() -> None:
    ab, kd = (cost.macs(cost.teacher_passes([make_run(m)]), "cifar100") for m in ("ab", "kd"))
    assert ab == pytest.approx(30 / 240 * kd)


@pytest.mark.parametrize(
    ("table", "pair", "device", "ms"),
    [  # measured times of a step of the full pack, on an H100 (docs/speed.md) and on two cores
        ("crd-table1", "resnet56:resnet20", "cuda", 10.8),
        ("crd-table1", "wrn_40_2:wrn_16_2", "cuda", 12.0),
        ("crd-table2", "resnet32x4:ShuffleV1", "cuda", 34.0),
        ("crd-table2", "resnet32x4:ShuffleV2", "cuda", 23.6),
        ("crd-table1", "resnet56:resnet20", "cpu", 14 * 64e3 / 617),
        ("crd-table1", "wrn_40_2:wrn_16_2", "cpu", 14 * 64e3 / 318),
    ],
)
def test_the_cost_model_is_near_measured_times(table: str, pair: str, device: str, ms: float) -> None:
    runs = pair_runs(table, pair)
    steps = max(cost.steps(r) for r in runs if not r.init_epochs)
    assert 1000 * cost.pack_seconds(runs, device) / steps == pytest.approx(ms, rel=0.35)


def test_the_measured_factor_is_how_far_the_model_is_off() -> None:
    runs = [make_run(m) for m in ("kd", "sp", "pkt")]
    alone = [record(r, 1.7 * cost.pack_seconds([r], "cuda")) for r in (*runs, make_run("plain"))]
    assert cost.measured_factor(alone, "cuda") == pytest.approx(1.7, rel=1e-6)
    together = [record(r, 0.6 * cost.pack_seconds(runs, "cuda"), pack=3) for r in runs]
    assert cost.measured_factor(together, "cuda") == pytest.approx(0.6, rel=1e-6)
    assert cost.pack_seconds(runs, "cuda", 0.6) == pytest.approx(0.6 * cost.pack_seconds(runs, "cuda"))
    estimate = cost.estimate([runs], "cuda", factor=2.0)
    assert estimate.hours == pytest.approx(2 * cost.pack_seconds(runs, "cuda") / 3600)


def test_records_that_say_nothing_about_the_speed_do_not_count() -> None:
    run = make_run("kd")
    seconds = cost.pack_seconds([run], "cuda")
    useless = [
        record(run, 9 * seconds, device="cpu"),
        record(run, cost.LONG_SECONDS / 2),
        record(run, 9 * seconds, epochs=0),
        record(run, 9 * seconds, student="none"),
        record(run, 9 * seconds, teacher="a_network_that_was_removed"),
    ]
    assert cost.measured_factor(useless, "cuda") is None
    assert cost.measured_factor([*useless, record(run, seconds)], "cuda") == pytest.approx(1.0, rel=1e-6)


def test_an_estimate_says_whether_records_were_used() -> None:
    assert "records here" in cost.assumptions("cuda", 1.0)
    assert "records here" not in cost.assumptions("cuda", None)


def test_a_student_alone_waits_for_its_own_kernels() -> None:
    """Two students take hardly longer than one: they fill each other's gaps. Many cost in proportion."""

    def step_seconds(runs: list[Run]) -> float:
        return cost.pack_seconds(runs, "cuda") / cost.steps(runs[0])

    plain, run = make_run("plain"), make_run("kd")
    many = [dataclasses.replace(run, seed=s) for s in range(16)]
    work = 64 * cost.RATES["cuda"].element * 3 * 200704
    assert step_seconds([plain]) > 2 * work
    assert step_seconds(many[:2]) < 1.2 * step_seconds(many[:1])
    assert step_seconds(many) == pytest.approx(2 * step_seconds(many[:8]), rel=0.15)


def beside_other_work(record: dict) -> bool:
    """Return whether a run is of the pack whose time says nothing (docs/reference-results.md)."""
    return record["git"]["commit"].startswith("0f78890") and record["teacher"] == "resnet56"


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_reference_results_took_about_what_the_model_says(device: str) -> None:
    records = [r for r in read_records(Path(REFERENCE))[0] if not beside_other_work(r)]
    by_record = {str(r["key"]): cost.measured_factor([r], device) for r in records}
    factors = {key: factor for key, factor in by_record.items() if factor is not None}
    assert len(factors) >= 3 and all(0.7 < f < 1.4 for f in factors.values()), factors


def test_the_factor_of_a_results_folder(tmp_path: Path) -> None:
    assert cost.factor_of(Store(tmp_path / "absent"), "cuda") is None
    assert cost.factor_of(Store(tmp_path), "cuda") is None
    records, _ = read_records(Path(REFERENCE))
    assert cost.factor_of(Store(Path(REFERENCE)), "cuda") == cost.measured_factor(records, "cuda")


def test_quick_runs_are_measured_by_quick_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are all too short to count for other runs."""
    run = make_run("kd")
    seconds = cost.pack_seconds([run], "cuda")
    long = record(run, 2 * seconds, profile="paper")
    short = record(run, 3 * seconds, profile="quick") | {"seconds": 4.0}
    monkeypatch.setattr(cost, "read_records", lambda *_: ([long, short], []))
    store = Store(tmp_path)
    assert cost.factor_of(store, "cuda", "quick") == pytest.approx(3.0, rel=1e-6)
    assert cost.factor_of(store, "cuda", "paper") == pytest.approx(2.0, rel=1e-6)
    monkeypatch.setattr(cost, "read_records", lambda *_: ([long], []))
    assert cost.factor_of(store, "cuda", "quick") == pytest.approx(2.0, rel=1e-6)
