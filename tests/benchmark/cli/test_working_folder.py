"""Records, tables and report are kept in the working folder, from wherever a command is started."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_kit import FAST, SMALL, TABLE

import results
from benchmark.__main__ import main
from benchmark.cli import common
from benchmark.text import command_name

NOTE = "records, tables and report are kept in the working folder: {}\n"


@pytest.fixture(autouse=True)
def said_again() -> Iterator[None]:
    common._note_working_folder.cache_clear()
    yield
    common._note_working_folder.cache_clear()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mini.toml").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_everything_is_written_into_the_working_folder(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "mini.toml", *FAST, "--device", "cpu"]) == 0
    errors = capsys.readouterr().err
    assert errors.count(NOTE.format(elsewhere)) == 1
    commands = [line for line in errors.splitlines() if line.startswith("    ")]
    assert errors.splitlines()[-3].startswith("1 of 1 run done") and len(commands) == 2
    assert commands[0].startswith(f"    {command_name()} table mini.toml --profile quick --set ")
    (record,) = elsewhere.glob("results/runs/**/record.json")
    assert list(results.load().key) == [record.parent.relative_to(elsewhere / "results/runs").as_posix()]
    common._note_working_folder.cache_clear()
    for verb in ("table", "report", "status"):
        assert main([verb, "mini.toml", *SMALL]) == 0
    assert "working folder" not in capsys.readouterr().err, "it is said until there are records"
    assert sorted(p.name for p in elsewhere.iterdir()) == ["mini.toml", "report", "results", "tables"]


def test_a_verb_that_reads_says_that_other_records_are_not_used(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout = tmp_path / "checkout"
    monkeypatch.setattr(common, "CODE", checkout)
    assert main(["status", "mini.toml", *SMALL]) == 0
    assert "working folder" not in capsys.readouterr().err, "an installed package has no records of its own"
    (checkout / "results" / "runs").mkdir(parents=True)
    (checkout / "pyproject.toml").touch()
    common._note_working_folder.cache_clear()
    assert main(["status", "mini.toml", *SMALL]) == 0
    kept = f"those in the checkout are not used (RESULTS={checkout / 'results' / 'runs'})\n"
    assert capsys.readouterr().err == NOTE.format(elsewhere) + kept
    monkeypatch.setenv("RESULTS", str(tmp_path))
    common._note_working_folder.cache_clear()
    main(["status", "mini.toml", *SMALL])
    monkeypatch.delenv("RESULTS")
    monkeypatch.chdir(checkout)
    assert main(["status", str(elsewhere / "mini.toml"), *SMALL]) == 0
    assert capsys.readouterr().err == "", "neither with RESULTS= nor in the checkout"


def test_a_command_to_copy_names_the_python_that_the_shell_would_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    assert command_name() == ".venv/bin/python -m benchmark"
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert command_name() == f"{python} -m benchmark"
    monkeypatch.setenv("PATH", str(python.parent))
    assert command_name() == "python -m benchmark"
