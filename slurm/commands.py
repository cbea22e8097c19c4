"""What Slurm is asked: its settings, its queue, its accounting. Nothing here knows of runs."""

from __future__ import annotations

import functools
import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.errors import InputError

LOCAL_WAY = "`python -m benchmark run TABLE` (make reproduce-table1) trains on this machine, `submit --dry-run` shows what would be submitted"
GONE = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
)


class SlurmError(InputError):
    """A command of Slurm failed; its message in one line."""


def call(*command: str, timeout: float = 120, **env: str) -> str:
    """Standard output of a command of Slurm. Raises `SlurmError`."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **env}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise SlurmError(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout


def missing() -> str:
    """Why nothing can be submitted here, or "": Slurm's commands and a controller that answers are needed."""
    lost = [c for c in ("sbatch", "srun", "squeue", "scontrol", "sinfo") if shutil.which(c) is None]
    if lost:
        return f"no Slurm here: {', '.join(lost)} not on PATH (submit from a login node of the cluster)"
    try:
        call("scontrol", "ping", timeout=60)
    except SlurmError as error:
        return f"Slurm's controller does not answer ({error})"
    return ""


def require() -> None:
    if why := missing():
        raise InputError(f"{why}; allowed: {LOCAL_WAY}")


@dataclass(frozen=True)
class Site:
    """Settings of the cluster. max_array: most jobs of an array. max_jobs: most jobs of the whole cluster. accounting: whether sacct works."""

    max_array: int
    max_jobs: int
    accounting: bool
    partitions: tuple[str, ...]


def site() -> Site:
    """Raises `SlurmError` if Slurm does not answer."""
    config = dict(re.findall(r"^(\w+)\s*= (.*)$", call("scontrol", "show", "config"), re.MULTILINE))
    partitions = tuple(dict.fromkeys(call("sinfo", "-h", "-a", "-o", "%R").split()))
    accounting = "none" not in config.get("AccountingStorageType", "none").strip()
    # an array's highest index is MaxArraySize - 1
    return Site(
        max(int(config.get("MaxArraySize", "1001")), 1),
        int(config.get("MaxJobCount", "10000")),
        accounting,
        partitions,
    )


def submit_limit() -> int | None:
    """Most jobs that this user may have in the queue, as accounting's association says; None if nothing is said."""
    try:
        text = call(
            "sacctmgr", "-nP", "show", "assoc", f"user={getpass.getuser()}", "format=MaxSubmit,GrpSubmit"
        )
    except (SlurmError, OSError, KeyError):
        return None
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    return min(numbers) if numbers else None


@dataclass(frozen=True)
class Queued:
    """A job in the queue. id: `123` or `123_4`; state: PENDING, RUNNING, ...; reason: why it waits."""

    id: str
    name: str
    state: str
    node: str
    reason: str
    user: str


def squeue(names: Sequence[str] = ()) -> list[Queued]:
    """The jobs in the queue (of everyone; of these job names, if given), an element of an array each. Raises `SlurmError`."""
    own = ("-n", ",".join(names)) if names else ()
    text = call("squeue", "-h", "-a", "-r", *own, "-o", "%i|%j|%T|%N|%r|%u")
    found = (Queued(*line.split("|", 5)) for line in text.splitlines() if line.count("|") >= 5)
    return [q for q in found if q.state not in GONE]


def sacct(ids: Sequence[str]) -> dict[str, str]:
    """What accounting says of jobs: id -> state. Empty without accounting."""
    if not ids or shutil.which("sacct") is None:
        return {}
    try:
        text = call("sacct", "-nPX", "-o", "JobID,State,ExitCode", "-j", ",".join(ids))
    except SlurmError:
        return {}
    return {
        i: f"{state} (exit code {code})"
        for i, state, code in (line.split("|")[:3] for line in text.splitlines() if line.count("|") >= 2)
    }


def scancel(ids: Sequence[str]) -> None:
    """Cancels jobs, many in a call; a job that has just ended is no error."""
    for start in range(0, len(ids), 500):
        try:
            call("scancel", *ids[start : start + 500])
        except SlurmError as error:
            if "Invalid job id" not in str(error) and "already" not in str(error):
                raise


@functools.cache
def me() -> str:
    return getpass.getuser()
