"""`logs` tells runs of one name apart, and `retry --diverged` trains diverged runs again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.__main__ import main
from benchmark.cli.run_names import differences
from benchmark.spec import matrix
from benchmark.spec.runs import Run
from benchmark.training.run_files import in_words
from results.store import SCHEMA, Store


@pytest.fixture
def pair_table(tmp_path: Path) -> str:
    path = tmp_path / "pair.toml"
    columns = 'columns = ["resnet14:resnet8"]'
    path.write_text(
        f'title = "A pair"\npaper = "own"\ntable = "t"\ndataset = "digits"\nprotocol = "crd"\nseeds = 1\n'
        f'{columns}\n[[rows]]\nlabel = "KD"\nmethod = "kd"\n'
    )
    return str(path)


def record(run: Run, top1: float | None, **fields: Any) -> dict[str, Any]:
    """Return a record with the fields that a reader needs."""
    return {
        "schema": SCHEMA,
        **{name: getattr(run, name) for name in NAMES},
        "status": "done",
        "top1_last": top1,
        "top1_best": top1,
        "settings": run.settings,
        **fields,
    }


NAMES = ("key", "dataset", "protocol", "profile", "teacher", "student", "method", "seed")


def kd_runs(table: str, *settings: str) -> list[Run]:
    overrides = matrix.parse_overrides(settings)
    expansion = matrix.expand(matrix.load_table(table), "quick", overrides=overrides)
    return [run for run in expansion.runs if run.method == "kd"]


def test_an_ambiguous_name_says_what_tells_the_runs_apart(
    pair_table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "runs")
    (usual,), (hot,) = kd_runs(pair_table), kd_runs(pair_table, "kd.temperature=8")
    store.write_record(usual.key, record(usual, 60.0))
    (store.path(usual.key) / "log.txt").write_text("a log\n")
    store.write_failure(hot.key, "out of memory", "", "2026-01-01", settings=hot.settings)
    assert main(["logs", "resnet14:resnet8/kd", "--results", str(store.folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "matches 2 runs" in line
    assert f"{usual.key} (kd.temperature=4.0)" in line and f"{hot.key} (kd.temperature=8.0)" in line


def test_differences_are_those_of_the_settings() -> None:
    a = {"recipe": {"epochs": 2, "lr": 0.1}, "method": {"ce": 1.0, "components": {"kd": {"weight": 1}}}}
    b = {"recipe": {"epochs": 3, "lr": 0.1}, "method": {"ce": 1.0, "components": {"at": {"weight": 1}}}}
    assert differences({"a": a, "b": b}) == {
        "a": "kd.weight=1, recipe.epochs=2",
        "b": "at.weight=1, recipe.epochs=3",
    }
    assert differences({"a": a, "c": dict(a)}) == dict.fromkeys("ac", "the same settings")
    assert differences({"a": a, "d": None})["d"] == "unfinished: its settings are not known"
    assert differences({"a": {"recipe": [], "method": {"components": {"kd": 3}}}, "b": b})["a"] == "ce=None"


def test_diverged_runs_are_trained_again_on_request(
    pair_table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "runs")
    (run,) = kd_runs(pair_table)
    store.write_record(run.key, record(run, None, status="diverged", reason="NaN"))
    argv = ["retry", pair_table, "--profile", "quick", "--results", str(store.folder)]
    assert main(argv) == 0 and store.state(run.key) == "diverged"
    for n in range(2):
        assert main([*argv, "--diverged"]) == 0
        printed = capsys.readouterr()
        assert printed.out == f"{run.key}\n" and "1 diverged run" in printed.err
        assert store.state(run.key) == "absent"
        assert len(list(store.path(run.key).glob("record.diverged*.json"))) == n + 1, "nothing is lost"
        store.write_record(run.key, record(run, None, status="diverged", reason="NaN"))
    store.write_record(run.key, record(run, 60.0))
    assert main([*argv, "--diverged"]) == 0 and store.state(run.key) == "done"
    assert "no failed or diverged runs" in capsys.readouterr().err


def test_conditions_are_words() -> None:
    conditions = {"device": "cpu", "channels_last": True, "threads": 2, "graphs": None, "kernels": False}
    assert in_words(conditions) == "device cpu, channels last, threads 2"
