"""The wheel: built, installed into an environment of its own, and used from an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmark.package_names import PACKAGES
from benchmark.provenance import VERSION

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--profile", "quick", "--set", "recipe.train_images=64", "--set", "recipe.test_images=50")
TABLE = """
title = "A table of the user"
paper = "mine"
table = "table1"
dataset = "cifar100"
protocol = "crd"
seeds = 1
columns = ["resnet14:resnet8"]
rows = [{ label = "Student", method = "student" }, { label = "KD", method = "kd" }]
"""
VERBS = """
import contextlib, io, json, sys
from benchmark.__main__ import main

printed = {}
for verb, arguments in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(arguments) in (0, 1), verb
    printed[verb] = out.getvalue()
print(json.dumps(printed))
"""


def run(command: Sequence[str | Path], cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a command and return its standard output; it must exit with 0."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tracked_files() -> list[str]:
    return run(["git", "ls-files"], ROOT).splitlines()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files with one commit: building there leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("source")
    for name in tracked_files():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
            (folder / name).chmod((ROOT / name).stat().st_mode)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-f", "."], ["commit", "-q", "-m", "source"]):
        run([*git, *command], folder)
    return folder


@pytest.fixture(scope="module")
def commit(source: Path) -> str:
    return run(["git", "rev-parse", "HEAD"], source).strip()


@pytest.fixture(scope="module")
def wheel(source: Path, commit: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q"]
    run([sys.executable, "-m", "pip", "wheel", source, *options, "-w", folder], folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel. It sees torch and the like, but not the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = ["install", "--no-deps", "--no-index", "--disable-pip-version-check", "-q"]
    run([sys.executable, "-m", "pip", "--python", python, *install, wheel], folder)
    others = [p for p in sys.path if p and Path(p).name in ("site-packages", "dist-packages")]
    # a .pth file adds folders, but the .pth files in them (an editable install of the checkout) are not read
    (site_packages(folder) / "others.pth").write_text("\n".join(others))
    return folder


def site_packages(environment: Path) -> Path:
    return environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


@pytest.fixture(scope="module")
def variables() -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "OMP_NUM_THREADS": "1",
    }


def test_the_wheel_has_every_tracked_file(wheel: Path) -> None:
    """And nothing else: no records of this checkout, no tests. The reference weights stay in the checkout."""
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    tracked = {n for n in tracked_files() if n.partition("/")[0] in PACKAGES and (ROOT / n).is_file()}
    tracked = {n for n in tracked if not n.endswith(".pt")}
    assert names == tracked | {"benchmark/COMMIT"}


def test_lab_sh_can_be_executed(environment: Path) -> None:
    assert os.access(site_packages(environment) / "slurm" / "lab.sh", os.X_OK)


def test_a_cell_from_an_empty_folder(
    environment: Path, commit: str, variables: dict[str, str], tmp_path: Path
) -> None:
    """Train a cell of the user's table and use the other verbs; nothing is written to the environment."""
    before = {p for p in site_packages(environment).rglob("*") if p.is_file()}

    def kd_tables(*arguments: str) -> str:
        return run([environment / "bin" / "kd-tables", *arguments], tmp_path, variables)

    assert kd_tables("--version") == f"kd-tables {VERSION} (commit {commit})\n"
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "mine.toml").write_text(TABLE)
    kd_tables("run", "mine", "--methods", "kd", *SMALL, "--set", "recipe.epochs=1")
    records = sorted(tmp_path.glob("results/runs/**/record.json"))
    assert len(records) == 3, "the teacher, the student and KD"
    assert all(f'"commit": "{commit}"' in path.read_text() for path in records)
    verbs = {
        "table": ["table", "mine", *SMALL, "--set", "recipe.epochs=1"],
        "diff": ["diff", "crd-table1", *SMALL],
        "methods": ["methods"],
        "published": ["published", "--pair", "resnet56:resnet20", "--method", "kd"],
    }
    printed = json.loads(
        run([environment / "bin" / "python", "-c", VERBS, json.dumps(verbs)], tmp_path, variables)
    )
    assert "KD" in printed["table"] and (tmp_path / "tables" / "out").is_dir()
    assert "KD" in printed["diff"] and "kd" in printed["methods"] and "70.66" in printed["published"]
    assert {p for p in site_packages(environment).rglob("*") if p.is_file()} == before


def test_modules_and_data_come_from_the_environment(
    environment: Path, variables: dict[str, str], tmp_path: Path
) -> None:
    code = """
import sys
from pathlib import Path
import results
import models.kernels
from benchmark.__main__ import parser
from benchmark.spec import matrix
from results.published import reader
from results.store import REFERENCE, read_records
from slurm import snapshot
from slurm.cluster import cluster_names
from tables.report import PAGE

parser()
assert results.default_folder() == Path.cwd() / "results" / "runs", results.default_folder()
assert "crd-table1" in matrix.table_names() and "lab" in cluster_names()
assert models.kernels.SOURCE.is_file() and (PAGE / "page.css").is_file()
assert len(reader.numbers()) > 3000 and read_records(REFERENCE)[0]
copy = snapshot.take(Path("snapshots"))
assert (copy / "models" / "norm.c").is_file() and (copy / "benchmark" / "COMMIT").is_file()
for module in list(sys.modules.values()):
    if getattr(module, "__file__", None):
        print(module.__file__)
"""
    files = run([environment / "bin" / "python", "-c", code], tmp_path, variables).splitlines()
    installed = site_packages(environment)
    for name in PACKAGES:
        assert any(Path(f).is_relative_to(installed / name) for f in files), name
        assert not any(Path(f).is_relative_to(ROOT / name) for f in files), name


def test_clusters_of_the_working_folder(environment: Path, variables: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "mine.toml").write_text('partition = "long"\ngpus = 0\n')
    command = [environment / "bin" / "kd-tables", "submit", "crd-table1", "--cluster", "mine", "--dry-run"]
    script = run([*command, "--pairs", "resnet56:resnet20"], tmp_path, variables)
    assert "#SBATCH --partition=long" in script and str(tmp_path / "results" / "runs") in script
