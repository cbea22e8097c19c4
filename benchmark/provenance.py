"""Provenance of a result: versions, commit, processor, host and Slurm job. Every record holds it."""

from __future__ import annotations

import functools
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import torch

VERSION = "0.1.0"
"""The version of kd-tables. pyproject.toml reads it here."""
COMMIT_FILE = "COMMIT"
"""Beside this module, in an installed package and in a snapshot: `<commit> clean` or `<commit> dirty`."""
UNKNOWN = "unknown"


def cpu_name() -> str:
    """Return the processor's model name, as the system reports it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python, torch, NumPy and CUDA, and the platform."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "cuda": torch.version.cuda or "",
        "platform": sys.platform,
    }


def git_state() -> dict[str, Any]:
    """Return the commit of the running code and whether it was modified: `{"commit": ..., "dirty": ...}`.

    A wheel and a snapshot for jobs (see `slurm.snapshot`) carry this in the file `benchmark/COMMIT`; in a
    checkout, git is asked. The commit is "unknown" if git does not track this file: in a virtual environment
    inside somebody's repository, for example, the commit of that repository would say nothing about this
    code. Git is asked once in a process; only if it gave no answer (no `git` in PATH at that moment, for
    example), the next call asks again.
    """
    try:
        return _known_state()
    except (OSError, subprocess.CalledProcessError):
        return {"commit": UNKNOWN, "dirty": None}


@functools.cache
def _known_state() -> dict[str, Any]:
    """Return `git_state()`, or raise what git's call raised."""
    folder = Path(__file__).resolve().parent
    if (folder / COMMIT_FILE).is_file():
        commit, _, state = (folder / COMMIT_FILE).read_text(encoding="utf-8").strip().partition(" ")
        return {"commit": commit, "dirty": None if commit == UNKNOWN else state == "dirty"}

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("ls-files", "--error-unmatch", Path(__file__).name)
    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes)}


def version_line() -> str:
    """Return the version and the commit, as `--version` prints them."""
    state = git_state()
    return f"kd-tables {VERSION} (commit {state['commit']}{', modified' if state['dirty'] else ''})"


def where() -> dict[str, Any]:
    """Return the host name, and the Slurm job and node ("" outside Slurm)."""
    return {
        "host": socket.gethostname(),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "node": os.environ.get("SLURMD_NODENAME", ""),
    }
