"""The provenance of results: versions, commit, processor, host and job. Every record contains it."""

from __future__ import annotations

import functools
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def cpu_name() -> str:
    """Return the name of the processor's model."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute, and the platform."""
    import numpy

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "cuda": torch.version.cuda or "",
        "platform": sys.platform,
    }


@functools.cache
def git_state() -> dict[str, Any]:
    """Return the commit of the code, and whether there were uncommitted changes (`dirty`).

    A snapshot of the code (see slurm/snapshot.py) has both in its file `SNAPSHOT`.
    """
    root = Path(__file__).resolve().parents[1]
    snapshot = root / "SNAPSHOT"
    if snapshot.is_file():
        commit, _, dirty = snapshot.read_text().strip().partition(" ")
        return {"commit": commit, "dirty": dirty == "dirty"}
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": None}
    return {"commit": commit, "dirty": bool(status.stdout.strip())}


def machine() -> dict[str, Any]:
    """Return the host, and the Slurm job and node ("" outside a job)."""
    return {
        "host": socket.gethostname(),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "node": os.environ.get("SLURMD_NODENAME", ""),
    }
