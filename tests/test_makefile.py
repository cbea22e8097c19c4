"""Every target that `make help` names has a recipe, and PAPER chooses tables that exist.

Only `make -n` is called: nothing is installed or run. These tests notice a target that is .PHONY and has only
an implicit rule: make says "Nothing to be done" for it, with exit code 0.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmark.cli.selection import PAPER_TABLES

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
VERBS = ("reproduce", "plan", "submit", "diff", "status")
PYTHON = "a-python"
EXPORTED = (
    *("PROFILE", "SEEDS", "PROTOCOL", "DATA", "TEACHERS", "RESULTS"),
    *("DEVICE", "PRECISION", "THREADS", "STUDENT_THREADS", "KEEP", "TEACHER_CACHE", "NOTIFY"),
)
CALLS = {
    "help": "echo",
    "setup": "",
    "docs": "docs/generate.py",
    "lock": "pip compile pyproject.toml",
    "drill": "tests/drill",
    "lint": "-m mypy",
    "report": "-m benchmark report",
    "bench": "-m benchmark bench",
    "clean": "-m benchmark clean",
    "status": "-m benchmark status",
    "reproduce": "-m benchmark reproduce",
    "test": "-m pytest",
    "test-slurm": "tests/slurm",
    "test-report": "tests/report",
    "test-all": "tests/slurm",
    **{f"{verb}-table{n}": f"-m benchmark {verb} " for verb in VERBS for n in (1, 2)},
}
"""A part of the recipe of each target. `setup` has only prerequisites, which PY= leaves out."""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """Call `make -n` with PY= set, so that no .venv is needed, and with none of our variables set."""
    ours = {*EXPORTED, "PAPER", "TABLE", "CLUSTER", "ARGS", "PY", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
    environment = {k: v for k, v in os.environ.items() if k not in ours} | {"LC_ALL": "C"}
    return subprocess.run(
        ["make", "-n", f"PY={PYTHON}", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def phony() -> set[str]:
    (names,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    return set(names.replace("\\\n", " ").split())


def test_help_names_the_targets() -> None:
    lines = [line for line in re.findall(r'echo "(.*)"', make("help").stdout) if line.startswith("make ")]
    named = {word for line in lines for word in re.split(r" {2,}| \[| \(| [A-Z]+=", line)[0].split()[1:]}
    assert named | {f"{verb}-table2" for verb in VERBS} | {"help"} == phony() == set(CALLS)


@pytest.mark.parametrize("target", sorted(CALLS))
def test_a_target_has_a_recipe(target: str) -> None:
    done = make(target, "CLUSTER=lab")
    assert done.returncode == 0, done.stderr
    assert CALLS[target] in done.stdout and (target == "setup" or "Nothing to be done" not in done.stdout)


@pytest.mark.parametrize("paper", PAPER_TABLES)
def test_paper_names_the_same_tables_in_the_makefile_and_the_program(paper: str) -> None:
    for number, table in enumerate(PAPER_TABLES[paper], 1):
        assert (ROOT / "tables" / f"{table}.toml").is_file()
        for verb in VERBS:
            assert (
                f"{PYTHON} -m benchmark {verb} {table} "
                in make(f"{verb}-table{number}", f"PAPER={paper}", "CLUSTER=lab").stdout
            )
    for verb in ("reproduce", "status"):
        assert (
            f"{PYTHON} -m benchmark {verb} {PAPER_TABLES[paper][0]} " in make(verb, f"PAPER={paper}").stdout
        )
        assert (
            f"{PYTHON} -m benchmark {verb} lskd-table1 "
            in make(verb, f"PAPER={paper}", "TABLE=lskd-table1").stdout
        )


@pytest.mark.parametrize(
    "target", ["reproduce", "status", *(f"{verb}-table{n}" for verb in VERBS for n in (1, 2))]
)
def test_an_unknown_paper_is_named(target: str) -> None:
    done = make(target, "PAPER=foo", "CLUSTER=lab")
    assert done.returncode == 2 and f"unknown PAPER 'foo'; allowed: {', '.join(PAPER_TABLES)}" in done.stderr
    assert "benchmark" not in done.stdout


@pytest.mark.parametrize("target", [f"{verb}-table{n}" for verb in VERBS for n in (1, 2)])
def test_a_table_cannot_be_combined_with_a_target_of_a_paper(target: str) -> None:
    done = make(target, "TABLE=crd-table2", "CLUSTER=lab")
    assert (
        done.returncode == 2
        and f"TABLE=crd-table2 cannot be combined with {target}; " in done.stderr
        and "benchmark" not in done.stdout
    )


def test_variables_are_exported_and_listed() -> None:
    (line,) = re.findall(r"^export (.*)$", MAKEFILE, re.MULTILINE)
    assert set(line.split()) == set(EXPORTED)
    text = make("help").stdout
    for name in EXPORTED:
        assert re.search(rf"\b{name}\b", text), name


def test_report_shows_the_named_table_or_all() -> None:
    assert make("report", "TABLE=lightskd").stdout.strip().endswith("-m benchmark report lightskd")
    assert make("report").stdout.strip().endswith("-m benchmark report")
