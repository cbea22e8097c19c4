"""Merging results folders: nothing with a result is overwritten, and an interruption can be made good."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from benchmark.__main__ import main
from benchmark.training import checkpoint
from benchmark.work import merge
from benchmark.work.merge import Kind
from results.claims import ClaimLost
from results.store import SCHEMA, Store

TEACHER = "digits/crd/quick/none-resnet14/plain/seed0-0000000001"
STUDENT = "digits/crd/quick/resnet14-resnet8/kd/seed0-0000000002"
OTHER = "digits/crd/quick/none-resnet8/plain/seed1-0000000003"


def finish(folder: Path, key: str, top1: float = 60.0, seed: int = 0, **fields: Any) -> str:
    """Write a finished run with weights, and return their hash."""
    dataset, protocol, profile, pair, method, _ = key.split("/")
    teacher, student = pair.split("-")
    torch.manual_seed(seed)
    net = torch.nn.Linear(2, 2)
    store = Store(folder)
    models.save_weights(net, store.path(key) / "last.pt", key=key)
    (store.path(key) / "curve.csv").write_text(f"stage,epoch,test_acc\nmain,1,{top1}\n")
    record = {
        "schema": SCHEMA,
        "key": key,
        "dataset": dataset,
        "protocol": protocol,
        "profile": profile,
        "teacher": teacher,
        "student": student,
        "method": method,
        "seed": 0,
        "status": "done",
        "settings": {},
        "top1_last": top1,
        "top1_best": top1,
        "weights": {"last": models.weights_hash(net)},
        **fields,
    }
    store.write_record(key, record)
    return models.weights_hash(net)


def begin(folder: Path, key: str, epoch: int = 1) -> None:
    """Write an unfinished run."""
    path = Store(folder).path(key)
    path.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path / "checkpoint.pt", {"epoch": epoch})
    (path / "began.json").write_text("{}")
    (path / "curve.csv").write_text("stage,epoch\n" + "".join(f"main,{n + 1}\n" for n in range(epoch)))


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def kinds(sources: list[Path], target: Path, **options: Any) -> list[tuple[str, Kind]]:
    return [(step.key, step.kind) for step in merge.merge(sources, Store(target), **options)]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Anna's folder and the target."""
    return tmp_path / "anna", tmp_path / "all"


def test_runs_are_added_once(folders: tuple[Path, Path], tmp_path: Path) -> None:
    anna, target = folders
    finish(anna, TEACHER)
    begin(anna, STUDENT)
    Store(anna).write_failure(OTHER, "out of memory", "", "")
    expected = content(anna)
    expected = {name: data for name, data in expected.items() if OTHER not in name}
    first = [(TEACHER, Kind.ADDED), (STUDENT, Kind.UNFINISHED_ADDED)]
    assert kinds([anna], target, dry_run=True) == first and not target.exists()
    assert kinds([anna], target) == first
    assert content(target) == expected
    assert kinds([anna], target) == [(TEACHER, Kind.SAME), (STUDENT, Kind.KEPT)]
    assert content(target) == expected


def test_other_numbers_are_a_conflict_and_nothing_changes(folders: tuple[Path, Path], tmp_path: Path) -> None:
    anna, target = folders
    finish(anna, TEACHER, top1=61.0)
    finish(anna, OTHER, seed=1)
    finish(target, TEACHER)
    finish(target, OTHER)
    before = content(target)
    steps = list(merge.merge([anna], Store(target)))
    assert [step.kind for step in steps] == [Kind.CONFLICT, Kind.CONFLICT]
    details = {step.key: step.detail for step in steps}
    assert "top1_last 60.0 here, 61.0 there" in details[TEACHER]
    assert details[OTHER].startswith("weights of last.pt")
    assert content(target) == before


def test_two_sources_that_differ(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """A dry run names the conflict of two sources too."""
    anna, target = folders
    ben = tmp_path / "ben"
    finish(anna, TEACHER)
    finish(ben, TEACHER, top1=61.0)
    expected = [(TEACHER, Kind.ADDED), (TEACHER, Kind.CONFLICT)]
    assert kinds([anna, ben], target, dry_run=True) == expected
    assert kinds([anna, ben], target) == expected
    record = Store(target).record(TEACHER)
    assert record is not None and record["top1_last"] == 60.0


def test_a_finished_run_replaces_an_unfinished_one(folders: tuple[Path, Path]) -> None:
    anna, target = folders
    finish(anna, STUDENT)
    begin(target, STUDENT)
    assert kinds([anna], target) == [(STUDENT, Kind.ADDED)]
    assert content(target) == content(anna)
    begin(anna, STUDENT)
    (Store(anna).path(STUDENT) / "record.json").unlink()
    assert kinds([anna], target) == [(STUDENT, Kind.SAME)]


def test_missing_files_are_completed(folders: tuple[Path, Path]) -> None:
    anna, target = folders
    finish(anna, TEACHER)
    finish(target, TEACHER)
    expected = content(target)
    for name in ("last.pt", "curve.csv"):
        (Store(target).path(TEACHER) / name).unlink()
    assert kinds([anna], target) == [(TEACHER, Kind.COMPLETED)]
    assert content(target) == expected


@pytest.mark.parametrize("at", range(4))
def test_an_interruption_at_any_file_can_be_made_good(
    folders: tuple[Path, Path], at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copying ends before file number `at`; then the run has no result, and the next merge adds it."""
    anna, target = folders
    finish(anna, STUDENT)
    begin(target, STUDENT, epoch=2)
    replace, left = os.replace, [at]

    def stop(source: Any, path: Any) -> None:
        if Path(path).parent == Store(target).path(STUDENT):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        replace(source, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        if at < 3:  # curve, weights, record
            with pytest.raises(KeyboardInterrupt):
                kinds([anna], target)
            assert Store(target).state(STUDENT) == "absent"
        else:
            kinds([anna], target)
    kinds([anna], target)
    assert content(target) == content(anna)


def test_damaged_newer_and_busy_runs_are_named(folders: tuple[Path, Path]) -> None:
    anna, target = folders
    finish(anna, TEACHER)
    (Store(anna).path(TEACHER) / "record.json").write_text("{")
    finish(anna, STUDENT)
    record = Store(anna).record(STUDENT)
    (Store(anna).path(STUDENT) / "record.json").write_text(json.dumps({**record, "schema": SCHEMA + 1}))  # type: ignore[dict-item]
    finish(anna, OTHER)
    claim = Store(target).claim(OTHER)
    assert claim is not None
    assert kinds([anna], target) == [
        (TEACHER, Kind.DAMAGED),
        (OTHER, Kind.BUSY),
        (STUDENT, Kind.NEWER),
    ]
    claim.release()
    models.save_weights(torch.nn.Linear(2, 2), Store(anna).path(OTHER) / "last.pt")
    (step,) = [s for s in merge.merge([anna], Store(target)) if s.key == OTHER]
    assert step.kind is Kind.DAMAGED and "its record states" in step.detail
    (Store(anna).path(OTHER) / "last.pt").unlink()
    (Store(anna).path(OTHER) / "last.pt").mkdir()
    (step,) = [s for s in merge.merge([anna], Store(target)) if s.key == OTHER]
    assert step.kind is Kind.DAMAGED and "last.pt: cannot be read (Is a directory)" in step.detail
    assert not Store(target).is_done(OTHER)


MEASURED = "digits/crd/quick/none-resnet14/plain/entropy-digits-seed0-0000000004"


def test_a_measurement_comes_with_its_numbers_and_its_files(folders: tuple[Path, Path]) -> None:
    anna, target = folders
    named = ["maps.npz", "../away.npz", "claim", "record.json", ".hidden", ""]
    measured: dict[str, Any] = {"measure": "entropy", "target": "digits", "artifacts": named}
    finish(anna, MEASURED, value=-1.0, numbers={"entropy": -1.0}, **measured)
    (Store(anna).path(MEASURED) / "maps.npz").write_bytes(b"maps")
    assert merge.files_of({"artifacts": named}) == (*merge.FILES, "maps.npz")
    assert kinds([anna], target) == [(MEASURED, Kind.ADDED)]
    maps = Store(target).path(MEASURED) / "maps.npz"
    assert maps.read_bytes() == b"maps"
    maps.unlink()
    assert kinds([anna], target) == [(MEASURED, Kind.COMPLETED)] and maps.read_bytes() == b"maps"
    finish(anna, MEASURED, value=-2.0, numbers={"entropy": -2.0}, **measured)
    (step,) = merge.merge([anna], Store(target))
    assert step.kind is Kind.CONFLICT
    assert "value -1.0 here, -2.0 there, entropy -1.0 here, -2.0 there" in step.detail


def test_a_lost_claim_ends_the_copying(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    anna, target = folders
    finish(anna, TEACHER)
    copyfileobj = shutil.copyfileobj

    def take_over(read: Any, write: Any) -> None:
        (Store(target).path(TEACHER) / "claim").unlink(missing_ok=True)
        copyfileobj(read, write)

    monkeypatch.setattr(shutil, "copyfileobj", take_over)
    with pytest.raises(ClaimLost):
        kinds([anna], target)
    assert not Store(target).is_done(TEACHER)


def test_the_command(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    anna, target = folders
    finish(target, TEACHER, seed=1)
    there = finish(anna, TEACHER)
    info = {"network": "resnet14", "identity": f"{TEACHER}@last", "epoch": "last", "weights": there}
    finish(anna, STUDENT, teacher_info=info)
    argv = ["merge", str(anna), "--results", str(target)]
    assert main([*argv, "--dry-run"]) == 1
    out = capsys.readouterr().out
    assert f"\nwould be added: {STUDENT} (from {anna})" in f"\n{out}"
    assert f"\nconflict: {TEACHER} (from {anna})" in f"\n{out}"
    assert not Store(target).is_done(STUDENT)
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert f"conflict: {TEACHER} (from {anna}): weights of last.pt" in out
    assert f"\nadded: {STUDENT} (from {anna})" in f"\n{out}"
    assert f"1 added run learnt from other weights of {TEACHER}" in err
    assert err.splitlines()[-1].startswith(f"1 finished run added to {target}; 1 in conflict")
    shutil.rmtree(Store(anna).path(TEACHER))
    assert main(argv) == 0
    for wrong, expected in (
        (str(target), "is the results folder"),
        (str(anna.parent), "one is in the other"),
        (str(anna / "none"), "no such folder"),
        (str(anna / "digits"), "has no runs"),
    ):
        assert main(["merge", wrong, "--results", str(target)]) == 2
        assert expected in capsys.readouterr().err
