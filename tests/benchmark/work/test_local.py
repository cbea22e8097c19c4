"""The local runner's worker processes."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from training_kit import small_run

from benchmark.spec.plan import Pack
from benchmark.work import local, order


def test_a_worker_process_finds_the_user_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths of KD_METHODS are made absolute, because the worker runs in another folder."""
    started: list[dict[str, str]] = []

    class Process:
        stdin = io.BytesIO()

        def __init__(self, argv: list[str], env: dict[str, str], **_: object) -> None:
            started.append(env)

    monkeypatch.setattr(local.subprocess, "Popen", Process)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KD_METHODS", os.pathsep.join(["mine", str(tmp_path / "others")]))
    pack = Pack((small_run("kd"),), 0)
    local._start(pack, order.WorkSettings(results=Path("r"), data=Path("d")), 1)
    assert started[0]["KD_METHODS"].split(os.pathsep) == [str(tmp_path / "mine"), str(tmp_path / "others")]
    assert started[0]["CUDA_VISIBLE_DEVICES"] == "1"
