"""The lock pins what pyproject.toml needs, and the recipes of containers are sound. Nothing is built."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
OF_TORCH = {"torch", "torchvision"}
DOCKERFILE, DEFINITION = (ROOT / "containers" / name for name in ("Dockerfile", "kd-tables.def"))


def pins(text: str) -> dict[str, str]:
    """Return versions by package."""
    return dict(re.findall(r"^([a-zA-Z0-9_.-]+)==([^\s\\;]+)", text, re.MULTILINE))


def test_every_dependency_is_pinned_with_a_hash() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["safetensors"]]
    names = {re.split(r"[<>=]", requirement)[0] for requirement in needed}
    locked = pins(LOCK)
    assert names - OF_TORCH <= locked.keys(), "make lock"
    assert not {name for name in locked if name in OF_TORCH or name.startswith(("nvidia-", "cuda-"))}
    blocks = re.split(r"^(?=[a-zA-Z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(locked)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    assert "://" not in LOCK


def test_the_lock_and_the_constraints_agree() -> None:
    constraints, locked = pins((ROOT / "constraints.txt").read_text(encoding="utf-8")), pins(LOCK)
    shared = constraints.keys() & locked.keys()
    assert len(shared) > 5 and {name: constraints[name] for name in shared} == {
        name: locked[name] for name in shared
    }


def test_recipes_name_what_exists() -> None:
    copied = re.findall(r"^COPY (\S+) ", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert copied == ["requirements.lock", "."] and all((ROOT / source).exists() for source in copied)
    base = re.findall(r"^(?:ARG BASE=|From: )(\S+)$", _both(), re.MULTILINE)
    assert len(base) == 2 and base[0] == base[1]
    constraints = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert f":{constraints['torch']}-" in base[0]
    assert _both().count("--require-hashes -r /opt/kd-tables/requirements.lock") == 2


def _both() -> str:
    return DOCKERFILE.read_text(encoding="utf-8") + DEFINITION.read_text(encoding="utf-8")


@pytest.mark.parametrize("section", ["%post", "%runscript"])
def test_the_definition_is_a_shell_script(section: str) -> None:
    text = DEFINITION.read_text(encoding="utf-8").partition(f"\n{section}\n")[2].partition("\n%")[0]
    assert text.strip()
    subprocess.run(["sh", "-n"], input=text, text=True, check=True, timeout=30)
