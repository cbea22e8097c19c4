from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_kit import TABLE, Trained
from training_kit import small_run, train

from benchmark.bench import cells
from benchmark.work import local, order


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Raise `Trained` instead of training or measuring, and store results in a temporary folder."""

    def start(*_: Any, **__: Any) -> Any:
        raise Trained

    monkeypatch.setenv("RESULTS", str(tmp_path / "runs"))
    monkeypatch.setattr(local, "run_plan", start)
    monkeypatch.setattr(local, "train_pack", start)
    monkeypatch.setattr(order, "train_pack", start)
    monkeypatch.setattr(cells, "measure", start)


@pytest.fixture
def table(tmp_path: Path) -> str:
    """The path of a table with one plain student."""
    path = tmp_path / "mini.toml"
    path.write_text(TABLE)
    return str(path)


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A folder of results, and the keys of a plain run and of one that predicts with its method's modules.

    Tests must not change the folder.
    """
    folder = tmp_path_factory.mktemp("finished") / "runs"
    plain, simkd = (small_run(name, recipe__epochs=1) for name in ("plain", "simkd"))
    for run in (*simkd.needs_runs, plain, simkd):
        assert [o.status for o in train([run], folder)] == ["done"]
    return folder, plain.key, simkd.key
