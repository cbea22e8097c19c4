from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_kit import TABLE, Trained

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
