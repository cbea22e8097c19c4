"""A file of a user's methods that cannot be imported is one line and exit code 2, whatever it raises."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark import methods, torch_settings
from benchmark.__main__ import main

TABLE = ("crd-table1", "--profile", "quick")
VERBS = (
    ("methods",),
    ("plan", *TABLE),
    ("run", *TABLE),
    ("submit", *TABLE, "--dry-run", "--cluster", "gpu-example"),
    ("report", "crd-table1"),
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.setenv("KD_METHODS", str(folder))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "runs").mkdir(parents=True)  # or a note would say where results are
    return folder / "odd.py"


def error_line(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only line that the command prints."""
    methods.clear_cache()
    try:
        assert main(argv) == 2
    finally:
        methods.clear_cache()
    out, err = capsys.readouterr()
    assert not out
    (line,) = err.splitlines()
    return line


@pytest.mark.parametrize("argv", VERBS, ids=lambda argv: argv[0])
def test_every_command_reports_an_exit_at_import(
    argv: tuple[str, ...], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("import sys\nsys.exit(0)\n")
    assert error_line(argv, capsys) == f"error: KD_METHODS: {file} cannot be imported: SystemExit: 0"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("raise SystemExit", "SystemExit"),
        ("raise BaseException('odd')", "BaseException: odd"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("def f(): return f()\nf()", "RecursionError"),
        ("def", "SyntaxError"),
        ("import sys\ndel sys.modules[__name__]\n1 / 0", "ZeroDivisionError"),
        (None, "IsADirectoryError"),
    ],
)
def test_whatever_it_raises(
    code: str | None, text: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if code is None:
        file.mkdir()
    else:
        file.write_text(code)
    assert f"error: KD_METHODS: {file} cannot be imported: {text}" in error_line(("methods",), capsys)


def test_a_setting_that_it_changes_is_put_back_and_named(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("import torch\ntorch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\n")
    before = torch_settings.read_settings(torch_settings.ALL)
    line = error_line(("methods",), capsys)
    assert f"{file} leaves grad mode (True to False); the default dtype (torch.float32 to" in line
    assert torch_settings.read_settings(torch_settings.ALL) == before


def test_a_default_that_ends_the_process(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(
        "import sys\n"
        "from benchmark.methods.base import Method\n"
        "class Odd(Method):\n"
        "    name = 'odd'\n"
        "    needs = classmethod(lambda cls, config: sys.exit(0))\n"
    )
    methods.clear_cache()
    try:
        assert main(["methods", "odd"]) == 2
    finally:
        methods.clear_cache()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {file}: needs of method 'odd' raised SystemExit: 0"
