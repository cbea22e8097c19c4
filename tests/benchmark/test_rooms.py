"""Imports run one way: models and results know nobody, benchmark knows both, slurm and tables know benchmark; the front door sees all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("benchmark", "models", "results", "tables", "slurm")
MAY = {
    "models": set(),
    "results": set(),
    "benchmark": {"models", "results"},
    "slurm": {"benchmark", "models", "results"},
    "tables": {"benchmark", "results", "models"},
}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found & set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        front_door = path == ROOT / "benchmark" / "__main__.py" or path.parent == ROOT / "benchmark" / "cli"
        allowed = set(ROOMS) if front_door else MAY[room] | {room}
        assert imported(path) <= allowed, f"{path.relative_to(ROOT)} imports {imported(path) - allowed}"


def test_the_trainer_names_no_method() -> None:
    from benchmark import methods

    names = set(methods.names()) - {
        "at",
        "ft",
        "ab",
        "cc",
        "sp",
        "seed",  # a run's
    }  # words of English and of tensors are looked for below
    for file in ("training/pack_trainer.py", "training/run_files.py", "training/active_run.py"):
        for node in ast.walk(ast.parse((ROOT / "benchmark" / file).read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value.lower() not in names | {"at", "ft", "ab", "cc", "sp"}, (file, node.value)
