"""Slurm's commands: its settings, its queue, its accounting. This module knows nothing about runs."""

from __future__ import annotations

import functools
import getpass
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.errors import InputError

WITHOUT_SLURM = "`run TABLE` trains on this machine, and `submit --dry-run` shows what would be submitted"
ENDED_STATES = (
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
"""States of jobs that squeue still lists although they have ended."""

STARTED_STATES = ("CONFIGURING", "RUNNING")


class SlurmError(InputError):
    """A Slurm command failed. The message is one line."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output or message
        """What the command printed on standard error."""


def call(*command: str, timeout: float = 120, text: str | None = None) -> str:
    """Run a Slurm command and return its standard output. text: its standard input. Raises `SlurmError`."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{command[0]}: {error}") from error
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise SlurmError(f"{command[0]}: {reason}", done.stderr)
    return done.stdout


def why_unavailable() -> str:
    """Return why nothing can be submitted from here, "" if Slurm is installed and answers."""
    missing = [c for c in ("sbatch", "srun", "squeue", "scontrol", "sinfo") if shutil.which(c) is None]
    if missing:
        return f"no Slurm here: {', '.join(missing)} not on PATH (submit from a login node of the cluster)"
    try:
        call("scontrol", "ping", timeout=60)
    except SlurmError as error:
        return f"Slurm's controller does not answer ({error})"
    return ""


def require_slurm() -> None:
    """Raise `InputError` if Slurm cannot be used from here."""
    if reason := why_unavailable():
        raise InputError(f"{reason}; {WITHOUT_SLURM}")


@dataclass(frozen=True)
class ClusterLimits:
    """Settings of a cluster that limit a submission."""

    max_array: int
    """Most jobs of one array."""
    max_jobs: int
    """Most jobs in the queue, of all users."""
    accounting: bool
    """Whether sacct works."""
    partitions: tuple[str, ...]


def cluster_limits() -> ClusterLimits:
    """Ask Slurm for its settings. Raises `SlurmError` if it does not answer."""
    config = dict(re.findall(r"^(\w+)\s*= (.*)$", call("scontrol", "show", "config"), re.MULTILINE))
    return ClusterLimits(
        # an array's largest index is MaxArraySize - 1
        max_array=max(int(config.get("MaxArraySize", "1001")), 1),
        max_jobs=int(config.get("MaxJobCount", "10000")),
        accounting="none" not in config.get("AccountingStorageType", "none").strip(),
        partitions=tuple(dict.fromkeys(call("sinfo", "-h", "-a", "-o", "%R").split())),
    )


def submit_limit() -> int | None:
    """Return how many jobs accounting allows this user in the queue; None if it sets no limit."""
    try:
        text = call(
            "sacctmgr", "-nP", "show", "assoc", f"user={getpass.getuser()}", "format=MaxSubmit,GrpSubmit"
        )
    except (SlurmError, OSError, KeyError):
        return None
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    return min(numbers) if numbers else None


@dataclass(frozen=True)
class QueuedJob:
    """A job in the queue, waiting or running."""

    id: str
    """`123`, or `123_4` for an element of an array."""
    name: str
    state: str
    """PENDING, RUNNING, ..."""
    node: str
    reason: str
    """Why it waits."""
    user: str

    @property
    def has_started(self) -> bool:
        """Whether it has a node: it runs, or will in a moment."""
        return self.state in STARTED_STATES


def squeue(names: Sequence[str] = ()) -> list[QueuedJob]:
    """Return the jobs in the queue, with each element of an array as a separate job. Raises `SlurmError`.

    names: only jobs with these names. Without names, the jobs of all users.
    """
    selection = ("-n", ",".join(names)) if names else ()
    text = call("squeue", "-h", "-a", "-r", *selection, "-o", "%i|%j|%T|%N|%r|%u")
    jobs = (QueuedJob(*line.split("|", 5)) for line in text.splitlines() if line.count("|") >= 5)
    return [job for job in jobs if job.state not in ENDED_STATES]


def sacct(ids: Sequence[str]) -> dict[str, str]:
    """Return the states of jobs from accounting, by id. Empty without accounting."""
    if not ids or shutil.which("sacct") is None:
        return {}
    try:
        text = call("sacct", "-nPX", "-o", "JobID,State,ExitCode", "-j", ",".join(ids))
    except SlurmError:
        return {}
    return {
        job: f"{state} (exit code {code})"
        for job, state, code in (line.split("|")[:3] for line in text.splitlines() if line.count("|") >= 2)
    }


def scancel(ids: Sequence[str]) -> None:
    """Cancel jobs, 500 in a call. A job that has just ended is not an error."""
    for start in range(0, len(ids), 500):
        try:
            call("scancel", *ids[start : start + 500])
        except (
            SlurmError
        ) as error:  # scancel has one exit code for all errors, so only the text tells them apart
            if "Invalid job id" not in str(error) and "already" not in str(error):
                raise


@functools.cache
def user_name() -> str:
    """Return the name of the user who submits."""
    return getpass.getuser()
