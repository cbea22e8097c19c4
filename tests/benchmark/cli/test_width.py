"""What is printed fits a terminal of 80 columns; a pipe or a file gets every line whole."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.__main__ import main
from benchmark.cli.output import fitted, print_note

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = str(ROOT / "results" / "reference" / "teachers")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_is_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert fitted("  one two three four\nfive", Terminal()) == "  one two three four\nfive"
    assert fitted("  one two three four five", Terminal()) == "  one two three four\n      five"
    path = "/a/path/that/is/longer/than/that"
    assert fitted(f"see {path} for it", Terminal()) == f"see\n    {path}\n    for it"
    assert fitted("x resnet20,resnet56,1,000,wrn x1", Terminal()) == "x resnet20,resnet56,\n    1,000,wrn x1"
    assert fitted(f"see {path} for it", io.StringIO()) == f"see {path} for it"


@pytest.mark.parametrize(
    "line",
    [
        "run nonsense",
        "run crd-table1 --nope",
        "plan crd-table1 --profile paper --seeds 1 --methods kd,fsp",
        "status crd-table1 --profile paper --pairs wrn_40_2:wrn_16_2 --methods kd",
        "judge resnet32x4:resnet8x4 dkd 76.2 75.8 --epoch best",
        f"teachers --teachers {REFERENCE}",
        "methods crd",
        "plugins",
    ],
)
def test_a_command_fits_80_columns(
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    with contextlib.suppress(SystemExit):
        main(line.split())
    shown = capsys.readouterr()
    printed = f"{shown.out}{shown.err}".replace("\x1b[K", "")
    lines = [x.rpartition("\r")[2] for x in printed.splitlines()]
    assert lines and [x for x in lines if len(x) > 80] == []


def test_a_pipe_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_note("a b " * 50)
    assert capsys.readouterr().err.count("\n") == 1


def test_the_help_of_make_fits_80_columns() -> None:
    shown = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert max(map(len, shown.splitlines())) <= 80 and re.search("make reproduce-table1 ", shown)
