"""Build the package as pyproject.toml says, and add the commit it was built from as `benchmark/COMMIT`."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent


class BuildWithCommit(build_py):
    """Build with `benchmark/COMMIT`. An editable install has none: it asks git."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            write_commit(Path(self.build_lib))


class SdistWithCommit(sdist):
    """Make a source distribution with `benchmark/COMMIT`, for the wheels that are built from it."""

    def make_release_tree(self, base_dir: str, files: Sequence[str]) -> None:
        super().make_release_tree(base_dir, files)
        write_commit(Path(base_dir))


def write_commit(folder: Path) -> None:
    """Write `<commit> clean|dirty` for `benchmark.provenance.git_state`; nothing without a known commit."""
    if label := commit_label():
        (folder / "benchmark" / "COMMIT").write_text(label, encoding="utf-8")


def commit_label() -> str:
    """Return the line of `benchmark/COMMIT`, "" outside a checkout and a source distribution."""
    unpacked = ROOT / "benchmark" / "COMMIT"
    if unpacked.is_file():
        return unpacked.read_text(encoding="utf-8")

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "setup.py")
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{commit} {'dirty' if changes else 'clean'}\n"


setup(cmdclass={"build_py": BuildWithCommit, "sdist": SdistWithCommit})
