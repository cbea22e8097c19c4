"""Which run was submitted in which job: one file an array, under `<results>/.slurm/`.

    .slurm/lock              who is submitting now (a claim: it does not outlive its holder)
           arrays/NAME.json  what is in an array: its job id, its packs (the runs' keys, in the order of the array), what it waits for
           jobs/NAME/        submitit's folder of the submission: batch scripts, pickles, the jobs' output
           snapshots/HASH/   the code that jobs run

An array's file is written before the array is submitted, without a job id, and again with it. If the submitter dies in between, the
array is found again by its job name, which is the file's.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.errors import InputError
from results.files import Claim, read_json, tail, write_json
from slurm import commands
from slurm.commands import Queued


@dataclass(frozen=True)
class Array:
    """A submitted array (or a lone job). packs: the runs' keys of each element; depends: job ids that it waits for."""

    name: str
    table: str
    cluster: str
    folder: str
    packs: tuple[tuple[str, ...], ...]
    depends: tuple[str, ...] = ()
    job: str = ""
    time: float = 0.0
    snapshot: str = ""
    user: str = ""

    def ids(self) -> list[str]:
        """The elements' job ids ([] before the array has one)."""
        if not self.job:
            return []
        return [self.job] if len(self.packs) == 1 else [f"{self.job}_{i}" for i in range(len(self.packs))]


def home(results: Path) -> Path:
    return results / ".slurm"


def write(results: Path, array: Array) -> None:
    write_json(home(results) / "arrays" / f"{array.name}.json", asdict(array))


def forget(results: Path, array: Array) -> None:
    (home(results) / "arrays" / f"{array.name}.json").unlink(missing_ok=True)


def arrays(results: Path) -> list[Array]:
    """All arrays, oldest first (names begin with the time). A damaged file is passed over."""
    found = []
    for path in sorted((home(results) / "arrays").glob("*.json")):
        try:
            raw: dict[str, Any] = read_json(path)
            found.append(
                Array(
                    **{
                        **raw,
                        "packs": tuple(tuple(p) for p in raw["packs"]),
                        "depends": tuple(raw["depends"]),
                    }
                )
            )
        except (ValueError, TypeError, KeyError):
            continue
    return sorted(found, key=lambda a: (a.time, a.name))


@contextlib.contextmanager
def lock(
    results: Path, say: Callable[[str], None] = lambda text: None, patience: float = 3600
) -> Iterator[None]:
    """Only one submits into a results folder at a time; others wait. A dead holder's lock is taken over (see `results.files.Claim`)."""
    path = home(results) / "lock"
    until, told = time.monotonic() + patience, False
    while (claim := Claim.take(path, "submit")) is None:
        holder = Claim.holder(path) or {}
        if not told:
            say(f"waiting: process {holder.get('pid')} on {holder.get('host')} is submitting into {results}")
            told = True
        if time.monotonic() > until:
            who = f"process {holder.get('pid')} on {holder.get('host')}"
            raise InputError(
                f"{who} has been submitting into {results} for long; allowed: to wait, or to end it"
            )
        time.sleep(0.3)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(10):
            claim.beat()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        claim.release()


@dataclass(frozen=True)
class Place:
    """Where a run is in the queue: the job, its array, the index in it."""

    job: Queued
    array: Array
    index: int


def places(results: Path, known: list[Array] | None = None) -> dict[str, Place]:
    """Every run that a job in the queue will train, or is training: key -> place. Raises `SlurmError` if Slurm does not answer."""
    known = arrays(results) if known is None else known
    if not known:
        return {}
    jobs: dict[str, dict[str, Queued]] = {}
    for q in commands.squeue([a.name for a in known] if len(known) < 2000 else ()):
        jobs.setdefault(q.name, {})[q.id] = q
    found: dict[str, Place] = {}
    for array in known:
        live = jobs.get(array.name)
        if not live:
            continue
        if not array.job:  # its submitter died before it could write the id down
            array = replace(array, job=next(iter(live)).partition("_")[0])
        for index, job_id in enumerate(array.ids()):
            if job := live.get(job_id):
                found.update((key, Place(job, array, index)) for key in array.packs[index])
    return found


def queued(results: Path) -> dict[str, str]:
    """Runs whose job is in the queue: key -> `123_4 PENDING (Priority)`. Empty if Slurm cannot be asked."""
    try:
        return {k: describe(p.job) for k, p in places(results).items()}
    except commands.SlurmError:
        return {}


def describe(job: Queued) -> str:
    where = f" on {job.node}" if job.node else f" ({job.reason})" if job.reason not in ("", "None") else ""
    return f"{job.id} {job.state}{where}"


def last_job(results: Path, key: str) -> tuple[str, Path] | None:
    """The id of the latest job that a run was submitted in, and the file of its error output."""
    for array in reversed(arrays(results)):
        for job_id, pack in zip(array.ids(), array.packs, strict=False):
            if key in pack:
                return job_id, Path(array.folder) / f"{job_id}_0_log.err"
    return None


def last_words(path: Path, lines: int = 3) -> list[str]:
    """The end of a job's output."""
    return [line for line in tail(path, lines) if line.strip()]
