"""The factor by which earlier records correct the cost model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from spec_kit import make_run

from benchmark.spec import cost, measured_speed
from benchmark.spec.runs import Run
from results.store import REFERENCE, Store, read_records


def record(run: Run, seconds: float, pack: int = 1, **changes: Any) -> dict[str, Any]:
    """What is read of a record."""
    return {
        "key": run.key,
        "method": run.method,
        "device": "cuda",
        "seconds": seconds,
        "share_seconds": seconds / pack,
        "pack": pack,
        "teacher": run.teacher,
        "student": run.student,
        "dataset": run.dataset,
        "epochs": run.recipe.epochs,
        "test_images": 10_000,
        "settings": run.settings,
        **changes,
    }


def test_the_measured_factor_is_how_far_the_model_is_off() -> None:
    runs = [make_run(m) for m in ("kd", "sp", "pkt")]
    alone = [record(r, 1.7 * cost.pack_seconds([r], "cuda")) for r in (*runs, make_run("plain"))]
    assert measured_speed.measured_factor(alone, "cuda") == pytest.approx(1.7, rel=1e-6)
    together = [record(r, 0.6 * cost.pack_seconds(runs, "cuda"), pack=3) for r in runs]
    assert measured_speed.measured_factor(together, "cuda") == pytest.approx(0.6, rel=1e-6)
    assert cost.pack_seconds(runs, "cuda", 0.6) == pytest.approx(0.6 * cost.pack_seconds(runs, "cuda"))
    estimate = cost.estimate([runs], "cuda", factor=2.0)
    assert estimate.hours == pytest.approx((2 * cost.pack_seconds(runs, "cuda") + cost.START_SECONDS) / 3600)


def pack_records(methods: Sequence[str], slower: float = 1.0, **changes: Any) -> list[dict[str, Any]]:
    """Return the records of a pack that took `slower` times what the cost model says."""
    runs = [make_run(m, seed=changes.get("seed", 0)) for m in methods]
    seconds = slower * cost.pack_seconds(runs, "cpu")
    return [record(r, seconds, pack=len(runs), device="cpu", **changes) for r in runs]


@pytest.mark.parametrize(
    "methods", [("kd", "dlkd"), ("sskd",), ("ab", "at"), ("kd", "fsp", "ab"), ("crd+kd",)]
)
def test_views_and_initialisation_stages_of_earlier_runs_are_counted(methods: tuple[str, ...]) -> None:
    """A run that takes four views of an image does not show that the machine is slow."""
    assert measured_speed.measured_factor(pack_records(methods), "cpu") == pytest.approx(1.0, rel=1e-3)


def test_interrupted_runs_count_only_where_there_are_no_others() -> None:
    interrupted = pack_records(["kd", "at"], slower=2.5, resumes=1)
    assert measured_speed.measured_factor(interrupted, "cpu") == pytest.approx(2.5, rel=1e-6)
    others = pack_records(["sp"], slower=0.9, seed=1, resumes=0)
    assert measured_speed.measured_factor([*interrupted, *others], "cpu") == pytest.approx(0.9, rel=1e-6)


@pytest.mark.parametrize("slower", [1.0, 3.0])
def test_a_pack_beside_other_work_changes_nothing_and_a_slow_machine_does(slower: float) -> None:
    packs = [
        pack_records(["kd", "sp"], slower=slower * more, seed=i)
        for i, more in enumerate((1, 4, 1.02, 5, 0.98))
    ]
    factor = measured_speed.measured_factor([r for pack in packs for r in pack], "cpu")
    assert factor == pytest.approx(slower, rel=0.03)


def test_records_that_say_nothing_about_the_speed_do_not_count() -> None:
    run = make_run("kd")
    seconds = cost.pack_seconds([run], "cuda")
    useless = [
        record(run, 9 * seconds, device="cpu"),
        record(run, measured_speed.LONG_SECONDS / 2),
        record(run, 9 * seconds, epochs=0),
        record(run, 9 * seconds, student="none"),
        record(run, 9 * seconds, teacher="a_network_that_was_removed"),
    ]
    assert measured_speed.measured_factor(useless, "cuda") is None
    assert measured_speed.measured_factor([*useless, record(run, seconds)], "cuda") == pytest.approx(
        1.0, rel=1e-6
    )


def beside_other_work(record: measured_speed.Record) -> bool:
    """Return whether a run is of the pack whose time says nothing (docs/reference-results.md)."""
    return record["git"]["commit"].startswith("0f78890") and record["teacher"] == "resnet56"


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_reference_results_took_about_what_the_model_says(device: str) -> None:
    """A CPU's rates are fitted in fp32, and bf16 is about 1.7 times as fast there (docs/speed.md)."""
    packs: dict[object, list[measured_speed.Record]] = {}
    for r in read_records(Path(REFERENCE))[0]:
        if not beside_other_work(r):
            packs.setdefault(measured_speed._pack_of(r), []).append(r)
    factors = {k: measured_speed.measured_factor(pack, device) for k, pack in packs.items()}
    known = [(f, packs[k][0]["precision"]) for k, f in factors.items() if f is not None]
    least = {"fp32": 0.7, "bf16": 0.5 if device == "cpu" else 0.7}
    assert len(known) >= 2 and all(least[precision] < f < 1.4 for f, precision in known), known


def test_interruptions_and_other_work_hardly_change_the_factor_of_the_reference_results() -> None:
    """Six of their 13 long runs on a CPU were interrupted, and four of these ran beside other work."""
    factor = measured_speed.factor_of(Store(Path(REFERENCE)), "cpu")
    assert factor is not None and 0.5 < factor < 1.2


def test_the_factor_of_a_results_folder(tmp_path: Path) -> None:
    assert measured_speed.factor_of(Store(tmp_path / "absent"), "cuda") is None
    assert measured_speed.factor_of(Store(tmp_path), "cuda") is None
    records, _ = read_records(Path(REFERENCE))
    assert measured_speed.factor_of(Store(Path(REFERENCE)), "cuda") == measured_speed.measured_factor(
        records, "cuda"
    )


def test_quick_runs_are_measured_by_quick_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are all too short to count for other runs."""
    run = make_run("kd")
    seconds = cost.pack_seconds([run], "cuda")
    long = record(run, 2 * seconds, profile="paper")
    short = record(run, 3 * seconds, profile="quick") | {"seconds": 4.0}
    monkeypatch.setattr(measured_speed, "read_records", lambda *_: ([long, short], []))
    store = Store(tmp_path)
    assert measured_speed.factor_of(store, "cuda", "quick") == pytest.approx(3.0, rel=1e-6)
    assert measured_speed.factor_of(store, "cuda", "paper") == pytest.approx(2.0, rel=1e-6)
    monkeypatch.setattr(measured_speed, "read_records", lambda *_: ([long], []))
    assert measured_speed.factor_of(store, "cuda", "quick") == pytest.approx(2.0, rel=1e-6)
