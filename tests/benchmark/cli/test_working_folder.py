"""Records, tables and report are kept in the working folder, from wherever a command is started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_kit import FAST, SMALL, TABLE

import results
from benchmark.__main__ import main
from benchmark.cli import common

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
    assert capsys.readouterr().err.count(NOTE.format(elsewhere)) == 1
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
