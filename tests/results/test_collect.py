"""results.collect copies records of finished runs, and curves and conditions of unfinished ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from results.collect import collect, main
from results.store import REFERENCE, Store, read_records

KEY = "digits/crd/quick/none-resnet8/plain/seed0-0123456789"
CURVE = "stage,epoch,train_loss\nmain,1,2.5\nmain,2,2.25\n"


def run(folder: Path, finished: bool) -> None:
    run_folder = folder / KEY
    run_folder.mkdir(parents=True)
    (run_folder / "curve.csv").write_text(CURVE)
    (run_folder / "checkpoint.pt").write_bytes(b"heavy")
    began = {"began": "2026-01-02T03:04:05+00:00", "device": "cpu", "threads": 2}
    (run_folder / "began.json").write_text(json.dumps(began))
    if finished:
        record = {
            "schema": 1,
            "key": KEY,
            "dataset": "digits",
            "protocol": "crd",
            "profile": "quick",
            "teacher": "none",
            "student": "resnet8",
            "method": "plain",
            "seed": 0,
            "status": "done",
            "settings": {},
            "top1_last": 50.0,
            "top1_best": 51.0,
            "host": "mine",
        }
        Store(folder).write_record(KEY, record)


def test_a_stopped_run_leaves_its_curve_and_conditions_and_is_no_record(tmp_path: Path) -> None:
    run(tmp_path / "runs", finished=False)
    assert collect(tmp_path / "runs", ["none-resnet8"], tmp_path / "kept") == [KEY]
    kept = tmp_path / "kept" / KEY
    assert sorted(p.name for p in kept.iterdir()) == ["curve.csv", "partial.json"]
    partial = json.loads((kept / "partial.json").read_text())
    assert (partial["epochs"], partial["device"], partial["threads"], partial["began"][:10]) == (
        2,
        "cpu",
        2,
        "2026-01-02",
    )
    assert read_records(tmp_path / "kept") == ([], [])


def test_once_finished_the_record_takes_its_place_and_stays(tmp_path: Path) -> None:
    run(tmp_path / "begun", finished=False)
    run(tmp_path / "runs", finished=True)
    for source in ("begun", "runs", "begun"):
        collect(tmp_path / source, ["*"], tmp_path / "kept")
    kept = tmp_path / "kept" / KEY
    assert sorted(p.name for p in kept.iterdir()) == ["curve.csv", "record.json"]
    (record,), skipped = read_records(tmp_path / "kept")
    assert record["top1_best"] == 51.0 and record["host"] == "" and skipped == []
    assert collect(tmp_path / "runs", ["other"], tmp_path / "none") == []


def test_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_reference_results_can_be_read() -> None:
    records, skipped = read_records(REFERENCE)
    assert records and not skipped
    for path in REFERENCE.rglob("*"):
        most = 2_000_000 if path.suffix == ".pt" else 200_000
        assert path.suffix in ("", ".json", ".csv", ".pt"), path
        assert path.is_dir() or path.stat().st_size < most, path


@pytest.mark.parametrize("content", ["{", "{}", json.dumps({"schema": 99})])
def test_a_run_whose_record_cannot_be_used_is_named_and_left_out(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "runs", finished=True)
    record = tmp_path / "runs" / KEY / "record.json"
    record.write_text(content)
    assert collect(tmp_path / "runs", ["*"], tmp_path / "kept") == []
    assert not (tmp_path / "kept").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert str(record) in line
