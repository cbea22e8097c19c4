"""Another package of the same name as one of ours is reported before it can do harm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import package_names
from benchmark.provenance import VERSION

ROOT = Path(__file__).resolve().parents[2]


def call(folder: Path, pythonpath: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{pythonpath}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, "-m", "benchmark", "methods"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("file", ["tables/__init__.py", "results.py", "models/__init__.py"])
def test_a_foreign_package_is_one_clear_line(file: str, tmp_path: Path) -> None:
    """The working folder does not matter here: the foreign package comes first on PYTHONPATH."""
    foreign = tmp_path / "foreign" / file
    foreign.parent.mkdir(parents=True)
    foreign.write_text("raise RuntimeError('must not be imported')")
    done = call(tmp_path, tmp_path / "foreign")
    name = file.partition("/")[0].removesuffix(".py")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: `import {name}` finds {foreign}, which is not part of kd-tables; ")
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_without_init_hides_nothing(tmp_path: Path) -> None:
    """A user's `./tables/` and `./results/` are data, not packages."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "results").mkdir()
    done = call(tmp_path, tmp_path)
    assert done.returncode == 0, done.stderr


def test_our_own_file_overwritten_by_another_distribution(tmp_path: Path) -> None:
    """What `pip install tables` does in the environment of an installed kd-tables."""
    for name in package_names.PACKAGES:
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("runs", "reference", "out")
        )
    (tmp_path / "tables" / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    done = call(tmp_path, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: `import tables` finds {tmp_path / 'tables/__init__.py'}, which is not"
    )


def test_ours_are_ours() -> None:
    assert package_names.conflict() == ""


def test_the_citation_has_the_version() -> None:
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()
