"""Which records may become reference records; and those in results/reference are fit."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import models
from benchmark import methods
from benchmark.__main__ import main
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run
from benchmark.text import size
from benchmark.work import contribution
from results.store import SCHEMA, Store

CLEAN = {"commit": "a" * 40, "dirty": False}


def a_run(method: str = "plain", profile: str = "short") -> Run:
    return Resolver().run(Request("cifar100", "crd", profile, "none", "resnet8", method), 0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def finish(store: Store, run: Run, **fields: Any) -> dict[str, Any]:
    """Write a finished run of two epochs, and return its record."""
    net = torch.nn.Linear(2, 2)
    path = store.path(run.key)
    models.save_weights(net, path / "last.pt")
    (path / "curve.csv").write_text("stage,epoch,test_acc\nmain,1,30.5\nmain,2,30.25\n")
    names = ("key", "dataset", "protocol", "profile", "teacher", "student", "method", "seed", "settings")
    record = {
        "schema": SCHEMA,
        **{name: getattr(run, name) for name in names},
        "order": run.order(),
        "status": "done",
        "top1_last": 30.25,
        "top1_best": 30.5,
        "best_epoch": 1,
        "epochs": 2,
        "device": "cpu",
        "precision": "fp32",
        "versions": {"torch": "2.13.0"},
        "git": dict(CLEAN),
        "host": "secret-machine",
        "job": "17",
        "finished": "2026-01-01T00:00:00+00:00",
        "parts": [{"from": 1, "to": 2, **CLEAN, "sources": {}}],
        "weights": {"last": models.weights_hash(net)},
        **fields,
    }
    store.write_record(run.key, record)
    return record


def test_the_reference_records_are_fit() -> None:
    assert list(contribution.check()) == []


def test_a_record_for_a_pull_request(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run()
    record = finish(store, run)
    out = tmp_path / "out"
    assert main(["contribute", "resnet8", "--results", str(store.folder), "--out", str(out)]) == 0
    reference = out / "results" / "reference"
    assert capsys.readouterr().out.strip() == str(reference / run.key)
    written = json.loads((reference / run.key / "record.json").read_text())
    assert written == {**record, "host": "", "job": "", "node": ""}
    assert sorted(p.name for p in (reference / run.key).iterdir()) == ["curve.csv", "record.json"]
    assert "secret" not in (out / "PULL_REQUEST.md").read_text()
    assert f"| `{run.key}` | 30.25, 30.50 |" in (out / "PULL_REQUEST.md").read_text()
    assert list(contribution.check(reference)) == []
    (reference / run.key / "state.pt").write_bytes(b"")
    assert list(contribution.check(reference)) == [
        f"{run.key}: state.pt does not belong there; only records, curves and weights do"
    ]
    (reference / run.key / "state.pt").unlink()
    monkeypatch.setattr(contribution, "REFERENCE", reference)
    assert main(["contribute", "resnet8", "--results", str(store.folder), "--out", str(out)]) == 1
    assert "it is a reference record already;" in capsys.readouterr().err


def test_weights_go_along_if_asked_for_and_are_checked(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run()
    record = finish(store, run)
    out = tmp_path / "out"
    call = ["contribute", "resnet8", "--results", str(store.folder), "--out", str(out), "--weights"]
    assert main([*call, "best"]) == 1
    assert "has kept no weights of the epoch best" in capsys.readouterr().err
    assert main([*call, "last"]) == 0
    reference = out / "results" / "reference"
    file = reference / run.key / "last.pt"
    assert file.read_bytes() == (store.path(run.key) / "last.pt").read_bytes()
    assert list(contribution.check(reference)) == []
    [(listed, epoch, path)] = contribution.weights_files(reference)
    assert (listed["key"], epoch, path) == (run.key, "last", file)
    monkeypatch.setattr(contribution.weights_files, "__defaults__", (reference,))
    capsys.readouterr()
    assert main(["contribute", "--list-weights"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{run.key}: last epoch, top-1 30.25, weights {record['weights']['last']}, ")
    assert line.endswith(f", {size(file.stat().st_size)}")
    monkeypatch.setattr(contribution, "WEIGHTS_LIMIT", 10)
    [line] = contribution.check(reference)
    assert line.startswith("the weights have 0.0 MiB")
    models.save_weights(torch.nn.Linear(2, 2), file)
    assert f"{run.key}: last.pt is not the file that its record states" in next(contribution.check(reference))


PART = {"from": 1, "to": 1, **CLEAN, "sources": {"kd": "1"}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"git": {"commit": "a" * 40, "dirty": True}}, "in no commit (dirty)"),
        ({"git": {"commit": "unknown", "dirty": None}}, "the commit of its code is not known"),
        ({"parts": [{**PART, "dirty": True}]}, "in no commit (dirty)"),
        ({"parts": [PART, {**PART, "sources": {"kd": "2"}}]}, "the file of method kd was changed"),
        ({"parts": [PART, CLEAN, {**PART, "sources": {"kd": "2"}}]}, "the file of method kd was changed"),
        ({"parts": [{**PART, "sources": {"own/helper.py": "1"}}]}, "files of KD_PLUGINS"),
        ({"weights": {}}, "the hash of its weights"),
        ({"weights": {"last": "0" * 16}}, "last.pt is not the file that its record states"),
        ({"precision": None}, "it does not state precision"),
        ({"epochs": 3}, "its curve has 2 epochs, its record 3"),
        ({"top1_last": 31.0}, "its curve has top-1 30.25 in epoch 2, its record 31.0"),
        ({"top1_best": 30.0}, "its curve has top-1 30.5 in epoch 1, its record 30.0"),
    ],
)
def test_what_is_not_fit(store: Store, fields: dict[str, Any], expected: str) -> None:
    run = a_run()
    finish(store, run, **copy.deepcopy(fields))
    with pytest.raises(contribution.InputError) as error:
        contribution.prepare(store, run.key)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_runs_that_are_refused_as_a_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = a_run(profile="quick")
    finish(store, quick)
    with pytest.raises(contribution.InputError, match="profile quick is a miniature"):
        contribution.prepare(store, quick.key)
    run = a_run("label_smoothing")
    record = finish(store, run)
    contribution.prepare(store, run.key)
    with monkeypatch.context() as patch:
        patch.setattr(methods.get("label_smoothing"), "revision", methods.get("label_smoothing").revision + 1)
        with pytest.raises(contribution.InputError, match="another key now"):
            contribution.prepare(store, run.key)
    with monkeypatch.context() as patch:
        patch.setattr(methods, "is_user_method", lambda _: True)
        with pytest.raises(contribution.InputError, match="method label_smoothing is a file of KD_PLUGINS"):
            contribution.prepare(store, run.key)
    order = {**record["order"], "method": "mine"}
    finish(store, run, order=order)
    with pytest.raises(contribution.InputError, match="method 'mine', which is not part of kd-tables"):
        contribution.prepare(store, run.key)


def test_a_curve_needs_its_column() -> None:
    record = {"epochs": 1, "status": "done", "top1_last": 50.0}
    assert contribution.wrong_curve(record, pd.DataFrame({"epoch": [1]})) == ""
    assert "no curve" in contribution.wrong_curve(record, None)


def test_a_measure_needs_neither_curve_nor_weights_of_its_own(store: Store) -> None:
    record = finish(store, a_run())
    measured = {k: v for k, v in record.items() if k not in ("weights", "top1_last", "top1_best")}
    measured |= {"measure": "knn", "numbers": {"knn_top1": 50.0}}
    assert contribution.unfit(measured) == "" and contribution.wrong_curve(measured, None) == ""
    without_weights = {k: v for k, v in record.items() if k != "weights"}
    assert "weights" in contribution.unfit(without_weights)  # of a training they are asked for
    assert "curve" in contribution.wrong_curve(without_weights, None)
    dirty = {**measured, "git": {"commit": "a" * 40, "dirty": True}}
    assert "dirty" in contribution.unfit(dirty)
