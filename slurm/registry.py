"""The registry of submissions: which run was submitted in which job. It is in `<results>/.slurm/`.

    .slurm/lock              held by the process that is submitting now (a claim: it ends with that process)
           arrays/NAME.json  one array: its job id, its packs (each a list of run keys), its dependencies
           cancelled/ID      an empty file: `cancel` has cancelled this job
           jobs/NAME/        submitit's folder of one submission: batch scripts, pickles, the jobs' output
           snapshots/HASH/   the code that jobs run

An array's file is written before the array is submitted, without a job id, and again with the id. If the
submitting process dies in between, the array can still be found by its job name, which is the file's name.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.errors import InputError
from results.claims import Claim, describe, heartbeat
from results.files import read_json, tail, write_json
from slurm import commands
from slurm.commands import QueuedJob


@dataclass(frozen=True, kw_only=True)
class JobArray:
    """A submitted array. An array of one pack is a single job."""

    name: str
    table: str
    cluster: str
    folder: str
    """submitit's folder."""
    packs: tuple[tuple[str, ...], ...]
    """The runs' keys of each element."""
    depends: tuple[str, ...] = ()
    """Ids of the jobs that it waits for."""
    job: str = ""
    """Its job id; "" until it is submitted."""
    time: float = 0.0
    """When it was submitted, in seconds since the epoch."""
    snapshot: str = ""
    """The code that its jobs run."""
    user: str = ""

    def ids(self) -> list[str]:
        """Return the job id of each element; [] until the array is submitted."""
        if not self.job:
            return []
        return [self.job] if len(self.packs) == 1 else [f"{self.job}_{i}" for i in range(len(self.packs))]


def registry_folder(results: Path) -> Path:
    """Return the registry's folder of a results folder."""
    return results / ".slurm"


def _array_file(results: Path, array: JobArray) -> Path:
    return registry_folder(results) / "arrays" / f"{array.name}.json"


def write_array(results: Path, array: JobArray) -> None:
    """Add an array to the registry, or replace it."""
    write_json(_array_file(results, array), asdict(array))


def remove_array(results: Path, array: JobArray) -> None:
    """Remove an array from the registry."""
    _array_file(results, array).unlink(missing_ok=True)


def read_arrays(results: Path) -> list[JobArray]:
    """Return all arrays, oldest first. Damaged files are skipped."""
    arrays = []
    for path in sorted((registry_folder(results) / "arrays").glob("*.json")):
        try:
            raw: dict[str, Any] = read_json(path)
            packs, depends = tuple(tuple(pack) for pack in raw["packs"]), tuple(raw["depends"])
            array = JobArray(**{**raw, "packs": packs, "depends": depends})
            if not _has_right_types(array):
                continue
            arrays.append(array)
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return sorted(arrays, key=lambda array: (array.time, array.name))


def _has_right_types(array: JobArray) -> bool:
    texts = (array.name, array.table, array.cluster, array.folder, array.job, array.snapshot, array.user)
    keys = [key for pack in array.packs for key in pack]
    return (
        all(isinstance(text, str) for text in (*texts, *array.depends, *keys))
        and isinstance(array.time, int | float)
        and math.isfinite(array.time)
    )


@contextlib.contextmanager
def submission_lock(
    results: Path, note: Callable[[str], None] = lambda text: None, patience: float = 3600
) -> Iterator[None]:
    """Hold the lock of a results folder: one process submits at a time, others wait.

    note: receives a line for the user if another process holds the lock. patience: seconds to wait before an
    `InputError`. The lock of a dead process is taken over (see `results.claims`).
    """
    path = registry_folder(results) / "lock"
    until, noted = time.monotonic() + patience, False
    while (claim := Claim.take(path, "submit")) is None:
        process = describe(Claim.holder(path))
        if not noted:
            note(f"waiting: {process} is submitting into {results}")
            noted = True
        if time.monotonic() > until:
            raise InputError(
                f"{process} has been submitting into {results} for more than {patience:g} seconds; "
                "wait until it ends, or end it"
            )
        time.sleep(0.3)
    if claim.notice:
        note(claim.notice)
    try:
        with heartbeat([claim]):
            yield
    finally:
        claim.release()


@dataclass(frozen=True)
class QueuedRun:
    """The job that a queued run belongs to."""

    job: QueuedJob
    array: JobArray
    index: int
    """The job's index in the array."""


def queued_runs(results: Path, arrays: list[JobArray] | None = None) -> dict[str, QueuedRun]:
    """Return the runs of all jobs in the queue, waiting or running, by key. Raises `SlurmError`.

    arrays: the registry's arrays, if they have been read already.
    """
    arrays = read_arrays(results) if arrays is None else arrays
    if not arrays:
        return {}
    jobs_of_name: dict[str, dict[str, QueuedJob]] = {}
    for job in commands.squeue([a.name for a in arrays] if len(arrays) < 2000 else ()):
        jobs_of_name.setdefault(job.name, {})[job.id] = job
    queued: dict[str, QueuedRun] = {}
    for array in arrays:
        jobs = jobs_of_name.get(array.name)
        if not jobs:
            continue
        if not array.job:  # the submitting process died before it could write the id
            array = replace(array, job=next(iter(jobs)).partition("_")[0])
        for index, job_id in enumerate(array.ids()):
            if job_id in jobs:
                queued.update((key, QueuedRun(jobs[job_id], array, index)) for key in array.packs[index])
    return queued


def queued_jobs(results: Path) -> dict[str, QueuedJob]:
    """Return the job of each run in the queue, by key. Empty if Slurm does not answer."""
    try:
        return {key: run.job for key, run in queued_runs(results).items()}
    except commands.SlurmError:
        return {}


def queue_lines(results: Path) -> dict[str, str]:
    """Return a `queue_line` for each run in the queue, by key. Empty if Slurm does not answer."""
    return {key: queue_line(job) for key, job in queued_jobs(results).items()}


def mark_cancelled(results: Path, ids: Iterable[str]) -> None:
    """Remember that these jobs were cancelled by their user, so that they do not count as lost."""
    folder = registry_folder(results) / "cancelled"
    folder.mkdir(parents=True, exist_ok=True)
    for job_id in ids:
        (folder / job_id).touch()


def was_cancelled(results: Path, job_id: str) -> bool:
    """Return whether `mark_cancelled` was called for a job."""
    return (registry_folder(results) / "cancelled" / job_id).exists()


def latest_jobs(arrays: Iterable[JobArray]) -> dict[str, tuple[str, JobArray]]:
    """Return the latest job of each run, by key: its id and its array. arrays: oldest first."""
    latest: dict[str, tuple[str, JobArray]] = {}
    for array in arrays:
        for job_id, pack in zip(array.ids(), array.packs, strict=False):
            latest.update((key, (job_id, array)) for key in pack)
    return latest


def queue_line(job: QueuedJob) -> str:
    """Return `123_4 RUNNING on node1`, or `123_4 PENDING (Priority)`."""
    if job.node:
        return f"{job.id} {job.state} on {job.node}"
    return f"{job.id} {job.state}" + (f" ({job.reason})" if job.reason not in ("", "None") else "")


def last_job(results: Path, key: str) -> tuple[str, Path] | None:
    """Return the id of the latest job of a run and its error output; None if the run was never submitted."""
    for array in reversed(read_arrays(results)):
        for job_id, pack in zip(array.ids(), array.packs, strict=False):
            if key in pack:
                return job_id, error_output(array.folder, job_id)
    return None


def error_output(folder: str, job_id: str) -> Path:
    """Return the file to which a job writes its errors. folder: submitit's."""
    return Path(folder) / f"{job_id}_0_log.err"


def last_lines(path: Path, number: int = 3) -> list[str]:
    """Return the last lines of a job's output, without empty ones."""
    return [line for line in tail(path, number) if line.strip()]
