"""Where a number comes from: versions, commit, processor, host and job. Records hold it."""

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
    """The processor's model, as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what computes."""
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
    """Commit of the code and whether the tree was dirty. A snapshot (see slurm/) carries its own in the file `SNAPSHOT`."""
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


def where() -> dict[str, Any]:
    """Host, and the Slurm job and node if there is one."""
    return {
        "host": socket.gethostname(),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "node": os.environ.get("SLURMD_NODENAME", ""),
    }
