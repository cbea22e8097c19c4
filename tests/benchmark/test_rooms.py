"""Imports run one way, from the rooms above to those below, and no modules import each other in a circle.

Imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

from benchmark import methods

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("benchmark", "models", "results", "tables", "slurm")


def module_files() -> dict[str, Path]:
    """Return the file of every module by its name."""
    files = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


FILES = module_files()


def imports_of(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """Return the modules that a module imports by name.

    `from package import x` imports `package.x` if that is a module, else `package`. Python runs the packages
    above a module too; that is left out, because no code here depends on it.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    targets = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                targets.add(submodule if submodule in modules else base)
    return targets & modules.keys()


GRAPH = {name: imports_of(name, path, FILES) for name, path in FILES.items()}

BASE = {f"benchmark.{path.stem}" for path in (ROOT / "benchmark").glob("*.py")}
BASE -= {"benchmark.__init__", "benchmark.__main__"}
"""The modules directly in `benchmark/`. Every room of it may import them; they import only each other."""

BELOW_DATA = BASE | {"models", "benchmark.plugins"}
BELOW_METHODS = BELOW_DATA | {"benchmark.data"}
BELOW_MEASURES = BELOW_METHODS | {"benchmark.methods", "results"}
BELOW_SPEC = BELOW_MEASURES | {"benchmark.measures"}
BELOW_TRAINING = BELOW_SPEC | {"benchmark.spec"}
BELOW_WORK = BELOW_TRAINING | {"benchmark.training"}
BELOW_SLURM = BELOW_WORK | {"benchmark.work"}
BELOW_BENCH = BELOW_SLURM | {"slurm", "tables"}
BELOW_CLI = BELOW_BENCH | {"benchmark.bench", "benchmark.export"}

MAY_IMPORT: dict[str, set[str]] = {
    "models": set(),
    "results": set(),
    **dict.fromkeys(BASE, BASE),
    "benchmark.plugins": BASE | {"models"},
    "benchmark.data": BELOW_DATA,
    "benchmark.methods": BELOW_METHODS,
    "benchmark.measures": BELOW_MEASURES,  # methods: the declaration of settings; results: atomic files
    "benchmark.spec": BELOW_SPEC,
    "benchmark.training": BELOW_TRAINING,
    "benchmark.work": BELOW_WORK,
    "tables": BELOW_TRAINING,  # beside training, not above it
    "slurm": BELOW_SLURM,
    "benchmark.bench": BELOW_BENCH,
    "benchmark.export": BELOW_WORK,  # beside work, not above it
    "benchmark.cli": BELOW_CLI,
    "benchmark.__main__": BELOW_CLI | {"benchmark.cli"},
}
"""The rooms that each room may import besides itself."""


def room_of(module: str) -> str:
    """Return the room of a module: its package, or its sub-package (or itself) within `benchmark`."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "benchmark" else parts[0]


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of one import circle, empty if there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []


def test_every_room_is_listed() -> None:
    assert {room_of(module) for module in FILES} - {"benchmark"} == MAY_IMPORT.keys()
    assert not GRAPH["benchmark"], "benchmark/__init__.py imports nothing"


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_rooms_below(room: str) -> None:
    allowed = MAY_IMPORT[room] | {room}
    wrong = {
        f"{module} imports {target}"
        for module, targets in GRAPH.items()
        for target in targets
        if room_of(module) == room and room_of(target) not in allowed
    }
    assert not wrong


def test_training_does_not_import_the_plan() -> None:
    importers = {module for module, targets in GRAPH.items() if "benchmark.spec.plan" in targets}
    assert importers, "the plan is imported somewhere, so this test would notice"
    assert not {module for module in importers if room_of(module) == "benchmark.training"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert find_cycle(GRAPH) == []


def test_circles_and_hidden_imports_are_noticed(tmp_path: Path) -> None:
    sources = {
        "pack": "from pack.a import f\n",
        "pack.a": "def f():\n    from pack import b\n",
        "pack.b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import a\n",
        "pack.c": "import pack.a\n",
    }
    files = {}
    (tmp_path / "pack").mkdir()
    for name, source in sources.items():
        files[name] = tmp_path / "pack" / f"{name.rpartition('.')[2]}.py"
        if name == "pack":
            files[name] = tmp_path / "pack" / "__init__.py"
        files[name].write_text(source)
    graph = {name: imports_of(name, path, files) for name, path in files.items()}
    assert graph == {"pack": {"pack.a"}, "pack.a": {"pack.b"}, "pack.b": {"pack.a"}, "pack.c": {"pack.a"}}
    assert set(find_cycle(graph)) == {"pack.a", "pack.b"}
    assert find_cycle({**graph, "pack.b": set()}) == []


def test_the_trainer_names_no_method() -> None:
    """What depends on a method is asked of its class; no training module compares names of methods."""
    words = {"at", "ft", "ab", "cc", "sp", "seed"}  # method names that mean something else as well
    names = set(methods.names()) - words
    for path in (ROOT / "benchmark" / "training").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value.lower() not in names, (path.name, node.lineno, node.value)
