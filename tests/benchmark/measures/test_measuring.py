"""Runs that measure: keys, orders, records, and what happens when the weights are not there."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from measure_kit import FP32, carry_out, measuring_run, plain_run

import results
from benchmark import measures
from benchmark.errors import InputError
from benchmark.spec import plan
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Run
from benchmark.training import checkpoint
from benchmark.training.options import TrainingOptions
from benchmark.training.pack import train_pack
from benchmark.training.reporter import Reporter
from benchmark.work import stale
from benchmark.work.order import WorkSettings, work, work_order
from results import holders
from results.store import Store


def test_every_measure_describes_itself() -> None:
    assert "knn" in measures.names()
    for name in measures.names():
        measure = measures.get(name)
        assert measure.title and measure.paper and measure.source, name
        assert measure.rule(measure.Config()) in ("last", "best")
        assert measure.headline(measure.Config())
        for settings in measure.profile_settings.values():
            measures.parse(name, settings)


def test_a_key_covers_network_settings_target_and_seed() -> None:
    usual = measuring_run("knn")
    others = [
        measuring_run("knn", k=3),
        measuring_run("knn", target="cifar10"),
        measuring_run("knn", plain_run("resnet14")),
        measuring_run("knn", plain_run(seed=1)),
    ]
    assert len({run.key for run in [usual, *others]}) == 5
    assert usual.key.rpartition("/")[0] == plain_run().key.rpartition("/")[0]
    assert usual.key.rpartition("/")[2].startswith("knn-digits-seed0-")
    assert measuring_run("knn", k=20).key == usual.key, "20 is the default"


def test_a_raised_revision_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = measuring_run("knn").key
    monkeypatch.setattr(measures.get("knn"), "revision", 99)
    assert measuring_run("knn").key != before


def test_wrong_settings_are_refused() -> None:
    for name, settings, target in (
        ("nearest", {}, ""),
        ("knn", {"neighbours": 3}, ""),
        ("knn", {"k": "many"}, ""),
        ("knn", {"k": 0}, ""),
        ("knn", {"train_images": -5}, ""),
        ("probe", {"temperature": 0.0}, ""),
        ("probe", {"batch_size": -1}, ""),
        ("entropy", {"quarters": 4}, ""),
        ("entropy", {"iterations": 0}, ""),
        ("knn", {}, "stl"),
    ):
        with pytest.raises(InputError):
            measures.parse(name, settings, target)


def test_an_order_restores_the_run_and_the_plan_puts_it_behind_its_network() -> None:
    run = measuring_run("knn", k=3)
    assert Resolver().from_order(json.loads(json.dumps(run.order()))) == run
    planned = plan.make_plan([run, measuring_run("knn", plain_run(seed=1), k=3)], None)
    levels = {r.key: pack.level for pack in planned.packs for r in pack.runs}
    assert levels[run.key] == 1 and levels[plain_run().key] == 0
    assert len(planned.level(1)) == 1, "measuring runs share a pack whatever their seeds"


def test_a_run_is_measured_once_and_has_a_record_without_top1(tmp_path: Path) -> None:
    run = measuring_run("knn", train_images=60, test_images=40)
    store = Store(tmp_path)
    assert [o.status for o in carry_out([run], tmp_path)] == ["done"]
    record = store.record(run.key)
    assert record is not None
    assert record["numbers"] == {"knn_top1": record["value"]} and 0 < record["value"] <= 100
    assert record["network_info"]["identity"] == f"{plain_run().key}@last"
    assert (record["measure"], record["target"], record["precision"]) == ("knn", "digits", "fp32")
    frame = results.load(tmp_path)
    row = frame[frame["measure"] == "knn"].iloc[0]
    assert row["value"] == record["value"] and row["top1_last"] != row["top1_last"]
    written = (tmp_path / run.key / "record.json").stat().st_mtime_ns
    carry_out([run], tmp_path)
    assert (tmp_path / run.key / "record.json").stat().st_mtime_ns == written
    assert not stale.find_stale(store, Resolver()).to_remove


def test_a_work_order_measures_and_clean_finds_an_old_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = measuring_run("knn", train_images=60, test_images=40)
    assert [o.status for o in carry_out([plain_run()], tmp_path)] == ["done"]
    order = work_order([run], WorkSettings(results=tmp_path, data=tmp_path))
    assert [o.status for o in work(order)] == ["done"]
    monkeypatch.setattr(measures.get("knn"), "revision", 99)
    verdicts = stale.find_stale(Store(tmp_path), Resolver()).to_remove
    assert [v.key for v in verdicts] == [run.key]


def test_weights_that_were_not_kept_fail_the_run_alone(tmp_path: Path) -> None:
    run = measuring_run("knn")
    trained = plain_run()
    carry_out([trained], tmp_path)
    record_file = tmp_path / trained.key / "record.json"
    record = json.loads(record_file.read_text())
    record_file.write_text(json.dumps({**record, "weights": {}}))
    (tmp_path / trained.key / "last.pt").unlink()
    (outcome,) = carry_out([run], tmp_path)
    assert outcome.status == "failed" and "--keep none" in outcome.reason


def test_a_run_that_is_taken_over_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, other = (measuring_run("knn", train_images=60, test_images=40, k=k) for k in (1, 2))
    knn = measures.get("knn")
    measure = knn.run

    def run(config: Any, context: Any) -> dict[str, float]:
        if config.k == 1:  # as if this process had been halted
            claim = context.folder / "claim"
            claim.write_text(json.dumps(holders.identity("of another process")))
        return measure(config, context)

    monkeypatch.setattr(knn, "run", run)
    first, second = carry_out([lost, other], tmp_path)
    assert first.status == "busy" and "taken over by process" in first.reason
    assert second.status == "done"
    assert not Store(tmp_path).is_done(lost.key) and Store(tmp_path).failure(lost.key) is None


class Heard(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.total = 0
        self.steps: list[int] = []

    def begin(self, pack: Sequence[Run], steps_total: int, steps_done: int) -> None:
        self.total = steps_total

    def step(self, stage: str, epoch: int, steps: int, images: int) -> None:
        assert epoch == 0
        self.steps.append(steps)


def test_progress_is_reported_while_features_are_computed(tmp_path: Path) -> None:
    """After every batch of them: before the first epoch of a probe, they can take minutes."""
    store = Store(tmp_path)
    train_pack([plain_run()], store, TrainingOptions(FP32))
    images = {"train_images": 250, "test_images": 150}
    for name, settings, reports in (
        ("knn", images, 5),
        ("probe", {**images, "epochs": 1}, 6),
        ("entropy", {"images": 1, "iterations": 1, "reference": 40}, 6),
    ):
        heard = Heard()
        run = measuring_run(name, **settings)
        assert train_pack([run], store, TrainingOptions(FP32, reporter=heard))[0].status == "done"
        assert heard.total == sum(heard.steps) == 100 and len(heard.steps) >= reports, name


def test_an_error_in_a_measure_ends_its_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of the kinds by which our own functions tell that nothing can go on."""
    errors = [FileNotFoundError(2, "No such file", "/nowhere"), InputError("no pixels")]

    def fails(config: Any, context: measures.MeasureContext) -> dict[str, float]:
        raise errors[context.seed]

    monkeypatch.setattr(measures.get("knn"), "run", fails)
    outcomes = carry_out([measuring_run("knn", plain_run(seed=seed)) for seed in (0, 1)], tmp_path)
    assert [(outcome.status, outcome.reason) for outcome in outcomes] == [
        ("failed", f"measure 'knn': FileNotFoundError: {errors[0]}"),
        ("failed", "measure 'knn': no pixels"),
    ]


def test_a_full_disk_ends_all_measurements_of_a_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = measuring_run("knn")
    train_pack([plain_run()], Store(tmp_path), TrainingOptions(FP32))

    def saves(config: Any, context: measures.MeasureContext) -> dict[str, float]:
        context.save({"half": 1})
        raise AssertionError

    def full(path: Path, *_: Any, **__: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(measures.get("knn"), "run", saves)
    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="No space left"):
        train_pack([run], Store(tmp_path), TrainingOptions(FP32))
    assert Store(tmp_path).failure(run.key) is None
