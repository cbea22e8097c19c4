"""Builds the package as pyproject.toml says, and writes the commit it was built from into
`benchmark/COMMIT`."""

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithCommit(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode and (label := commit_label()):
            Path(self.build_lib, "benchmark", "COMMIT").write_text(label, encoding="utf-8")


def commit_label() -> str:
    """`<commit> clean|dirty`, or "" if git does not track this folder. `benchmark.provenance.git_state` reads
    it."""
    root = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "setup.py")
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{commit} {'dirty' if changes else 'clean'}\n"


setup(cmdclass={"build_py": BuildWithCommit})
